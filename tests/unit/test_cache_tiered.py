"""Memory before a second tier that is slow, away or wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from e2rank_server.embedding_cache.circuit_breaker import BreakerState, CircuitBreaker
from e2rank_server.embedding_cache.memory import MemoryEmbeddingCache
from e2rank_server.embedding_cache.protocol import Place
from e2rank_server.embedding_cache.tiered import TieredEmbeddingCache
from e2rank_server.embedding_cache.values import ValueCodec
from e2rank_server.types import FloatArray
from tests.fake_second_tier import FakeSecondTier, look_everywhere, until

DIMENSION = 8
PATIENT_SECONDS = 3600.0
CODEC = ValueCodec(DIMENSION)
TAG = b"T" * 16

NOWHERE, MEMORY, SHARED = int(Place.NOWHERE), int(Place.MEMORY), int(Place.SHARED)


def patient_breaker(name: str) -> CircuitBreaker:
    return CircuitBreaker(name, max_failures=3, pause_seconds=PATIENT_SECONDS)


def tiered(tier: FakeSecondTier, timeout_seconds: float) -> TieredEmbeddingCache:
    return TieredEmbeddingCache(
        MemoryEmbeddingCache(DIMENSION, 1 << 20),
        tier,
        CODEC,
        timeout_seconds=timeout_seconds,
        make_breaker=patient_breaker,
    )


@pytest.fixture
def tier() -> FakeSecondTier:
    return FakeSecondTier()


@pytest.fixture
async def cache(tier: FakeSecondTier) -> AsyncIterator[TieredEmbeddingCache]:
    """A cache that waits for the second tier however long it takes."""
    cache = tiered(tier, PATIENT_SECONDS)
    yield cache
    await cache.close(0)


@pytest.fixture
async def hasty(tier: FakeSecondTier) -> AsyncIterator[TieredEmbeddingCache]:
    """A cache that does not wait for the second tier."""
    cache = tiered(tier, 0.001)
    yield cache
    await cache.close(0)


def keys(*numbers: int) -> list[bytes]:
    return [TAG + b"%024d" % number for number in numbers]


def vectors(*numbers: int) -> FloatArray:
    return np.array([[number] * DIMENSION for number in numbers], dtype=np.float32)


def fill(tier: FakeSecondTier, *numbers: int) -> None:
    tier.values.update(
        zip(keys(*numbers), CODEC.encode(keys(*numbers), vectors(*numbers)), strict=True)
    )


async def look_up(cache: TieredEmbeddingCache, *numbers: int) -> tuple[list[int], list[float]]:
    """Return the place and the first element of each key's vector, -1 where there is none."""
    out = np.full((len(numbers), DIMENSION), -1, dtype=np.float32)
    places = await look_everywhere(cache, keys(*numbers), out)
    assert (out == out[:, :1]).all()
    return places.tolist(), out[:, 0].tolist()


async def test_what_memory_lacks_is_found_in_the_second_tier(
    cache: TieredEmbeddingCache, tier: FakeSecondTier
) -> None:
    fill(tier, 2, 4)
    await cache.store(keys(1, 3), vectors(1, 3))
    assert await look_up(cache, 1, 2, 3, 4, 5, 2) == (
        [MEMORY, SHARED, MEMORY, SHARED, NOWHERE, SHARED],
        [1, 2, 3, 4, -1, 2],
    )


async def test_what_was_found_in_the_second_tier_is_in_memory_from_then_on(
    cache: TieredEmbeddingCache, tier: FakeSecondTier
) -> None:
    fill(tier, 1)
    await look_up(cache, 1)
    assert await look_up(cache, 1) == ([MEMORY], [1])
    assert tier.num_gets == 1


async def test_the_second_tier_is_not_asked_for_what_memory_has(
    cache: TieredEmbeddingCache, tier: FakeSecondTier
) -> None:
    await cache.store(keys(1), vectors(1))
    await look_up(cache, 1)
    await look_up(cache)
    assert tier.num_gets == 0


async def test_what_is_stored_is_in_memory_at_once_and_in_the_second_tier_soon(
    cache: TieredEmbeddingCache, tier: FakeSecondTier
) -> None:
    tier.answers.clear()
    await cache.store(keys(1), vectors(1))
    assert await look_up(cache, 1) == ([MEMORY], [1])
    tier.answers.set()
    await until(lambda: cache.second_tier_statistics().writes.written == 1)
    another = tiered(tier, PATIENT_SECONDS)
    assert await look_up(another, 1) == ([SHARED], [1])
    await another.close(0)


