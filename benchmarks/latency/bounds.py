"""From seconds to speedups, and to what bare engines would allow: medians with 95 % intervals.

    speedup = LLM_LISTWISE ÷ E2RANK, as a client of the server sees them
    bound   = windows x bare window generation ÷ bare passes

What the server adds to E2RANK lowers the speedup against its bound, and what it
adds to the LLM raises it; both stand beside their own bare passes as well.

The cold bound's passes are the documents' and the prompt's, one after the other.
The server runs them at once. On a CPU, whose cores are busy with either, that
gains little; where it does, the speedup can exceed the bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.intervals import Estimate

TARGET_SHARE_OF_BOUND = 0.9

_RESAMPLES = 2000
_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Seconds of the server and of the bare passes that it stands for, measured in turns."""

    served: Sequence[float]
    bare: Sequence[float]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both methods on the same candidates; the LLM's bare side is all of a query's windows."""

    warm: Pairs
    cold: Pairs
    llm: Pairs


def speedups(compared: Comparison) -> dict[str, Estimate]:
    """Return speedups, their bounds, their shares of these, and each method beside its own passes.

    Pairs are resampled together, the three kinds of pairs independently.
    """
    sides = (compared.warm, compared.cold, compared.llm)
    iterations = min(len(pairs.served) for pairs in sides)
    warm, cold, llm = (_Medians.of(pairs, seed) for seed, pairs in enumerate(sides))
    figures = {"llm_over_windows": llm.served / llm.bare}
    for name, e2rank in (("warm", warm), ("cold", cold)):
        figures[f"{name}_over_passes"] = e2rank.served / e2rank.bare
        speedup, bound = llm.served / e2rank.served, llm.bare / e2rank.bare
        figures[f"{name}_speedup"] = speedup
        figures[f"{name}_bound"] = bound
        figures[f"{name}_share_of_bound"] = speedup / bound
    return {name: _estimate(values, iterations) for name, values in figures.items()}


@dataclass(frozen=True, slots=True)
class _Medians:
    """Of the samples themselves, first, and of samples drawn from them."""

    served: NDArray[np.float64]
    bare: NDArray[np.float64]

    @classmethod
    def of(cls, pairs: Pairs, seed: int) -> _Medians:
        number = len(pairs.served)
        if number != len(pairs.bare) or not number:
            raise ValueError(f"{number} and {len(pairs.bare)} samples are not pairs")
        drawn = np.random.default_rng(seed).integers(0, number, (_RESAMPLES, number))
        own_first = np.vstack([np.arange(number), drawn])
        return cls(*(np.median(np.array(s)[own_first], axis=1) for s in (pairs.served, pairs.bare)))


def _estimate(values: NDArray[np.float64], iterations: int) -> Estimate:
    low, high = np.percentile(values[1:], _PERCENTILES)
    return Estimate(float(values[0]), float(low), float(high), iterations)
