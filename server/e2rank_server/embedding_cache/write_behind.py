"""Writes into a second tier behind the requests' backs."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import islice

from e2rank_server.embedding_cache.circuit_breaker import CircuitBreaker
from e2rank_server.embedding_cache.protocol import SecondTier, WriteStatistics

logger = logging.getLogger(__name__)

# What an entry that waits costs beside its value: the key, two objects' headers and its place.
ENTRY_OVERHEAD_BYTES = 256
_MAX_ENTRIES_A_WRITE = 512
_MAX_BYTES_A_WRITE = 4 << 20
_MAX_PURGES = 1024


class WriteBehind:
    """A queue of entries and purges before a tier, and the one task that empties it.

    It holds at most `max_bytes`; beyond that the oldest entries are dropped. An
    entry leaves only when it is written, so what a tier misses while it is away
    is written when it is back, as far as the queue reaches. Purges wait for it,
    too, and go first; no entry put before a purge is written after it. Writes
    and purges have a breaker each, since a tier may refuse one and not the other.
    """

    def __init__(
        self, tier: SecondTier, make_breaker: Callable[[str], CircuitBreaker], max_bytes: int
    ) -> None:
        name = f"embedding cache: {tier.place.name.lower()} tier"
        self._tier = tier
        self._write_breaker = make_breaker(f"{name}, writing")
        self._purge_breaker = make_breaker(f"{name}, purging")
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0
        self._purges: OrderedDict[bytes, asyncio.Future[None]] = OrderedDict()
        self._written = self._dropped = self._errors = 0
        self._has_work = asyncio.Event()
        self._is_closing = False
        self._task: asyncio.Task[None] | None = None

    def put(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Have entries written some time."""
        for key, value in zip(keys, values, strict=True):
            self._forget(key)
            self._entries[key] = value
            self._bytes += len(value) + ENTRY_OVERHEAD_BYTES
        while self._bytes > self._max_bytes:
            self._forget(next(iter(self._entries)))
            self._dropped += 1
        self._wake()

    async def purge(self, namespace_tag: bytes) -> None:
        """Drop a namespace's waiting entries and have those in the tier deleted.

        Returns when that was tried once; if it failed it stays to be tried again.
        """
        for key in [key for key in self._entries if key.startswith(namespace_tag)]:
            self._forget(key)
        if namespace_tag not in self._purges:
            if len(self._purges) == _MAX_PURGES:
                tag, waiter = self._purges.popitem(last=False)
                _tried(waiter)
                logger.error("namespace %s stays in the second tier", tag.hex())
            self._purges[namespace_tag] = asyncio.get_running_loop().create_future()
        self._wake()
        await asyncio.shield(self._purges[namespace_tag])

    async def close(self, seconds: float) -> None:
        """Write what waits, unless the tier is away or that takes longer than `seconds`."""
        if self._task is None:
            return
        self._is_closing = True
        self._has_work.set()
        _, late = await asyncio.wait({self._task}, timeout=seconds)
        for task in late:
            task.cancel()
            await asyncio.wait({task})
        if self._entries:
            logger.warning("%d embeddings were not written to the second tier", len(self._entries))

    def statistics(self) -> WriteStatistics:
        """Return the counters now."""
        return WriteStatistics(
            written=self._written,
            dropped=self._dropped,
            errors=self._errors,
            waiting=len(self._entries),
            waiting_bytes=self._bytes,
            waiting_purges=len(self._purges),
            breaker=self._write_breaker.state,
        )

    def _forget(self, key: bytes) -> None:
        value = self._entries.pop(key, None)
        if value is not None:
            self._bytes -= len(value) + ENTRY_OVERHEAD_BYTES

    def _wake(self) -> None:
        self._has_work.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            while True:
                if self._purges and self._purge_breaker.allows():
                    await self._try(self._purge_one, self._purge_breaker)
                elif self._entries and self._write_breaker.allows():
                    await self._try(self._write_some, self._write_breaker)
                elif self._is_closing:
                    return
                else:
                    await self._pause()
        finally:
            self._release_purgers()

    async def _try(self, work: Callable[[], Awaitable[None]], breaker: CircuitBreaker) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 # whatever it is, the tier is away
            self._errors += 1
            breaker.failed(f"{type(error).__name__}: {error}")
        else:
            breaker.succeeded()

    async def _pause(self) -> None:
        """Wait for more work, or until a breaker lets be tried what there is."""
        self._release_purgers()
        self._has_work.clear()
        waits = [self._write_breaker.remaining_seconds] if self._entries else []
        waits += [self._purge_breaker.remaining_seconds] if self._purges else []
        with suppress(TimeoutError):
            async with asyncio.timeout(min(waits, default=None)):
                await self._has_work.wait()

    def _release_purgers(self) -> None:
        for waiter in self._purges.values():
            _tried(waiter)

    async def _purge_one(self) -> None:
        tag, waiter = next(iter(self._purges.items()))
        try:
            await self._tier.purge(tag)
            self._purges.pop(tag, None)
        finally:
            _tried(waiter)

    async def _write_some(self) -> None:
        some: list[tuple[bytes, bytes]] = []
        num_bytes = 0
        for key, value in islice(self._entries.items(), _MAX_ENTRIES_A_WRITE):
            num_bytes += len(value)
            if some and num_bytes > _MAX_BYTES_A_WRITE:
                break
            some.append((key, value))
        await self._tier.put([key for key, _ in some], [value for _, value in some])
        self._written += len(some)
        for key, value in some:
            if self._entries.get(key) is value:  # else it was replaced or dropped meanwhile
                self._forget(key)


def _tried(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
