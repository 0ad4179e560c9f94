"""The two sides, the server and a bare engine, timed one after the other."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import psutil

from benchmarks.latency.engines import BareEngine, engines_below, rest
from benchmarks.overhead.messages import CHANNEL_OPTIONS
from benchmarks.overhead.processes import listeners
from e2rank.v1 import rerank_pb2, rerank_pb2_grpc

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Server:
    """The server of a backbone: its Rerank, and the processes of each of its two engines."""

    rerank: Any
    engines: Sequence[Sequence[psutil.Process]]


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Server]:
    """Connect to a server that this process has started."""
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub = rerank_pb2_grpc.RerankServiceStub(channel)  # type: ignore[no-untyped-call]
        yield Server(stub.Rerank, engines_below(listeners(address)[0]))


class Turns:
    """Times the two sides, each when all engines are at rest."""

    def __init__(self, server: Server, engine: BareEngine) -> None:
        self.server = server
        self._engine = engine
        engines = engines_below(psutil.Process())  # the server's, too
        self._processes = [process for each in engines for process in each]

    async def serve(
        self, request: rerank_pb2.RerankRequest
    ) -> tuple[float, rerank_pb2.RerankResponse]:
        """Return the seconds that the server's client sees, and the answer."""
        return await self._time(lambda: self.server.rerank(request))

    async def bare(self, work: Callable[[BareEngine], Awaitable[None]]) -> float:
        """Return the seconds that `work` takes on the bare engine."""
        seconds, _ = await self._time(lambda: work(self._engine))
        return seconds

    async def _time(self, work: Callable[[], Awaitable[T]]) -> tuple[float, T]:
        await rest(self._processes)
        started = time.perf_counter()
        result = await work()
        return time.perf_counter() - started, result
