"""Whether one ranking is better than another on the same queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import permutation_test

from benchmarks.intervals import Estimate

PERMUTATIONS = 10_000
_RESAMPLES = 10_000
_RESAMPLES_AT_ONCE = 500
_PERCENTILES = (2.5, 97.5)
_SEED = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """`difference` is the mean over queries of this ranking minus the other, with its interval.

    `p` is how often a difference at least as large, up or down, would come about
    if the two rankings were exchangeable query by query.
    """

    difference: Estimate
    p: float


def compare(this: Mapping[str, float], other: Mapping[str, float]) -> Comparison:
    """Compare a measure of two rankings, query by query.

    The test is the two-sided paired permutation test (each query's difference
    keeps or changes its sign): over all sign patterns if there are at most
    PERMUTATIONS, and else over that many drawn ones, by a fixed seed. The 95 %
    interval is the bootstrap's over queries, by percentiles.

    Raises:
        ValueError: The two are not of the same queries, or of none.
    """
    if this.keys() != other.keys() or not this:
        raise ValueError(f"{len(this)} and {len(other)} queries are not pairs")
    differences = np.array([this[query_id] - other[query_id] for query_id in this])
    low, high = np.percentile(_resampled_means(differences), _PERCENTILES)
    difference = Estimate(float(differences.mean()), float(low), float(high), len(differences))
    return Comparison(difference, _p_value(differences))


def _resampled_means(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    numbers = np.random.default_rng(_SEED)
    shape = (_RESAMPLES_AT_ONCE, len(differences))
    return np.concatenate(
        [
            differences[numbers.integers(0, len(differences), shape)].mean(axis=1)
            for _ in range(_RESAMPLES // _RESAMPLES_AT_ONCE)
        ]
    )


def _p_value(differences: NDArray[np.float64]) -> float:
    if len(differences) == 1:
        return 1.0  # scipy wants two; either sign is as far from zero
    test = permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        batch=_RESAMPLES_AT_ONCE,
        rng=np.random.default_rng(_SEED),
    )
    return float(test.pvalue)
