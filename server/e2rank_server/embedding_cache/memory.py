"""The first tier: a byte-bounded arena of vectors in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from e2rank_server.embedding_cache import key_table, s3_fifo
from e2rank_server.embedding_cache.key_table import KeyTable, Slots, Words, signatures_of, words_of
from e2rank_server.embedding_cache.protocol import CacheStatistics, Place
from e2rank_server.embedding_cache.s3_fifo import S3Fifo
from e2rank_server.embedding_cache.values import ElementType, Rows, row_codec
from e2rank_server.types import FloatArray

FIXED_BYTES = key_table.FIXED_BYTES
_INDEX_BYTES_PER_ENTRY = key_table.BYTES_PER_SLOT + s3_fifo.BYTES_PER_SLOT
_MOST_AT_ONCE = 1024
_MOST_RECLAIMED_AHEAD = 128
_IN_MEMORY = np.uint8(Place.MEMORY)
_PURGE_STEP = 4096
"""Slots looked at before other tasks have their turn: about a millisecond."""


def bytes_per_entry(dimension: int, element_type: ElementType) -> int:
    """Return what an entry costs in memory, index included."""
    return row_codec(element_type, dimension).row_bytes + _INDEX_BYTES_PER_ENTRY


class MemoryEmbeddingCache:
    """Vectors stand in one contiguous array of packed rows; which one leaves, `S3Fifo` says.

    A look-up of many keys is one gather, and neither key nor vector is ever a
    Python object. Everything is reserved at once, `FIXED_BYTES` and as many
    entries as fit beside it in `max_bytes`, but the operating system gives it
    memory only as it fills, and it never has to be copied to grow.

    For one event loop. All methods but `purge` run to their end without
    awaiting, so tasks never see each other's half-done work.
    """

    def __init__(
        self,
        dimension: int,
        max_bytes: int,
        element_type: ElementType = ElementType.FLOAT16,
    ) -> None:
        self._dimension = dimension
        self._max_bytes = max_bytes
        self._bytes_per_entry = bytes_per_entry(dimension, element_type)
        self._num_slots = max(0, max_bytes - FIXED_BYTES) // self._bytes_per_entry
        self._codec = row_codec(element_type, dimension)
        self._rows: Rows = np.empty((self._num_slots, self._codec.row_bytes), dtype=np.uint8)
        self._table = KeyTable(self._num_slots)
        self._policy = S3Fifo(self._num_slots)
        self._num_used = 0
        """Slots from this one on were never used."""
        self._free: list[int] = []
        self._entries = self._hits = self._misses = self._evictions = 0

    @property
    def reserved_bytes(self) -> int:
        """Bytes of all that grows with the number of entries; never above `max_bytes`."""
        return self._rows.nbytes + self._table.nbytes + self._policy.nbytes

    async def lookup_memory(self, keys: Sequence[bytes], out: FloatArray) -> NDArray[np.uint8]:
        """See `EmbeddingCache.lookup_memory`."""
        slots = self._table.find(words_of(keys)) if self._entries else np.full(len(keys), -1)
        is_hit = slots >= 0
        hits = int(np.count_nonzero(is_hit))
        self._hits += hits
        self._misses += len(keys) - hits
        if hits == len(keys):
            self._read(slots, out)
        elif hits:
            slots = slots[is_hit]
            vectors = np.empty((hits, self._dimension), dtype=np.float32)
            self._read(slots, vectors)
            out[is_hit] = vectors
        else:
            slots = slots[:0]
        self._policy.hit(slots)
        return is_hit * _IN_MEMORY

    async def lookup_second(
        self, keys: Sequence[bytes], out: FloatArray, places: NDArray[np.uint8]
    ) -> None:
        """See `EmbeddingCache.lookup_second`: memory is all there is."""

    async def store(self, keys: Sequence[bytes], vectors: FloatArray) -> None:
        """See `EmbeddingCache.store`. Vectors that the element type cannot hold are left out."""
        if not self._num_slots:
            return
        # What enters at once evicts at once: so much of it that little but the least used leaves.
        at_once = min(_MOST_AT_ONCE, max(1, self._num_slots // 16))
        for start in range(0, len(keys), at_once):
            part = slice(start, start + at_once)
            self._store(keys[part], self._codec.encode(vectors[part]))

    def as_kept(self, vectors: FloatArray) -> FloatArray:
        """See `EmbeddingCache.as_kept`."""
        kept = np.empty_like(vectors)
        self._codec.decode(self._codec.encode(vectors), kept)
        return kept

    async def purge(self, namespace_tag: bytes) -> None:
        """See `EmbeddingCache.purge`. What is stored while it runs may stay."""
        for start in range(0, self._num_used, _PURGE_STEP):
            slots = self._table.slots_under(namespace_tag, start, start + _PURGE_STEP)
            if len(slots):
                self._forget(slots)
            await asyncio.sleep(0)

    def statistics(self) -> CacheStatistics:
        """See `EmbeddingCache.statistics`."""
        return CacheStatistics(
            hits=self._hits,
            misses=self._misses,
            evictions=self._evictions,
            rejected=0,
            entries=self._entries,
            resident_bytes=self._entries * self._bytes_per_entry,
            max_bytes=self._max_bytes,
        )

    def second_tier_statistics(self) -> None:
        """See `EmbeddingCache.second_tier_statistics`: there is none."""

    def _read(self, slots: Slots, out: FloatArray) -> None:
        self._codec.decode(self._rows.take(slots, axis=0, mode="clip"), out)

    def _store(self, keys: Sequence[bytes], rows: Rows) -> None:
        valid = self._codec.is_valid(rows)
        # A key that comes twice is stored once, with its last vector.
        last = {key: at for at, key in enumerate(keys) if valid[at]}
        words = words_of(list(last))
        rows = rows[list(last.values())]
        slots = self._table.find(words)
        is_new = slots < 0
        # Before room is made for the others, which may evict these.
        self._rows[slots[~is_new]] = rows[~is_new]
        if is_new.any():
            self._insert(words[is_new], rows[is_new])

    def _insert(self, words: Words, rows: Rows) -> None:
        slots = self._take_slots(len(words))
        self._rows[slots] = rows
        self._policy.admit(slots, signatures_of(words))
        self._entries += len(slots)
        displaced = self._table.insert(words, slots)
        if len(displaced):
            self._evictions += len(displaced)
            self._forget(displaced)

    def _take_slots(self, count: int) -> Slots:
        """Return slots for so many new entries; in a full arena, from those that leave."""
        fresh = min(count, self._num_slots - self._num_used)
        slots = np.empty(count, dtype=np.int64)
        slots[:fresh] = np.arange(self._num_used, self._num_used + fresh)
        self._num_used += fresh
        if missing := count - fresh:
            if missing > len(self._free):
                # Ahead of need, since one at a time would cost as much each.
                ahead = min(_MOST_RECLAIMED_AHEAD, self._num_slots // 128)
                self._reclaim(max(missing - len(self._free), ahead))
            slots[fresh:] = self._free[-missing:]
            del self._free[-missing:]
        return slots

    def _reclaim(self, count: int) -> None:
        slots, evicted = self._policy.reclaim(count)
        self._table.remove(slots)
        self._free.extend(slots.tolist())
        self._entries -= evicted
        self._evictions += evicted

    def _forget(self, slots: Slots) -> None:
        self._table.remove(slots)
        self._entries -= self._policy.kill(slots)
