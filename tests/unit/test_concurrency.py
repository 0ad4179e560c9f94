import asyncio

import pytest

from e2rank_server.engine.concurrency import SharedTask, run_all, run_both


class Work:
    """Work that waits to be released and records how it ended."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def run(self) -> str:
        self.started.set()
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return "done"


async def test_all_waiters_get_the_one_result() -> None:
    work = Work()
    shared = SharedTask(work.run())
    waiters = [asyncio.create_task(shared.wait()) for _ in range(3)]
    await work.started.wait()
    work.released.set()
    assert await asyncio.gather(*waiters) == ["done"] * 3
    assert shared.is_done


async def test_a_waiter_that_leaves_does_not_stop_the_work() -> None:
    work = Work()
    shared = SharedTask(work.run())
    leaver, stayer = (asyncio.create_task(shared.wait()) for _ in range(2))
    await work.started.wait()
    leaver.cancel()
    await asyncio.wait([leaver])
    assert leaver.cancelled()
    assert not work.cancelled.is_set()
    work.released.set()
    assert await stayer == "done"


async def test_the_work_is_cancelled_when_its_last_waiter_leaves() -> None:
    work = Work()
    shared = SharedTask(work.run())
    waiters = [asyncio.create_task(shared.wait()) for _ in range(2)]
    await work.started.wait()
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)
    assert shared.is_done, "nobody may join work that is being cancelled"
    await work.cancelled.wait()


async def test_a_failure_reaches_every_waiter() -> None:
    async def fail() -> None:
        raise ValueError("broken")

    shared = SharedTask(fail())
    outcomes = await asyncio.gather(shared.wait(), shared.wait(), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["broken", "broken"]


async def test_run_all_keeps_order_and_raises_the_plain_error_after_stopping_the_rest() -> None:
    async def value(number: int) -> int:
        await asyncio.sleep(0)
        return number

    async def fail() -> int:
        await work.started.wait()
        raise ValueError("broken")

    assert await run_all(value(n) for n in (3, 1, 2)) == [3, 1, 2]
    work = Work()
    with pytest.raises(ValueError, match="broken"):
        await run_all([work.run(), fail()])  # type: ignore[list-item]
    assert work.cancelled.is_set()


async def test_run_both_unwraps_nested_groups() -> None:
    async def fail() -> int:
        raise KeyError("inner")

    async def nested() -> int:
        return (await run_both(fail(), Work().run()))[0]

    with pytest.raises(KeyError, match="inner"):
        await run_both(nested(), Work().run())