async def test_the_parts_of_a_look_up_can_be_done_apart(
    cache: TieredEmbeddingCache, tier: FakeSecondTier
) -> None:
    fill(tier, 2)
    await cache.store(keys(1), vectors(1))
    out = vectors(-1, -1, -1)
    places = await cache.lookup_memory(keys(1, 2, 3), out)
    assert places.tolist() == [MEMORY, NOWHERE, NOWHERE]
    await cache.lookup_second(keys(1, 2, 3), out, places)
    assert places.tolist() == [MEMORY, SHARED, NOWHERE]
    np.testing.assert_array_equal(out, vectors(1, 2, -1))


async def test_values_that_are_not_believed_are_counted_misses(
    cache: TieredEmbeddingCache, tier: FakeSecondTier
) -> None:
    fill(tier, 1, 2, 3)
    one, two, three = keys(1, 2, 3)
    tier.values[one] = tier.values[one][:-1]
    tier.values[two] = tier.values[three]
    assert await look_up(cache, 1, 2, 3, 4) == (
        [NOWHERE, NOWHERE, SHARED, NOWHERE],
        [-1, -1, 3, -1],
    )
    statistics = cache.second_tier_statistics()
    assert (statistics.hits, statistics.misses, statistics.rejected) == (1, 3, 2)


async def test_statistics_are_of_both_tiers(
    cache: TieredEmbeddingCache, tier: FakeSecondTier
) -> None:
    fill(tier, 2)
    tier.values[keys(4)[0]] = b"rubbish"
    await cache.store(keys(1), vectors(1))
    await look_up(cache, 1, 2, 3, 4)
    statistics = cache.statistics()
    assert (statistics.hits, statistics.misses, statistics.rejected) == (2, 2, 1)
    assert statistics.entries == 2


async def test_a_slow_tier_is_a_miss_and_its_answer_still_fills_the_memory(
    hasty: TieredEmbeddingCache, tier: FakeSecondTier
) -> None:
    fill(tier, 1)
    tier.answers.clear()
    assert await look_up(hasty, 1) == ([NOWHERE], [-1])
    assert hasty.second_tier_statistics().timeouts == 1
    tier.answers.set()
    await until(lambda: hasty.statistics().entries == 1)
    assert await look_up(hasty, 1) == ([MEMORY], [1])


async def test_a_late_answer_does_not_touch_the_callers_array(
    hasty: TieredEmbeddingCache, tier: FakeSecondTier
) -> None:
    fill(tier, 1)
    tier.answers.clear()
    out = vectors(-1)
    places = await look_everywhere(hasty, keys(1), out)
    tier.answers.set()
    await until(lambda: hasty.statistics().entries == 1)
    assert places.tolist() == [NOWHERE]
    np.testing.assert_array_equal(out, vectors(-1))


@pytest.mark.parametrize(
    "error", [ConnectionError("refused"), TimeoutError(), ValueError("a defect")]
)
async def test_a_tier_that_fails_is_a_miss_and_nothing_more(
    cache: TieredEmbeddingCache, tier: FakeSecondTier, error: Exception
) -> None:
    fill(tier, 1)
    tier.error = error
    assert await look_up(cache, 1) == ([NOWHERE], [-1])
    await cache.store(keys(2), vectors(2))
    assert await look_up(cache, 2) == ([MEMORY], [2])
    await cache.purge(TAG)
    await cache.close(1)
    assert cache.second_tier_statistics().errors == 1


