from __future__ import annotations

import dataclasses

import pytest

from e2rank_client.verify import Golden, compare, golden_profiles, read_golden

GOLDEN = Golden(
    source="s",
    listwise_template="",
    queries=("q1", "q2"),
    documents=("d1", "d2"),
    scores=((0.5, 0.25), (0.0, 1.0)),
    tolerance=0.003,
)


def test_scores_within_the_tolerance_agree_whatever_the_sign() -> None:
    comparisons = compare(GOLDEN, [[0.5029, 0.2471], [0.0, 1.0]])
    assert [comparison.agrees for comparison in comparisons] == [True] * 4
    assert [(c.query, c.document) for c in comparisons] == [
        ("q1", "d1"),
        ("q1", "d2"),
        ("q2", "d1"),
        ("q2", "d2"),
    ]


def test_a_score_beyond_the_tolerance_disagrees_and_says_by_how_much() -> None:
    wrong = [c for c in compare(GOLDEN, [[0.5, 0.25], [0.0, 0.99]]) if not c.agrees]
    assert [(c.query, c.document) for c in wrong] == [("q2", "d2")]
    assert wrong[0].difference == pytest.approx(-0.01)


def test_nan_never_agrees() -> None:
    comparisons = compare(GOLDEN, [[float("nan"), 0.25], [0.0, 1.0]])
    assert [comparison.agrees for comparison in comparisons] == [False, True, True, True]


@pytest.mark.parametrize("served", [[], [[0.5, 0.25]], [[0.5], [0.0]]])
def test_scores_of_another_shape_are_refused(served: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="zip"):
        compare(GOLDEN, served)


def test_the_shipped_golden_scores_are_complete() -> None:
    assert "e2rank-0.6b" in golden_profiles()
    for profile in golden_profiles():
        golden = read_golden(profile)
        assert golden.source.startswith("https://")
        assert 0 < golden.tolerance <= 0.01
        assert compare(golden, golden.scores)
        assert all(comparison.agrees for comparison in compare(golden, golden.scores))


def test_the_published_scores_of_e2rank_are_those_of_its_readme() -> None:
    golden = read_golden("e2rank-0.6b")
    assert golden.queries == ("What is the capital of China?", "Explain gravity")
    assert golden.scores[0] == pytest.approx((0.8517, 0.2404), abs=1e-4)
    assert golden.scores[1] == pytest.approx((0.3310, 0.7905), abs=1e-4)
    assert golden.listwise_template == "readme"


def test_a_profile_without_golden_scores_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        read_golden("no-such-profile")


def test_golden_scores_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GOLDEN.tolerance = 1.0  # type: ignore[misc]
