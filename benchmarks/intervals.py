"""Medians and their ratios, each with a 95 % interval from a bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 2000
_PERCENTILES = (2.5, 97.5)
_SEED = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure, its 95 % interval, and the number of iterations behind it."""

    value: float
    low: float
    high: float
    iterations: int


def ratio_of_medians(above: Sequence[float], below: Sequence[float]) -> Estimate:
    """Divide the median of one side by that of the other.

    The sides were measured in turns. A pair is resampled together, so that what
    slowed the machine for a while weighs on both.
    """
    if len(above) != len(below) or not above:
        raise ValueError(f"{len(above)} and {len(below)} samples are not pairs")
    numbers = np.random.default_rng(_SEED)
    drawn = numbers.integers(0, len(above), (_RESAMPLES, len(above)))
    ratios = np.median(np.array(above)[drawn], axis=1) / np.median(np.array(below)[drawn], axis=1)
    low, high = np.percentile(ratios, _PERCENTILES)
    value = np.median(above) / np.median(below)
    return Estimate(float(value), float(low), float(high), len(above))


def median(samples: Sequence[float]) -> Estimate:
    """Return the median of samples of one kind."""
    return ratio_of_medians(samples, [1.0] * len(samples))