async def test_a_tier_that_answers_with_too_few_values_is_a_miss(
    cache: TieredEmbeddingCache, tier: FakeSecondTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def get_less(keys: list[bytes]) -> list[bytes | None]:
        return [None]

    monkeypatch.setattr(tier, "get", get_less)
    assert await look_up(cache, 1, 2) == ([NOWHERE, NOWHERE], [-1, -1])


@pytest.mark.parametrize("how", ["slow", "failing"])
async def test_a_tier_that_keeps_failing_is_not_asked_any_more(
    hasty: TieredEmbeddingCache, tier: FakeSecondTier, how: str
) -> None:
    if how == "slow":
        tier.answers.clear()
    else:
        tier.error = ConnectionError("refused")
    for _ in range(10):
        assert await look_up(hasty, 1) == ([NOWHERE], [-1])
    assert tier.num_gets == 3
    statistics = hasty.second_tier_statistics()
    assert statistics.breaker is BreakerState.OPEN
    assert (statistics.timeouts + statistics.errors, statistics.skipped) == (3, 7)


async def test_reading_goes_on_when_writing_fails(
    cache: TieredEmbeddingCache, tier: FakeSecondTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(keys: list[bytes], values: list[bytes]) -> None:
        raise OSError(28, "No space left on device")

    fill(tier, 2)
    monkeypatch.setattr(tier, "put", refuse)
    await cache.store(keys(1), vectors(1))
    await until(lambda: cache.second_tier_statistics().writes.breaker is BreakerState.OPEN)
    assert await look_up(cache, 2) == ([SHARED], [2])


async def test_a_caller_that_leaves_harms_nobody(
    cache: TieredEmbeddingCache, tier: FakeSecondTier
) -> None:
    fill(tier, 1)
    tier.answers.clear()
    leaver = asyncio.create_task(look_up(cache, 1))
    stayer = asyncio.create_task(look_up(cache, 1))
    await until(lambda: tier.num_gets == 2)
    leaver.cancel()
    tier.answers.set()
    assert await stayer == ([SHARED], [1])
    with pytest.raises(asyncio.CancelledError):
        await leaver
    assert cache.second_tier_statistics().breaker is BreakerState.CLOSED


async def test_look_ups_that_never_end_do_not_pile_up(
    tier: FakeSecondTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e2rank_server.embedding_cache.tiered._MAX_ASKED", 5)
    cache = tiered(tier, PATIENT_SECONDS)
    tier.answers.clear()
    waiting = [asyncio.create_task(look_up(cache, number)) for number in range(5)]
    await until(lambda: tier.num_gets == 5)
    assert await look_up(cache, 9) == ([NOWHERE], [-1])
    assert (tier.num_gets, cache.second_tier_statistics().skipped) == (5, 1)
    tier.answers.set()
    await asyncio.gather(*waiting)
    await look_up(cache, 10)
    assert tier.num_gets == 6
    await cache.close(0)


async def test_a_purge_empties_both_tiers_of_the_namespace(
    cache: TieredEmbeddingCache, tier: FakeSecondTier
) -> None:
    other = b"O" * 40
    await cache.store([*keys(1), other], vectors(1, 2))
    await until(lambda: cache.second_tier_statistics().writes.written == 2)
    await cache.purge(TAG)
    assert await look_up(cache, 1) == ([NOWHERE], [-1])
    assert list(tier.values) == [other]
    assert (await look_everywhere(cache, [other], vectors(-1))).tolist() == [MEMORY]


async def test_an_answer_that_comes_after_a_purge_does_not_fill_the_memory(
    hasty: TieredEmbeddingCache, tier: FakeSecondTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tier, 1)
    answer = asyncio.Event()

    async def get_then_wait(keys: list[bytes]) -> list[bytes | None]:
        values = [tier.values.get(key) for key in keys]
        await answer.wait()
        return values

    monkeypatch.setattr(tier, "get", get_then_wait)
    assert await look_up(hasty, 1) == ([NOWHERE], [-1])
    await hasty.purge(TAG)
    answer.set()
    await until(lambda: hasty.second_tier_statistics().hits == 1)
    assert hasty.statistics().entries == 0


async def test_what_another_replica_wrote_after_a_purge_does_not_fill_the_memory(
    cache: TieredEmbeddingCache, tier: FakeSecondTier
) -> None:
    await cache.purge(TAG)
    # It has not heard of the deletion; a request that began before it still looks for this.
    fill(tier, 1)
    assert await look_up(cache, 1) == ([SHARED], [1])
    assert cache.statistics().entries == 0


async def test_closing_writes_what_waits_and_ends_late_look_ups(tier: FakeSecondTier) -> None:
    cache = tiered(tier, 0.001)
    tier.answers.clear()
    await look_up(cache, 7)
    tier.answers.set()
    await cache.store(keys(*range(5)), vectors(*range(5)))
    await cache.close(20)
    assert sorted(tier.values) == keys(*range(5))
