"""A second tier in a dict, which can be away or slow on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from e2rank_server.embedding_cache.protocol import EmbeddingCache, Place
from e2rank_server.types import FloatArray


class FakeSecondTier:
    """Keeps values in `values`, which outlives it."""

    place = Place.SHARED

    def __init__(self, values: dict[bytes, bytes] | None = None) -> None:
        self.values = {} if values is None else values
        self.error: Exception | None = None
        """Raised by every call while set."""
        self.answers = asyncio.Event()
        """Calls wait for it."""
        self.answers.set()
        self.num_gets = self.num_puts = 0
        self.puts: list[int] = []
        """How many entries each put had that was let through."""

    async def get(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        self.num_gets += 1
        await self._pass()
        return [self.values.get(key) for key in keys]

    async def put(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        self.num_puts += 1
        await self._pass()
        self.puts.append(len(keys))
        self.values.update(zip(keys, values, strict=True))

    async def purge(self, namespace_tag: bytes) -> None:
        await self._pass()
        for key in [key for key in self.values if key.startswith(namespace_tag)]:
            del self.values[key]

    async def check_health(self) -> None:
        await self._pass()

    async def close(self) -> None:
        pass

    async def _pass(self) -> None:
        if self.error is not None:
            raise self.error
        await self.answers.wait()


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; fail if it does not for long."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 # nothing signals a counter
            await asyncio.sleep(0.001)


async def look_everywhere(
    cache: EmbeddingCache, keys: Sequence[bytes], out: FloatArray
) -> NDArray[np.uint8]:
    """Look keys up in both parts of a cache, one after the other; return their places."""
    places = await cache.lookup_memory(keys, out)
    await cache.lookup_second(keys, out, places)
    return places
