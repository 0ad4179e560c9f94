"""The two ways in which the engine runs things side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")


class SharedTask(Generic[T]):
    """Work whose result several callers await.

    It is cancelled when its last waiter leaves, never before: a caller that
    gives up must not fail the others, and work that nobody waits for must not
    go on.
    """

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._task = asyncio.create_task(work)
        # A failure after the last waiter left has nobody to go to.
        self._task.add_done_callback(_retrieve_exception)
        self._num_waiters = 0

    @property
    def is_done(self) -> bool:
        """Whether the work has ended, or has been told to because nobody waits."""
        return self._task.done() or self._task.cancelling() > 0

    async def wait(self) -> T:
        """Return the result, or raise what the work raised."""
        self._num_waiters += 1
        try:
            return await asyncio.shield(self._task)
        finally:
            self._num_waiters -= 1
            if self._num_waiters == 0 and not self._task.done():
                self._task.cancel()


def _retrieve_exception(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


async def run_all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines together and return their results in order.

    If one fails, the rest are cancelled and awaited, and its exception is
    raised, not a group: of several failures the first counts.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except BaseExceptionGroup as failures:
        raise _first(failures) from None
    return [task.result() for task in tasks]


async def run_both(first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """Do as `run_all` does, for two of different types."""
    work: tuple[Coroutine[Any, Any, Any], ...] = (first, second)
    one, other = await run_all(work)
    return one, other


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    failure: BaseException = failures
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
