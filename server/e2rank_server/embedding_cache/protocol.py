"""The embedding cache seam: lossy and bounded; never the only copy of anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from e2rank_server.types import FloatArray


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Counters since start, and the present fill."""

    hits: int
    misses: int
    evictions: int
    entries: int
    resident_bytes: int
    max_bytes: int


class EmbeddingCache(Protocol):
    """Maps keys (see `keys.py`) to vectors of one dimension.

    Fails open: a store that is away or holds rubbish answers with misses, never
    with an error or with a vector other than the one that was put.
    """

    async def lookup(self, keys: Sequence[bytes], out: FloatArray) -> NDArray[np.bool_]:
        """Write the vectors of known keys into their rows of `out`.

        `out` is float32 [keys, dimension]; rows of unknown keys are left as they
        are. Returns bool [keys], true for hits.
        """
        ...

    async def store(self, keys: Sequence[bytes], vectors: FloatArray) -> None:
        """Keep copies of `vectors` (float32 [keys, dimension]) for as long as there is room."""
        ...

    def statistics(self) -> CacheStatistics:
        """Return the counters now."""
        ...
