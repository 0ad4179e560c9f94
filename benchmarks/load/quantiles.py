"""Quantiles of all samples, by nearest rank, each with a 95 % interval that assumes no shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.stats import binom

from benchmarks.intervals import Estimate

_TAILS = (0.025, 0.975)


def quantile(samples: Sequence[float], share: float) -> Estimate:
    """Return the smallest sample that at least `share` of all do not exceed.

    How many of n samples are below the true quantile is binomial, which gives the ranks
    between which it lies. Of few samples a high quantile is the largest, and so is the upper
    end of its interval: `iterations` says how many there were.
    """
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    low, high = (int(rank) for rank in binom.ppf(_TAILS, len(ordered), share))
    # 0.95 * 100 is a little more than 95 in floating point.
    rank = math.ceil(round(share * len(ordered), 9))
    return Estimate(
        value=_at(ordered, rank),
        low=_at(ordered, low),
        high=_at(ordered, high + 1),
        iterations=len(ordered),
    )


def ratio(above: Estimate, below: Estimate) -> Estimate:
    """Divide one quantile by another; the interval is as wide as both ends allow."""
    return Estimate(
        value=above.value / below.value,
        low=above.low / below.high,
        high=above.high / below.low,
        iterations=min(above.iterations, below.iterations),
    )


def _at(ordered: Sequence[float], rank: int) -> float:
    """Return the sample of a rank, from 1 on; the ends stand for those beyond."""
    return ordered[min(max(rank, 1), len(ordered)) - 1]
