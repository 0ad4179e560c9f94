"""What every embedding cache promises. Add an implementation to `cache` to test it."""

from collections.abc import Callable

import numpy as np
import pytest

from e2rank_server.embedding_cache.memory import INDEX_BYTES_PER_ENTRY, MemoryEmbeddingCache
from e2rank_server.embedding_cache.protocol import EmbeddingCache
from e2rank_server.types import FloatArray

DIMENSION = 8
CacheOfEntries = Callable[[int], EmbeddingCache]


@pytest.fixture(params=["memory"])
def cache_of(request: pytest.FixtureRequest) -> CacheOfEntries:
    """Make a cache with room for so many entries."""

    def memory(entries: int) -> EmbeddingCache:
        return MemoryEmbeddingCache(DIMENSION, entries * (DIMENSION * 4 + INDEX_BYTES_PER_ENTRY))

    return {"memory": memory}[request.param]


def vectors(*values: float) -> FloatArray:
    return np.array([[value] * DIMENSION for value in values], dtype=np.float32)


async def test_what_was_stored_is_found_and_the_rest_is_left_alone(
    cache_of: CacheOfEntries,
) -> None:
    cache = cache_of(10)
    await cache.store([b"a", b"b"], vectors(1, 2))
    out = vectors(-1, -1, -1)
    is_hit = await cache.lookup([b"b", b"unknown", b"a"], out)
    assert is_hit.tolist() == [True, False, True]
    np.testing.assert_array_equal(out, vectors(2, -1, 1))


async def test_all_hits_and_no_hits(cache_of: CacheOfEntries) -> None:
    cache = cache_of(10)
    out = vectors(-1, -1)
    assert not (await cache.lookup([b"a", b"b"], out)).any()
    np.testing.assert_array_equal(out, vectors(-1, -1))
    await cache.store([b"a", b"b"], vectors(1, 2))
    assert (await cache.lookup([b"a", b"b"], out)).all()
    np.testing.assert_array_equal(out, vectors(1, 2))


async def test_a_key_may_be_asked_for_twice_in_one_call(cache_of: CacheOfEntries) -> None:
    cache = cache_of(10)
    await cache.store([b"a"], vectors(1))
    out = vectors(-1, -1, -1)
    assert (await cache.lookup([b"a", b"x", b"a"], out)).tolist() == [True, False, True]
    np.testing.assert_array_equal(out, vectors(1, -1, 1))


async def test_no_keys_is_a_look_up_like_any_other(cache_of: CacheOfEntries) -> None:
    out = np.empty((0, DIMENSION), dtype=np.float32)
    assert (await cache_of(10).lookup([], out)).shape == (0,)


async def test_storing_again_replaces(cache_of: CacheOfEntries) -> None:
    cache = cache_of(10)
    await cache.store([b"a"], vectors(1))
    await cache.store([b"a"], vectors(2))
    out = vectors(-1)
    await cache.lookup([b"a"], out)
    np.testing.assert_array_equal(out, vectors(2))
    assert cache.statistics().entries == 1


async def test_the_callers_array_is_not_kept(cache_of: CacheOfEntries) -> None:
    cache = cache_of(10)
    mine = vectors(1)
    await cache.store([b"a"], mine)
    mine[:] = 9
    out = vectors(-1)
    await cache.lookup([b"a"], out)
    np.testing.assert_array_equal(out, vectors(1))


async def test_it_never_exceeds_its_bytes_and_counts_what_it_dropped(
    cache_of: CacheOfEntries,
) -> None:
    cache = cache_of(4)
    for number in range(100):
        await cache.store([b"%d" % number], vectors(number))
        statistics = cache.statistics()
        assert statistics.resident_bytes <= statistics.max_bytes
    assert statistics.entries == 4
    assert statistics.evictions == 96


async def test_entries_in_use_outlive_entries_that_are_not(cache_of: CacheOfEntries) -> None:
    cache = cache_of(4)
    await cache.store([b"a", b"b", b"c", b"d"], vectors(1, 2, 3, 4))
    await cache.lookup([b"a"], vectors(-1))
    await cache.store([b"e", b"f"], vectors(5, 6))
    out = vectors(-1, -1, -1, -1, -1, -1)
    is_hit = await cache.lookup([b"a", b"b", b"c", b"d", b"e", b"f"], out)
    assert is_hit.tolist() == [True, False, False, True, True, True]
    np.testing.assert_array_equal(out[is_hit], vectors(1, 4, 5, 6))


async def test_a_batch_larger_than_the_cache_keeps_its_end(cache_of: CacheOfEntries) -> None:
    cache = cache_of(2)
    await cache.store([b"a", b"b", b"c"], vectors(1, 2, 3))
    out = vectors(-1, -1, -1)
    assert (await cache.lookup([b"a", b"b", b"c"], out)).tolist() == [False, True, True]
    np.testing.assert_array_equal(out[1:], vectors(2, 3))


async def test_a_cache_without_room_misses_always(cache_of: CacheOfEntries) -> None:
    cache = cache_of(0)
    await cache.store([b"a"], vectors(1))
    assert not (await cache.lookup([b"a"], vectors(-1))).any()


async def test_hits_and_misses_are_counted(cache_of: CacheOfEntries) -> None:
    cache = cache_of(10)
    await cache.store([b"a"], vectors(1))
    await cache.lookup([b"a", b"b", b"c"], vectors(-1, -1, -1))
    statistics = cache.statistics()
    assert (statistics.hits, statistics.misses) == (1, 2)
