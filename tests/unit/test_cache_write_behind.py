"""What reaches the second tier behind the requests' backs, and what does not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from e2rank_server.embedding_cache.circuit_breaker import BreakerState, CircuitBreaker
from e2rank_server.embedding_cache.write_behind import ENTRY_OVERHEAD_BYTES, WriteBehind
from tests.fake_second_tier import FakeSecondTier, until

VALUE = bytes(44)
ENTRY_BYTES = len(VALUE) + ENTRY_OVERHEAD_BYTES
TAG = b"T" * 16


def quick_breaker(name: str) -> CircuitBreaker:
    return CircuitBreaker(name, max_failures=3, pause_seconds=0.001, max_pause_seconds=0.002)


def patient_breaker(name: str) -> CircuitBreaker:
    return CircuitBreaker(name, max_failures=3, pause_seconds=3600)


@pytest.fixture
def tier() -> FakeSecondTier:
    return FakeSecondTier()


@pytest.fixture
async def writes(tier: FakeSecondTier) -> AsyncIterator[WriteBehind]:
    writes = WriteBehind(tier, quick_breaker, 100 * ENTRY_BYTES)
    yield writes
    await writes.close(0)


def keys(*numbers: int) -> list[bytes]:
    return [b"%040d" % number for number in numbers]


def put(writes: WriteBehind, *numbers: int) -> None:
    writes.put(keys(*numbers), [VALUE] * len(numbers))


async def test_what_is_put_is_written(writes: WriteBehind, tier: FakeSecondTier) -> None:
    put(writes, 1, 2)
    await until(lambda: writes.statistics().written == 2)
    assert tier.values == dict.fromkeys(keys(1, 2), VALUE)
    assert (writes.statistics().waiting, writes.statistics().waiting_bytes) == (0, 0)


async def test_what_comes_during_a_write_goes_with_the_next_one(
    writes: WriteBehind, tier: FakeSecondTier
) -> None:
    tier.answers.clear()
    put(writes, 0)
    await until(lambda: tier.num_puts == 1)
    for number in range(1, 50):
        put(writes, number)
    tier.answers.set()
    await until(lambda: writes.statistics().written == 50)
    assert tier.puts == [1, 49]


async def test_a_key_put_again_while_it_waits_is_written_once(
    writes: WriteBehind, tier: FakeSecondTier
) -> None:
    tier.answers.clear()
    put(writes, 0)
    await until(lambda: tier.num_puts == 1)
    for value in (b"old", b"new"):
        writes.put(keys(7), [value])
    tier.answers.set()
    await until(lambda: writes.statistics().waiting == 0)
    assert tier.values[keys(7)[0]] == b"new"
    assert tier.puts == [1, 1]


async def test_a_key_put_again_while_it_is_written_is_written_again(
    writes: WriteBehind, tier: FakeSecondTier
) -> None:
    tier.answers.clear()
    writes.put(keys(7), [b"old"])
    await until(lambda: tier.num_puts == 1)
    writes.put(keys(7), [b"new"])
    tier.answers.set()
    await until(lambda: writes.statistics().waiting == 0)
    assert tier.values[keys(7)[0]] == b"new"


async def test_beyond_its_bytes_the_oldest_are_dropped_and_counted(
    writes: WriteBehind, tier: FakeSecondTier
) -> None:
    tier.error = ConnectionError()
    for number in range(150):
        put(writes, number)
        assert writes.statistics().waiting_bytes <= 100 * ENTRY_BYTES
    assert writes.statistics().dropped == 50
    tier.error = None
    await until(lambda: writes.statistics().waiting == 0)
    assert sorted(tier.values) == keys(*range(50, 150))


async def test_an_entry_larger_than_the_queue_is_dropped(writes: WriteBehind) -> None:
    writes.put(keys(1), [bytes(100 * ENTRY_BYTES)])
    assert (writes.statistics().waiting, writes.statistics().dropped) == (0, 1)


async def test_what_a_tier_misses_while_it_is_away_is_written_when_it_is_back(
    writes: WriteBehind, tier: FakeSecondTier
) -> None:
    tier.error = ConnectionError("refused")
    put(writes, 1, 2)
    await until(lambda: writes.statistics().breaker is BreakerState.OPEN)
    put(writes, 3)
    tier.error = None
    await until(lambda: writes.statistics().written == 3)
    assert writes.statistics().breaker is BreakerState.CLOSED
    assert sorted(tier.values) == keys(1, 2, 3)


async def test_a_tier_that_is_away_is_not_asked_all_the_time(tier: FakeSecondTier) -> None:
    writes = WriteBehind(tier, patient_breaker, 100 * ENTRY_BYTES)
    tier.error = ConnectionError("refused")
    put(writes, 1)
    await until(lambda: writes.statistics().breaker is BreakerState.OPEN)
    for number in range(20):
        put(writes, number)
        await asyncio.sleep(0)
    assert (tier.num_puts, writes.statistics().errors) == (3, 3)
    await writes.close(0)


async def test_a_purge_deletes_what_is_there_what_waits_and_what_is_being_written(
    writes: WriteBehind, tier: FakeSecondTier
) -> None:
    there, written, waiting = TAG + b"there", TAG + b"written", TAG + b"waiting"
    tier.values[there] = VALUE
    tier.answers.clear()
    writes.put([written], [VALUE])
    await until(lambda: tier.num_puts == 1)
    writes.put([waiting, *keys(1)], [VALUE] * 2)
    purge = asyncio.create_task(writes.purge(TAG))
    await asyncio.sleep(0)
    tier.answers.set()
    await purge
    await until(lambda: writes.statistics().waiting == 0)
    assert list(tier.values) == keys(1)


async def test_a_purge_of_a_tier_that_is_away_is_done_when_it_is_back(
    writes: WriteBehind, tier: FakeSecondTier
) -> None:
    tier.values = dict.fromkeys([TAG + b"there", *keys(1)], VALUE)
    tier.error = ConnectionError("refused")
    await asyncio.gather(writes.purge(TAG), writes.purge(TAG))
    assert writes.statistics().waiting_purges == 1
    tier.error = None
    await until(lambda: writes.statistics().waiting_purges == 0)
    assert list(tier.values) == keys(1)


async def test_a_purge_that_keeps_failing_holds_no_write_up(
    tier: FakeSecondTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(namespace_tag: bytes) -> None:
        raise PermissionError("no SCAN for you")

    monkeypatch.setattr(tier, "purge", refuse)
    writes = WriteBehind(tier, patient_breaker, 100 * ENTRY_BYTES)
    await writes.purge(TAG)
    put(writes, 1)
    await until(lambda: writes.statistics().written == 1)
    assert writes.statistics().waiting_purges == 1
    await writes.close(0)


async def test_a_caller_that_leaves_does_not_end_the_purge(
    writes: WriteBehind, tier: FakeSecondTier
) -> None:
    tier.values = {TAG + b"there": VALUE}
    tier.answers.clear()
    purge = asyncio.create_task(writes.purge(TAG))
    await asyncio.sleep(0)
    purge.cancel()
    tier.answers.set()
    await until(lambda: not tier.values)


async def test_closing_writes_what_waits(tier: FakeSecondTier) -> None:
    writes = WriteBehind(tier, quick_breaker, 10_000 * ENTRY_BYTES)
    put(writes, *range(3000))
    await writes.close(20)
    assert len(tier.values) == 3000


async def test_closing_does_not_wait_for_a_tier_that_is_away(
    tier: FakeSecondTier, caplog: pytest.LogCaptureFixture
) -> None:
    writes = WriteBehind(tier, patient_breaker, 100 * ENTRY_BYTES)
    tier.error = ConnectionError("refused")
    put(writes, 1, 2)
    await until(lambda: writes.statistics().breaker is BreakerState.OPEN)
    async with asyncio.timeout(20):
        await writes.close(3600)
    assert "2 embeddings were not written" in caplog.text


async def test_closing_does_not_wait_longer_than_it_is_told_for_one_that_hangs(
    tier: FakeSecondTier, caplog: pytest.LogCaptureFixture
) -> None:
    writes = WriteBehind(tier, quick_breaker, 100 * ENTRY_BYTES)
    tier.answers.clear()
    put(writes, 1)
    purge = asyncio.create_task(writes.purge(TAG))
    async with asyncio.timeout(20):
        await writes.close(0.01)
        await purge
    assert "1 embeddings were not written" in caplog.text
    assert [each for each in caplog.records if each.levelno > logging.WARNING] == []


async def test_closing_what_was_never_used_does_nothing(tier: FakeSecondTier) -> None:
    await WriteBehind(tier, quick_breaker, 100).close(1)
