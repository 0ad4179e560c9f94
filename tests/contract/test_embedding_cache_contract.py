"""What every embedding cache promises. Add an implementation to `cache` to test it."""

from collections.abc import Callable

import numpy as np
import pytest

from e2rank_server.embedding_cache.keys import cache_keys, namespace_tag, text_digest
from e2rank_server.embedding_cache.memory import (
    FIXED_BYTES,
    MemoryEmbeddingCache,
    bytes_per_entry,
)
from e2rank_server.embedding_cache.protocol import EmbeddingCache, Place
from e2rank_server.embedding_cache.values import ElementType
from e2rank_server.types import FloatArray

DIMENSION = 16
SECRET = b"s" * 32
TAG, OTHER_TAG = (namespace_tag(SECRET, name, 0) for name in ("namespace", "other"))
CacheOfEntries = Callable[[int], EmbeddingCache]


@pytest.fixture(params=ElementType)
def cache_of(request: pytest.FixtureRequest) -> CacheOfEntries:
    """Make a cache with room for so many entries."""
    element_type = request.param

    def memory(entries: int) -> EmbeddingCache:
        size = FIXED_BYTES + entries * bytes_per_entry(DIMENSION, element_type)
        return MemoryEmbeddingCache(DIMENSION, size, element_type)

    return memory


def keys(*texts: str, tag: bytes = TAG) -> list[bytes]:
    return cache_keys(tag, SECRET, "fingerprint", [text_digest(SECRET, None, t) for t in texts])


def vectors(*seeds: int) -> FloatArray:
    """Make a unit vector of each seed; those of different seeds differ much."""
    rows = [np.random.default_rng(seed).standard_normal(DIMENSION) for seed in seeds]
    return np.array([row / np.linalg.norm(row) for row in rows], dtype=np.float32)


def untouched(count: int) -> FloatArray:
    return np.full((count, DIMENSION), -1, dtype=np.float32)


async def found(cache: EmbeddingCache, *texts: str, tag: bytes = TAG) -> list[bool]:
    places = await cache.lookup_memory(keys(*texts, tag=tag), untouched(len(texts)))
    return (places != Place.NOWHERE).tolist()


def assert_same(out: FloatArray, expected: FloatArray) -> None:
    """Allow for the coarsest element type."""
    np.testing.assert_allclose(out, expected, atol=0.01)


async def test_what_was_stored_is_found_and_the_rest_is_left_alone(
    cache_of: CacheOfEntries,
) -> None:
    cache = cache_of(10)
    await cache.store(keys("a", "b"), vectors(1, 2))
    out = untouched(3)
    places = await cache.lookup_memory(keys("b", "unknown", "a"), out)
    assert places.dtype == np.uint8
    assert places.tolist() == [Place.MEMORY, Place.NOWHERE, Place.MEMORY]
    assert_same(out[[0, 2]], vectors(2, 1))
    np.testing.assert_array_equal(out[[1]], untouched(1))


async def test_all_hits_and_no_hits(cache_of: CacheOfEntries) -> None:
    cache = cache_of(10)
    out = untouched(2)
    assert not (await cache.lookup_memory(keys("a", "b"), out)).any()
    np.testing.assert_array_equal(out, untouched(2))
    await cache.store(keys("a", "b"), vectors(1, 2))
    assert (await cache.lookup_memory(keys("a", "b"), out)).all()
    assert_same(out, vectors(1, 2))


async def test_a_key_may_be_asked_for_twice_in_one_call(cache_of: CacheOfEntries) -> None:
    cache = cache_of(10)
    await cache.store(keys("a"), vectors(1))
    out = untouched(3)
    assert (await cache.lookup_memory(keys("a", "x", "a"), out)).astype(bool).tolist() == [1, 0, 1]
    assert_same(out[[0, 2]], vectors(1, 1))


async def test_no_keys_is_a_call_like_any_other(cache_of: CacheOfEntries) -> None:
    for cache in (cache_of(10), cache_of(0)):
        await cache.store([], untouched(0))
        assert (await cache.lookup_memory([], untouched(0))).shape == (0,)
        await cache.store(keys("a"), vectors(1))
        assert (await cache.lookup_memory([], untouched(0))).shape == (0,)


async def test_storing_again_replaces(cache_of: CacheOfEntries) -> None:
    cache = cache_of(10)
    await cache.store(keys("a"), vectors(1))
    await cache.store(keys("a"), vectors(2))
    out = untouched(1)
    await cache.lookup_memory(keys("a"), out)
    assert_same(out, vectors(2))
    assert cache.statistics().entries == 1


