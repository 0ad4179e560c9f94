"""Whether calls that are cancelled leave anything behind in the server."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from benchmarks.overhead.messages import CHANNEL_OPTIONS, raw_rerank, rerank_request
from benchmarks.overhead.processes import cpu_seconds, family, listeners
from benchmarks.overhead.texts import Texts
from e2rank.v1 import model_pb2, model_pb2_grpc

_DOCUMENTS = 20
_DOCUMENT_BYTES = 1024
_SEED = 3
_TIMED_CALLS = 10
# So many first: allocators take what they will keep.
_WARM_UP_CALLS = 100
_SETTLE_SECONDS = 10.0
# For a second after its last request vLLM's worker spins (see processes.stopped).
_SPINNING_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Holding:
    """What the server holds at a moment.

    Documents that were embedded before their call was cancelled stay cached,
    and count in `resident_mib`.
    """

    resident_mib: float
    open_files: int
    threads: int
    running_tokens: int
    waiting_tokens: int


@dataclass(frozen=True, slots=True)
class Cancellations:
    """How many calls were cancelled in time, how many were answered first, and what remained."""

    cancelled: int
    answered: int
    seconds: float
    before: Holding
    after: Holding
    cores_after: float
    """What server and engine still compute when they should be idle."""


async def cancel_calls(
    address: str, *, count: int, per_minute: float, advance: Callable[[], None]
) -> Cancellations:
    """Start calls whose documents are new, and cancel each at some moment of its life."""
    async with grpc.aio.insecure_channel(address, CHANNEL_OPTIONS) as channel:
        canceller = _Canceller(channel)
        await canceller.time_calls()
        await canceller.cancel(_WARM_UP_CALLS, per_minute, _ignore)
        canceller.cancelled = canceller.answered = 0
        before = await _holding(address, channel)
        started = time.perf_counter()
        await canceller.cancel(count, per_minute, advance)
        seconds = time.perf_counter() - started
        after = await _holding(address, channel)
    cores = await _cores_when_idle(address)
    return Cancellations(canceller.cancelled, canceller.answered, seconds, before, after, cores)


def _ignore() -> None:
    """Report no progress."""


class _Canceller:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._rerank = raw_rerank(channel)
        self._texts = Texts()
        self._numbers = random.Random(_SEED)  # noqa: S311 - chooses moments
        self._typical_seconds = 0.0
        self.cancelled = self.answered = 0

    async def time_calls(self) -> None:
        """Learn how long a call lives that is not cancelled."""
        seconds = []
        for _ in range(_TIMED_CALLS):
            started = time.perf_counter()
            await self._rerank(self._request())
            seconds.append(time.perf_counter() - started)
        self._typical_seconds = statistics.median(seconds)

    async def cancel(self, count: int, per_minute: float, advance: Callable[[], None]) -> None:
        """Start calls at an even pace until so many have been cancelled."""
        started = time.perf_counter()
        number = 0
        async with asyncio.TaskGroup() as calls:
            while self.cancelled < count:
                due = started + number * 60.0 / per_minute
                await asyncio.sleep(due - time.perf_counter())
                calls.create_task(self._cancel_one(advance))
                number += 1

    async def _cancel_one(self, advance: Callable[[], None]) -> None:
        """Make a call and cancel it at some moment, if it is not answered before."""
        call = self._rerank(self._request())
        timer = asyncio.get_running_loop().call_later(
            self._numbers.random() * self._typical_seconds, call.cancel
        )
        try:
            await call
        except asyncio.CancelledError:
            self.cancelled += 1
            advance()
        else:
            self.answered += 1
            timer.cancel()

    def _request(self) -> bytes:
        passages = [self._texts.passage_of_bytes(_DOCUMENT_BYTES) for _ in range(_DOCUMENTS)]
        return rerank_request(self._texts.query(), passages, "e2rank").SerializeToString()


async def _holding(address: str, channel: grpc.aio.Channel) -> Holding:
    """Look at the server once it has let go of all work, or has had the time to."""
    models = model_pb2_grpc.ModelServiceStub(channel)  # type: ignore[no-untyped-call]
    end = time.monotonic() + _SETTLE_SECONDS
    while True:
        load = (await models.GetModel(model_pb2.GetModelRequest())).model.load
        if load.running_tokens == 0 or time.monotonic() > end:
            break
        await asyncio.sleep(0.1)
    [process] = listeners(address)
    return Holding(
        resident_mib=process.memory_info().rss / 2**20,
        open_files=process.num_fds(),
        threads=process.num_threads(),
        running_tokens=load.running_tokens,
        waiting_tokens=load.waiting_tokens,
    )


async def _cores_when_idle(address: str) -> float:
    processes = [each.pid for listener in listeners(address) for each in family(listener)]
    await asyncio.sleep(_SPINNING_SECONDS)
    before = sum(cpu_seconds(pid) for pid in processes)
    await asyncio.sleep(1.0)
    return sum(cpu_seconds(pid) for pid in processes) - before
