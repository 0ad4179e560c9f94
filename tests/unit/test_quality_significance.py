"""Paired comparison of two rankings."""

from __future__ import annotations

import itertools

import pytest

significance = pytest.importorskip(
    "benchmarks.quality.significance", reason="needs scipy", exc_type=ImportError
)

DIFFERENCES = [0.3, 0.1, -0.05, 0.2, 0.15, 0.02]


def exact_p(differences: list[float]) -> float:
    """Count the sign patterns whose sum is at least as far from zero."""
    seen = abs(sum(differences)) - 1e-12
    signs = list(itertools.product((1, -1), repeat=len(differences)))
    extreme = [abs(sum(s * d for s, d in zip(each, differences, strict=True))) for each in signs]
    return sum(value >= seen for value in extreme) / len(signs)


def pair(differences: list[float]) -> tuple[dict[str, float], dict[str, float]]:
    this = {f"q{n}": 0.5 + value for n, value in enumerate(differences)}
    return this, dict.fromkeys(this, 0.5)


@pytest.mark.parametrize("differences", [DIFFERENCES, [-d for d in DIFFERENCES], [0.1, 0.0, -0.1]])
def test_p_of_few_queries_equals_the_enumeration_of_all_sign_patterns(
    differences: list[float],
) -> None:
    assert significance.compare(*pair(differences)).p == pytest.approx(exact_p(differences))


def test_p_of_many_queries_is_near_the_exact_one_and_the_same_each_time() -> None:
    differences = [value - 0.04 for n in range(3) for value in DIFFERENCES][:14]
    assert 2 ** len(differences) > significance.PERMUTATIONS
    first, second = (significance.compare(*pair(differences)) for _ in range(2))
    assert first == second
    assert first.p == pytest.approx(exact_p(differences), abs=0.01)


def test_rankings_that_are_equal_differ_by_nothing() -> None:
    comparison = significance.compare({"a": 0.5, "b": 0.25}, {"b": 0.25, "a": 0.5})
    assert comparison.p == 1
    difference = comparison.difference
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_a_single_query_proves_nothing() -> None:
    assert significance.compare({"a": 1.0}, {"a": 0.0}).p == 1


def test_the_difference_is_the_mean_over_queries_within_its_interval() -> None:
    difference = significance.compare(*pair(DIFFERENCES)).difference
    assert difference.value == pytest.approx(0.12)
    assert -0.05 <= difference.low < 0.12 < difference.high <= 0.3
    assert difference.iterations == 6


@pytest.mark.parametrize("other", [{"a": 1.0}, {"a": 1.0, "c": 1.0}])
def test_queries_that_are_not_pairs_are_refused(other: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="are not pairs"):
        significance.compare({"a": 1.0, "b": 1.0}, other)
    with pytest.raises(ValueError, match="0 and 0"):
        significance.compare({}, {})
