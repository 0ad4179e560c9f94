import asyncio
from collections.abc import Coroutine, Sequence
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from e2rank_server.embedding_cache.keys import KEY_BYTES, TAG_BYTES
from e2rank_server.embedding_cache.memory import (
    FIXED_BYTES,
    MemoryEmbeddingCache,
    bytes_per_entry,
)
from e2rank_server.embedding_cache.values import ElementType, row_codec
from e2rank_server.types import FloatArray

DIMENSION = 8
TAGS = [bytes([letter]) * TAG_BYTES for letter in (0, 1, 2)]
_ResultT = TypeVar("_ResultT")


def cache_of(entries: int, element_type: ElementType = ElementType.FLOAT16) -> MemoryEmbeddingCache:
    size = FIXED_BYTES + entries * bytes_per_entry(DIMENSION, element_type)
    return MemoryEmbeddingCache(DIMENSION, size, element_type)


def keys(tag: bytes, *numbers: int) -> list[bytes]:
    """Make keys of which each has a vector of its own.

    Those of even numbers have equal hashes, so that many want the same two buckets.
    """
    return [tag + (colliding(tag, n) if n % 2 == 0 else spread(tag, n)) for n in numbers]


def colliding(tag: bytes, number: int) -> bytes:
    model = number.to_bytes(8, "little")
    return model + bytes(a ^ b for a, b in zip(tag, model + bytes(8), strict=True))


def spread(tag: bytes, number: int) -> bytes:
    return np.random.default_rng([*tag, number]).bytes(KEY_BYTES - TAG_BYTES)


def vectors(*seeds: int) -> FloatArray:
    rows = [np.random.default_rng(seed).standard_normal(DIMENSION) for seed in seeds]
    normalised = [row / np.linalg.norm(row) for row in rows]
    return np.array(normalised, dtype=np.float32).reshape(len(seeds), DIMENSION)


def untouched(count: int) -> FloatArray:
    return np.full((count, DIMENSION), -1, dtype=np.float32)