async def test_of_a_key_twice_in_one_call_the_last_vector_counts(
    cache_of: CacheOfEntries,
) -> None:
    cache = cache_of(100)
    await cache.store(keys("a", "b", "a"), vectors(1, 2, 3))
    out = untouched(2)
    await cache.lookup_memory(keys("a", "b"), out)
    assert_same(out, vectors(3, 2))
    assert cache.statistics().entries == 2


async def test_the_callers_array_is_not_kept(cache_of: CacheOfEntries) -> None:
    cache = cache_of(10)
    mine = vectors(1)
    await cache.store(keys("a"), mine)
    mine[:] = 9
    out = untouched(1)
    await cache.lookup_memory(keys("a"), out)
    assert_same(out, vectors(1))


async def test_it_never_exceeds_its_bytes_and_counts_what_it_dropped(
    cache_of: CacheOfEntries,
) -> None:
    cache = cache_of(4)
    for number in range(100):
        await cache.store(keys(f"{number}"), vectors(number))
        statistics = cache.statistics()
        assert statistics.resident_bytes <= statistics.max_bytes
    assert statistics.entries == 4
    assert statistics.evictions == 96


async def test_entries_in_use_outlive_entries_that_are_not(cache_of: CacheOfEntries) -> None:
    cache = cache_of(4)
    await cache.store(keys("a", "b", "c", "d"), vectors(1, 2, 3, 4))
    await cache.lookup_memory(keys("a"), untouched(1))
    await cache.store(keys("e", "f"), vectors(5, 6))
    out = untouched(6)
    is_hit = (await cache.lookup_memory(keys("a", "b", "c", "d", "e", "f"), out)).astype(bool)
    assert is_hit.tolist() == [True, False, False, True, True, True]
    assert_same(out[is_hit], vectors(1, 4, 5, 6))


async def test_a_batch_larger_than_the_cache_keeps_its_end(cache_of: CacheOfEntries) -> None:
    cache = cache_of(2)
    await cache.store(keys("a", "b", "c"), vectors(1, 2, 3))
    out = untouched(3)
    assert (await cache.lookup_memory(keys("a", "b", "c"), out)).astype(bool).tolist() == [0, 1, 1]
    assert_same(out[1:], vectors(2, 3))


async def test_a_cache_without_room_misses_always(cache_of: CacheOfEntries) -> None:
    cache = cache_of(0)
    await cache.store(keys("a"), vectors(1))
    assert await found(cache, "a") == [False]


async def test_hits_and_misses_are_counted(cache_of: CacheOfEntries) -> None:
    cache = cache_of(10)
    await cache.store(keys("a"), vectors(1))
    await cache.lookup_memory(keys("a", "b", "c"), untouched(3))
    statistics = cache.statistics()
    assert (statistics.hits, statistics.misses) == (1, 2)


async def test_a_purge_forgets_one_namespace(cache_of: CacheOfEntries) -> None:
    cache = cache_of(100)
    await cache.store(keys("a", "b"), vectors(1, 2))
    await cache.store(keys("a", tag=OTHER_TAG), vectors(3))
    await cache.purge(TAG)
    assert await found(cache, "a", "b") == [False, False]
    assert await found(cache, "a", tag=OTHER_TAG) == [True]
    assert cache.statistics().entries == 1
    await cache.store(keys("a"), vectors(4))
    out = untouched(1)
    await cache.lookup_memory(keys("a"), out)
    assert_same(out, vectors(4))


async def test_what_was_purged_leaves_its_room_to_others(cache_of: CacheOfEntries) -> None:
    cache = cache_of(64)
    for number in range(48):
        await cache.store(keys(f"{number}"), vectors(number))
    await cache.store(keys("kept", tag=OTHER_TAG), vectors(0))
    await cache.purge(TAG)
    for number in range(63):
        await cache.store(keys(f"{number}", tag=OTHER_TAG), vectors(number))
    assert await found(cache, "kept", tag=OTHER_TAG) == [True]
    assert cache.statistics().entries == 64
    assert cache.statistics().evictions == 0


async def test_vectors_as_kept_are_those_that_a_look_up_gives(cache_of: CacheOfEntries) -> None:
    cache = cache_of(10)
    mine = vectors(1, 2)
    await cache.store(keys("a", "b"), mine)
    out = untouched(2)
    await cache.lookup_memory(keys("a", "b"), out)
    np.testing.assert_array_equal(cache.as_kept(mine), out)
