"""The first tier: a byte-bounded arena in memory, evicting the least recently used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from e2rank_server.embedding_cache.protocol import CacheStatistics
from e2rank_server.types import FloatArray

# What an entry costs beside its vector: the key object (33 bytes of header and
# 16 of key) and its place in the ordered index (hash entry, two links, the slot
# number): 187 measured on CPython 3.11 with 100,000 entries, rounded up for the
# index's own growth.
INDEX_BYTES_PER_ENTRY = 256


class MemoryEmbeddingCache:
    """Vectors stand in one contiguous float32 array; the index maps keys to its rows.

    A look-up of many keys is one gather, and no vector is ever a Python object.
    The arena is reserved whole, index included in `max_bytes`, but the operating
    system gives it memory only as it fills, so it never has to be copied to
    grow. All methods run to their end without awaiting, so tasks of one event
    loop never see each other's half-done work.
    """

    def __init__(self, dimension: int, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes_per_entry = dimension * 4 + INDEX_BYTES_PER_ENTRY
        self._max_entries = max_bytes // self._bytes_per_entry
        self._slots: OrderedDict[bytes, int] = OrderedDict()
        self._arena: FloatArray = np.empty((self._max_entries, dimension), dtype=np.float32)
        self._hits = self._misses = self._evictions = 0

    async def lookup(self, keys: Sequence[bytes], out: FloatArray) -> NDArray[np.bool_]:
        """See `EmbeddingCache.lookup`."""
        index = self._slots
        slots = np.fromiter((index.get(key, -1) for key in keys), dtype=np.int64, count=len(keys))
        is_hit: NDArray[np.bool_] = slots >= 0
        hits = int(np.count_nonzero(is_hit))
        self._hits += hits
        self._misses += len(keys) - hits
        if hits == len(keys):
            np.take(self._arena, slots, axis=0, out=out, mode="clip")
        elif hits:
            out[is_hit] = self._arena[slots[is_hit]]
        for key in keys:
            if key in index:
                index.move_to_end(key)
        return is_hit

    async def store(self, keys: Sequence[bytes], vectors: FloatArray) -> None:
        """See `EmbeddingCache.store`."""
        if not self._max_entries:
            return
        for key, vector in zip(keys, vectors, strict=True):
            slot = self._slots.get(key)
            if slot is None:
                slot = self._free_slot()
                self._slots[key] = slot
            self._arena[slot] = vector
            self._slots.move_to_end(key)

    def statistics(self) -> CacheStatistics:
        """See `EmbeddingCache.statistics`."""
        return CacheStatistics(
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
            entries=len(self._slots),
            resident_bytes=len(self._slots) * self._bytes_per_entry,
            max_bytes=self._max_bytes,
        )

    def _free_slot(self) -> int:
        """Return the row for a new entry, evicting the oldest one when the arena is full."""
        if len(self._slots) < self._max_entries:
            return len(self._slots)
        _, slot = self._slots.popitem(last=False)
        self._evictions += 1
        return slot