def at_once(coroutine: Coroutine[Any, Any, _ResultT]) -> _ResultT:
    """Run a coroutine that must not await anything."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: _ResultT = stop.value
        return result
    raise AssertionError("it awaited")


KEYS = st.builds(
    lambda tag, numbers: (tag, numbers),
    st.sampled_from(TAGS),
    st.lists(st.integers(0, 60), max_size=12),
)


class CacheAgainstDict(RuleBasedStateMachine):
    """Any interleaving of calls and of the steps of purges, compared with a dict.

    `kept` has the last vector of each key, by seed; the cache may have forgotten it.
    `doomed` has, for the purge under way, the keys that it must forget.
    """

    @initialize(entries=st.integers(0, 80), element_type=st.sampled_from(ElementType))
    def start(self, entries: int, element_type: ElementType) -> None:
        self.cache = cache_of(entries, element_type)
        self.entries = entries
        self.codec = row_codec(element_type, DIMENSION)
        self.kept: dict[bytes, int] = {}
        self.asked = self.seed = 0
        self.purge: Coroutine[Any, Any, None] | None = None
        self.doomed: set[bytes] = set()

    @rule(where=KEYS)
    def store(self, where: tuple[bytes, list[int]]) -> None:
        names = keys(where[0], *where[1])
        seeds = range(self.seed, self.seed + len(names))
        self.seed += len(names)
        at_once(self.cache.store(names, vectors(*seeds)))
        self.kept.update(zip(names, seeds, strict=True))
        self.doomed -= set(names)

    @rule(where=KEYS)
    def look_up(self, where: tuple[bytes, list[int]]) -> None:
        names = keys(where[0], *where[1])
        out = untouched(len(names))
        places = at_once(self.cache.lookup_memory(names, out))
        self.asked += len(names)
        for name, place, row in zip(names, places, out, strict=True):
            expected = untouched(1)
            if place:
                self.codec.decode(self.codec.encode(vectors(self.kept[name])), expected)
            np.testing.assert_array_equal(row, expected[0])

    @rule(tag=st.sampled_from(TAGS))
    def begin_purge(self, tag: bytes) -> None:
        self.finish_purge()
        self.purge = self.cache.purge(tag)
        self.doomed = {name for name in self.kept if name.startswith(tag)}

    @rule()
    def step_purge(self) -> None:
        if self.purge is None:
            return
        try:
            self.purge.send(None)
        except StopIteration:
            self.purge = None
            for name in self.doomed:
                del self.kept[name]
            self.doomed = set()

    @rule()
    def finish_purge(self) -> None:
        while self.purge is not None:
            self.step_purge()

    @invariant()
    def it_adds_up(self) -> None:
        statistics = self.cache.statistics()
        assert statistics.hits + statistics.misses == self.asked
        assert statistics.entries <= min(self.entries, len(self.kept))
        assert statistics.resident_bytes <= statistics.max_bytes

    def teardown(self) -> None:
        if self.purge is not None:
            self.purge.close()


@pytest.fixture(autouse=True, scope="module")
def _small_purge_steps() -> Any:
    patch = pytest.MonkeyPatch()
    patch.setattr("e2rank_server.embedding_cache.memory._PURGE_STEP", 8)
    yield
    patch.undo()


TestCacheAgainstDict = CacheAgainstDict.TestCase
TestCacheAgainstDict.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


async def ask(cache: MemoryEmbeddingCache, numbers: Sequence[int]) -> list[bool]:
    """Look numbers up and store those that were unknown, as the engine does; all of one vector."""
    names = [blake2b(b"%d" % number, digest_size=KEY_BYTES).digest() for number in numbers]
    places = await cache.lookup_memory(names, untouched(len(names)))
    missing = [name for name, place in zip(names, places, strict=True) if not place]
    await cache.store(missing, np.repeat(vectors(0), len(missing), axis=0))
    return places.astype(bool).tolist()


@pytest.mark.parametrize("batch", [1, 20, 200])
async def test_what_is_in_use_survives_a_scan_of_ten_times_the_capacity(batch: int) -> None:
    cache = cache_of(200)
    in_use = range(100)
    await ask(cache, in_use)
    await ask(cache, in_use)
    for start in range(1000, 3000, batch):
        await ask(cache, range(start, start + batch))
    assert all(await ask(cache, in_use))


@pytest.mark.parametrize("element_type", ElementType)
@pytest.mark.parametrize("entries", [0, 1, 5, 1000])
def test_what_it_reserves_is_within_its_bytes(entries: int, element_type: ElementType) -> None:
    cache = cache_of(entries, element_type)
    max_bytes = cache.statistics().max_bytes
    assert cache.reserved_bytes <= max_bytes
    assert cache.reserved_bytes >= max_bytes - FIXED_BYTES


@pytest.mark.parametrize("max_bytes", [0, 1, FIXED_BYTES])
async def test_too_few_bytes_for_an_entry_keep_none(max_bytes: int) -> None:
    cache = MemoryEmbeddingCache(DIMENSION, max_bytes)
    await ask(cache, range(3))
    assert cache.statistics().entries == 0
    assert cache.reserved_bytes <= max_bytes


async def test_a_vector_that_the_element_type_cannot_hold_is_not_kept() -> None:
    cache = cache_of(10)
    rows = vectors(1, 2, 3)
    rows[1, 0] = 1e6
    names = keys(TAGS[0], 1, 3, 5)
    await cache.store(names, rows)
    assert (await cache.lookup_memory(names, untouched(3))).astype(bool).tolist() == [
        True,
        False,
        True,
    ]


async def test_other_tasks_have_their_turn_while_a_namespace_is_purged() -> None:
    cache = cache_of(100)
    await cache.store(keys(TAGS[1], *range(1, 200, 2)), vectors(*range(100)))
    purge = asyncio.ensure_future(cache.purge(TAGS[1]))
    entries = []
    while not purge.done():
        entries.append(cache.statistics().entries)
        await asyncio.sleep(0)
    assert entries == sorted(set(entries), reverse=True)
    assert len(entries) > 5
    assert cache.statistics().entries == 0


async def test_a_purge_that_is_cancelled_leaves_the_cache_whole() -> None:
    cache = cache_of(100)
    await cache.store(keys(TAGS[1], *range(1, 200, 2)), vectors(*range(100)))
    purge = asyncio.ensure_future(cache.purge(TAGS[1]))
    await asyncio.sleep(0)
    purge.cancel()
    with pytest.raises(asyncio.CancelledError):
        await purge
    left = cache.statistics().entries
    assert 0 < left < 100
    places = await cache.lookup_memory(keys(TAGS[1], *range(1, 200, 2)), untouched(100))
    assert np.count_nonzero(places) == left


async def test_an_entry_that_leaves_while_it_is_replaced_takes_its_vector_along() -> None:
    cache = cache_of(64)
    names = keys(TAGS[0], *range(1, 130, 2))
    await cache.store(names[:64], vectors(*range(64)))
    await cache.store([names[0], names[64]], vectors(1000, 64))  # the first is the next to leave
    out = untouched(2)
    places = await cache.lookup_memory([names[0], names[64]], out)
    assert places.astype(bool).tolist() == [False, True]
    np.testing.assert_allclose(out[1], vectors(64)[0], atol=2**-12)
