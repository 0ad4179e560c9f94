import asyncio
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2rank_server.engine.admission import WorkGate
from e2rank_server.errors import OverloadedError
from tests.unit.engine_rig import settle


async def hold(
    gate: WorkGate,
    tokens: int,
    release: asyncio.Event,
    log: list[str],
    name: str,
    priority: int = 0,
) -> None:
    async with gate.admit(tokens, priority):
        log.append(name)
        await release.wait()


async def test_work_within_the_bound_does_not_wait() -> None:
    gate = WorkGate(100, 100)
    async with gate.admit(60) as first, gate.admit(40) as second:
        assert gate.running_tokens == 100
        assert gate.waiting_tokens == 0
        assert max(first.waited_seconds, second.waited_seconds) < 1
    assert gate.running_tokens == 0


async def test_what_a_permit_gives_back_admits_others() -> None:
    gate = WorkGate(10, 100)
    log: list[str] = []
    release = asyncio.Event()
    async with gate.admit(10) as permit:
        waiting = asyncio.create_task(hold(gate, 6, release, log, "second"))
        await settle()
        assert log == []
        permit.reduce_to(4)
        permit.reduce_to(8)  # which is more than it still has
        await settle()
        assert (log, gate.running_tokens) == (["second"], 10)
    assert gate.running_tokens == 6
    release.set()
    await waiting
    assert gate.running_tokens == 0


async def test_waiting_work_is_admitted_by_priority_then_arrival() -> None:
    gate = WorkGate(10, 100)
    log: list[str] = []
    release = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(hold(gate, 10, release, log, "running"))
        await settle()
        for name, priority in (("a", 1), ("b", 0), ("c", 1), ("d", -1)):
            group.create_task(hold(gate, 10, release, log, name, priority))
        await settle()
        assert log == ["running"]
        assert gate.waiting_tokens == 40
        release.set()
    assert log == ["running", "d", "b", "a", "c"]
    assert (gate.running_tokens, gate.waiting_tokens) == (0, 0)


async def test_small_work_does_not_overtake_large_work_that_waits() -> None:
    gate = WorkGate(10, 100)
    log: list[str] = []
    releases = {name: asyncio.Event() for name in ("running", "large", "small")}
    async with asyncio.TaskGroup() as group:
        for name, tokens in (("running", 6), ("large", 10), ("small", 1)):
            group.create_task(hold(gate, tokens, releases[name], log, name))
            await settle()
        assert log == ["running"]
        releases["running"].set()
        await settle()
        assert log == ["running", "large"]
        releases["large"].set()
        releases["small"].set()


async def test_too_much_waiting_work_is_refused_with_numbers_and_a_delay() -> None:
    gate = WorkGate(10, 15)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(gate.admit(10))
        waiter = asyncio.create_task(hold(gate, 8, asyncio.Event(), [], "waiter"))
        await settle()
        with pytest.raises(OverloadedError, match=r"8 tokens .* 8 more .* limit of 15") as caught:
            async with gate.admit(8):
                pass
        assert caught.value.retry_after_seconds > 0
        waiter.cancel()
        await asyncio.wait([waiter])
    assert (gate.running_tokens, gate.waiting_tokens) == (0, 0)


async def test_work_that_must_leave_room_waits_while_others_pass_it() -> None:
    gate = WorkGate(10, 100)
    log: list[str] = []
    release = asyncio.Event()

    async def batch() -> None:
        async with gate.admit(9, 2, share=0.5):
            log.append("batch")

    async with gate.admit(4):
        waiting = asyncio.create_task(batch())
        await settle()
        assert (log, gate.waiting_tokens) == ([], 5)
        urgent = asyncio.create_task(hold(gate, 6, release, log, "urgent", 0))
        await settle()
        assert log == ["urgent"]
        release.set()
        await urgent
        assert log == ["urgent"]  # what came first is still running
    await waiting
    assert log == ["urgent", "batch"]


async def test_work_larger_than_the_bound_is_admitted_alone() -> None:
    gate = WorkGate(10, 100)
    async with gate.admit(1000):
        assert gate.running_tokens == 10
    assert gate.running_tokens == 0


async def test_a_waiter_that_leaves_lets_the_next_one_through() -> None:
    gate = WorkGate(10, 100)
    log: list[str] = []
    release = asyncio.Event()
    first = asyncio.create_task(hold(gate, 5, release, log, "first"))
    await settle()
    large = asyncio.create_task(hold(gate, 10, release, log, "large"))
    await settle()
    small = asyncio.create_task(hold(gate, 5, release, log, "small"))
    await settle()
    assert log == ["first"]
    large.cancel()
    await settle()
    assert log == ["first", "small"]
    release.set()
    await asyncio.gather(first, small)
    assert (gate.running_tokens, gate.waiting_tokens) == (0, 0)


async def test_leaving_in_the_moment_of_admission_returns_the_permit() -> None:
    gate = WorkGate(10, 100)
    release = asyncio.Event()
    first = asyncio.create_task(hold(gate, 10, release, [], "first"))
    await settle()
    second = asyncio.create_task(hold(gate, 10, asyncio.Event(), [], "second"))
    await settle()
    release.set()
    await first  # its exit has admitted the second, which has not run yet
    second.cancel()
    await asyncio.wait([second])
    assert (gate.running_tokens, gate.waiting_tokens) == (0, 0)


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(-1, 1), st.booleans()), max_size=20))
def test_permits_balance_on_every_way_out(work: list[tuple[int, int, bool]]) -> None:
    async def scenario() -> None:
        gate = WorkGate(20, 200)
        release = asyncio.Event()
        most = 0

        async def one(tokens: int, priority: int, fails: bool) -> None:
            nonlocal most
            async with gate.admit(tokens, priority):
                most = max(most, gate.running_tokens)
                await release.wait()
                if fails:
                    raise ValueError

        tasks = [asyncio.create_task(one(*each)) for each in work]
        await settle()
        for task in tasks[::3]:
            task.cancel()
        release.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most <= 20
        assert (gate.running_tokens, gate.waiting_tokens) == (0, 0)

    asyncio.run(scenario())
