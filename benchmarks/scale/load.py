"""Load on a server, and what it does to its latency and processor time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from benchmarks.overhead.messages import CHANNEL_OPTIONS, raw_rerank
from benchmarks.overhead.processes import cpu_seconds, listeners

# Else all channels of a process would share one connection.
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


@dataclass(frozen=True, slots=True)
class Point:
    """What some load did: percentiles of latency, rate, processor time of the gateway."""

    num_requests: int
    p50_ms: float
    p99_ms: float
    requests_per_second: float
    cpu_us_per_request: float
    cores: float


def summarize(seconds: Sequence[float], elapsed_seconds: float, used_cpu_seconds: float) -> Point:
    """Make a point of the latencies that were seen in `elapsed_seconds`."""
    p50, p99 = np.percentile(seconds, [50, 99]).tolist()
    return Point(
        num_requests=len(seconds),
        p50_ms=1e3 * p50,
        p99_ms=1e3 * p99,
        requests_per_second=len(seconds) / elapsed_seconds,
        cpu_us_per_request=1e6 * used_cpu_seconds / len(seconds),
        cores=used_cpu_seconds / elapsed_seconds,
    )


async def closed_loop(
    address: str, requests: Sequence[bytes], *, clients: int, seconds: float
) -> Point:
    """Let each client, on a connection of its own, send one request after another."""
    processes = [process.pid for process in listeners(address)]
    latencies: list[float] = []
    async with AsyncExitStack() as stack:
        calls = []
        for _ in range(clients):
            channel = grpc.aio.insecure_channel(address, (*CHANNEL_OPTIONS, *_OWN_CONNECTION))
            call = raw_rerank(await stack.enter_async_context(channel))
            await call(requests[0], wait_for_ready=True)
            calls.append(call)
        before = sum(cpu_seconds(pid) for pid in processes)
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number, call in enumerate(calls):
                sending = _send(call, requests, number, started + seconds, latencies)
                group.create_task(sending)
        elapsed = time.perf_counter() - started
        used = sum(cpu_seconds(pid) for pid in processes) - before
    return summarize(latencies, elapsed, used)


async def _send(
    call: Any,  # noqa: ANN401 - grpc's callables are untyped
    requests: Sequence[bytes],
    number: int,
    end: float,
    latencies: list[float],
) -> None:
    """Send requests until `end`, beginning with another one than the other clients."""
    while (started := time.perf_counter()) < end:
        await call(requests[number % len(requests)])
        latencies.append(time.perf_counter() - started)
        number += 1
