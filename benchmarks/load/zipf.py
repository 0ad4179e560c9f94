"""Which documents are asked for when a few of them are popular and most are not."""

from __future__ import annotations

import numpy as np

from benchmarks.zipf import popularity

EXPONENT = 0.9
"""As in the cache's benchmark."""


class ZipfNumbers:
    """Numbers from 0 on, the first the most popular, by Zipf's law; the same for the same seed."""

    def __init__(self, num_documents: int, seed: int) -> None:
        self._shares = np.cumsum(popularity(num_documents, EXPONENT))
        self._numbers = np.random.default_rng(seed)

    def draw(self, count: int) -> list[int]:
        """Return so many different numbers in the order in which they were drawn."""
        drawn: dict[int, None] = {}
        while len(drawn) < count:
            found = np.searchsorted(self._shares, self._numbers.random(2 * count), side="right")
            drawn.update(dict.fromkeys(found.tolist()))
        return list(drawn)[:count]
