"""The embedding cache in two tiers: memory, and a larger and slower one behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from e2rank_server.embedding_cache.circuit_breaker import CircuitBreaker
from e2rank_server.embedding_cache.keys import TAG_BYTES
from e2rank_server.embedding_cache.protocol import (
    CacheStatistics,
    EmbeddingCache,
    Place,
    SecondTier,
    SecondTierStatistics,
)
from e2rank_server.embedding_cache.values import ValueCodec
from e2rank_server.embedding_cache.write_behind import WriteBehind
from e2rank_server.types import FloatArray

# Look-ups under way in the second tier, late ones included.
_MAX_ASKED = 256
# Purged namespaces that are remembered, for requests that began before.
_MAX_PURGED = 4096


class TieredEmbeddingCache:
    """Looks in memory first, and in the second tier for what is missing; stores in both.

    The second tier may be slow, away or hold rubbish. A look-up waits for it for
    `timeout_seconds` and then goes on without, and after some such failures in a
    row it is not asked for a while. An answer that comes too late for its request
    still fills the memory. Stored vectors are written to it behind (`WriteBehind`).
    Reading and writing have a breaker each: a full disk can still be read.

    Two requests that miss the same key in memory at once both ask for it: that
    is a key more in a call that is made anyway.

    Use it in the event loop in which it was made. The second tier may serve
    several caches and is closed by who opened it, after them.
    """

    def __init__(
        self,
        first: EmbeddingCache,
        second: SecondTier,
        codec: ValueCodec,
        *,
        timeout_seconds: float = 0.02,
        max_waiting_bytes: int = 64 << 20,
        make_breaker: Callable[[str], CircuitBreaker] = CircuitBreaker,
    ) -> None:
        self._first = first
        self._second = second
        self._codec = codec
        self._timeout_seconds = timeout_seconds
        name = second.place.name.lower()
        self._breaker = make_breaker(f"embedding cache: {name} tier, reading")
        self._writes = WriteBehind(second, make_breaker, max_waiting_bytes)
        self._asked: set[asyncio.Task[_Answer]] = set()
        self._purged: dict[bytes, None] = {}
        self._hits = self._misses = self._rejected = 0
        self._timeouts = self._errors = self._skipped = 0

    async def lookup_memory(self, keys: Sequence[bytes], out: FloatArray) -> NDArray[np.uint8]:
        """See `EmbeddingCache.lookup_memory`."""
        return await self._first.lookup_memory(keys, out)

    async def lookup_second(
        self, keys: Sequence[bytes], out: FloatArray, places: NDArray[np.uint8]
    ) -> None:
        """See `EmbeddingCache.lookup_second`."""
        missing = np.flatnonzero(places == Place.NOWHERE)
        if not len(missing):
            return
        answer = await self._ask([keys[at] for at in missing], out.shape[1])
        if answer is not None:
            found = missing[answer.is_found]
            out[found] = answer.vectors
            places[found] = self._second.place

    async def store(self, keys: Sequence[bytes], vectors: FloatArray) -> None:
        """See `EmbeddingCache.store`."""
        await self._first.store(keys, vectors)
        self._writes.put(keys, self._codec.encode(keys, vectors))

    def as_kept(self, vectors: FloatArray) -> FloatArray:
        """See `EmbeddingCache.as_kept`."""
        return self._first.as_kept(vectors)

    async def purge(self, namespace_tag: bytes) -> None:
        """See `EmbeddingCache.purge`.

        If the second tier is away, its entries go when it is back, provided that
        this process lives until then. What others write there under a purged tag
        may be found, by requests that began before, but does not enter the memory.
        """
        self._purged[namespace_tag] = None
        if len(self._purged) > _MAX_PURGED:
            del self._purged[next(iter(self._purged))]
        await self._first.purge(namespace_tag)
        await self._writes.purge(namespace_tag)

    async def close(self, flush_seconds: float = 2.0) -> None:
        """Write what waits for the second tier, for at most so long."""
        await self._writes.close(flush_seconds)
        for task in self._asked:
            task.cancel()
        if self._asked:
            await asyncio.wait(self._asked)

    def statistics(self) -> CacheStatistics:
        """See `EmbeddingCache.statistics`; what is resident is in memory."""
        first = self._first.statistics()
        return replace(
            first,
            hits=first.hits + self._hits,
            misses=first.misses - self._hits,
            rejected=first.rejected + self._rejected,
        )

    def second_tier_statistics(self) -> SecondTierStatistics:
        """See `EmbeddingCache.second_tier_statistics`."""
        return SecondTierStatistics(
            place=self._second.place,
            hits=self._hits,
            misses=self._misses,
            rejected=self._rejected,
            timeouts=self._timeouts,
            errors=self._errors,
            skipped=self._skipped,
            breaker=self._breaker.state,
            writes=self._writes.statistics(),
        )

    async def _ask(self, keys: Sequence[bytes], dimension: int) -> _Answer | None:
        """Return what the second tier knows, None if it is away or too slow."""
        if len(self._asked) >= _MAX_ASKED or not self._breaker.allows():
            self._skipped += 1
            return None
        task = asyncio.create_task(self._fetch(keys, dimension))
        self._asked.add(task)
        task.add_done_callback(self._answered)
        # Waited for, not awaited: neither the time nor a caller that leaves ends the task.
        await asyncio.wait({task}, timeout=self._timeout_seconds)
        if not task.done():
            self._timeouts += 1
            self._breaker.failed(f"no answer within {self._timeout_seconds:g} s")
            return None
        error = task.exception()
        if error is not None:
            self._errors += 1
            self._breaker.failed(f"{type(error).__name__}: {error}")
            return None
        self._breaker.succeeded()
        return task.result()

    def _answered(self, task: asyncio.Task[_Answer]) -> None:
        self._asked.discard(task)
        if not task.cancelled():
            task.exception()  # of a late one nobody else takes note

    async def _fetch(self, keys: Sequence[bytes], dimension: int) -> _Answer:
        """Ask the second tier, and keep in memory what it knows."""
        values = await self._second.get(keys)
        vectors = np.empty((len(keys), dimension), dtype=np.float32)
        is_found = self._codec.decode(keys, values, vectors)
        hits = int(np.count_nonzero(is_found))
        self._hits += hits
        self._misses += len(keys) - hits
        self._rejected += len(keys) - values.count(None) - hits
        found = np.flatnonzero(is_found).tolist()
        kept = [at for at in found if keys[at][:TAG_BYTES] not in self._purged]
        await self._first.store([keys[at] for at in kept], vectors[kept])
        return _Answer(is_found, vectors[is_found])


@dataclass(frozen=True, slots=True)
class _Answer:
    """`is_found` [keys] and the vectors of those found, in order."""

    is_found: NDArray[np.bool_]
    vectors: FloatArray
