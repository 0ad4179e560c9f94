"""When requests are due if nobody waits for answers."""

from __future__ import annotations

import random
from collections.abc import Iterator


class PoissonArrivals(Iterator[float]):
    """Seconds since the beginning at which requests are due; the same for the same seed.

    The gaps between them are exponential with mean 1 / `rate`.
    """

    def __init__(self, rate: float, seed: int) -> None:
        self._rate = rate
        self._seed = seed
        self._numbers = random.Random(seed)  # noqa: S311 - a load's arrivals
        self._last = 0.0

    def __next__(self) -> float:
        self._last += self._numbers.expovariate(self._rate)
        return self._last

    def num_due(self, seconds: float) -> int:
        """Return how many are due within so many seconds from the beginning."""
        arrivals = PoissonArrivals(self._rate, self._seed)
        number = 0
        while next(arrivals) <= seconds:
            number += 1
        return number
