"""How long 100 vectors take from each tier, and what the first one takes of memory."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import psutil

from benchmarks.cache.entries import keys_of, unit_vectors
from benchmarks.cache.valkey import running_valkey
from e2rank_server.embedding_cache.lmdb import LmdbTier
from e2rank_server.embedding_cache.memory import (
    FIXED_BYTES,
    MemoryEmbeddingCache,
    bytes_per_entry,
)
from e2rank_server.embedding_cache.protocol import SecondTier
from e2rank_server.embedding_cache.valkey import ValkeyTier
from e2rank_server.embedding_cache.values import ElementType, ValueCodec
from e2rank_server.types import FloatArray

DIMENSION = 384
ELEMENT_TYPE = ElementType.FLOAT16
MEMORY_ENTRIES = 1_000_000
SECOND_TIER_ENTRIES = 50_000
NUM_KEYS = 100
LOOKUPS = 3000

_BATCH = 1000
_WARM_UP = 200

Lookup = Callable[[list[bytes], FloatArray], Awaitable[int]]
"""Writes vectors into their rows; returns how many were found."""


async def measure_memory_tier(
    advance: Callable[[int], None],
    entries: int = MEMORY_ENTRIES,
    lookups: int = LOOKUPS,
) -> dict[str, float]:
    """Fill the first tier and look up keys at random, each batch made right before."""
    vectors = unit_vectors(_BATCH, DIMENSION)
    # Before memory is counted, so that what is loaded once does not count.
    await _fill(_memory_cache(_BATCH), _BATCH, vectors, lambda _: None)
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    cache = _memory_cache(entries)
    await _fill(cache, entries, vectors, advance)
    grown = process.memory_info().rss - before

    async def look_up(keys: list[bytes], out: FloatArray) -> int:
        return int(np.count_nonzero(await cache.lookup_memory(keys, out)))

    raw_bytes = entries * DIMENSION * 2
    return {
        "l1_memory_over_raw": grown / raw_bytes,
        **await _timed("l1_lookup", look_up, entries, lookups),
    }


async def measure_second_tiers(
    advance: Callable[[int], None],
    entries: int = SECOND_TIER_ENTRIES,
    lookups: int = LOOKUPS,
) -> dict[str, float]:
    """The same for LMDB and Valkey, with the decoding of what they return."""
    with tempfile.TemporaryDirectory(prefix="bench-cache-") as name:
        lmdb = LmdbTier(Path(name), max_bytes=entries * 8192)
        figures = await _measure_second_tier("lmdb_warm", lmdb, entries, lookups, advance)
    with running_valkey() as url:
        valkey = ValkeyTier(url)
        return figures | await _measure_second_tier("valkey", valkey, entries, lookups, advance)


async def _measure_second_tier(
    name: str,
    tier: SecondTier,
    entries: int,
    lookups: int,
    advance: Callable[[int], None],
) -> dict[str, float]:
    codec = ValueCodec(DIMENSION, ELEMENT_TYPE)
    vectors = unit_vectors(_BATCH, DIMENSION)
    try:
        for start in range(0, entries, _BATCH):
            keys = keys_of(np.arange(start, min(start + _BATCH, entries)))
            await tier.put(keys, codec.encode(keys, vectors[: len(keys)]))
            advance(len(keys))

        async def look_up(keys: list[bytes], out: FloatArray) -> int:
            return int(np.count_nonzero(codec.decode(keys, await tier.get(keys), out)))

        return await _timed(name, look_up, entries, lookups)
    finally:
        await tier.close()


def _memory_cache(entries: int) -> MemoryEmbeddingCache:
    max_bytes = FIXED_BYTES + entries * bytes_per_entry(DIMENSION, ELEMENT_TYPE)
    return MemoryEmbeddingCache(DIMENSION, max_bytes, ELEMENT_TYPE)


async def _fill(
    cache: MemoryEmbeddingCache,
    entries: int,
    vectors: FloatArray,
    advance: Callable[[int], None],
) -> None:
    for start in range(0, entries, _BATCH):
        numbers = np.arange(start, min(start + _BATCH, entries))
        await cache.store(keys_of(numbers), vectors[: len(numbers)])
        advance(len(numbers))


async def _timed(name: str, look_up: Lookup, entries: int, lookups: int) -> dict[str, float]:
    """Return median and 99th percentile in microseconds; all keys must be found."""
    numbers = np.random.default_rng(1)
    out = np.empty((NUM_KEYS, DIMENSION), dtype=np.float32)
    seconds = []
    for _ in range(_WARM_UP + lookups):
        keys = keys_of(numbers.integers(0, entries, NUM_KEYS))
        started = time.perf_counter()
        found = await look_up(keys, out)
        seconds.append(time.perf_counter() - started)
        if found != NUM_KEYS:
            raise AssertionError(f"{name}: {found} of {NUM_KEYS} keys were found")
    middle, high = np.percentile(seconds[_WARM_UP:], (50, 99)) * 1e6
    return {f"{name}_100_us_p50": float(middle), f"{name}_100_us_p99": float(high)}
