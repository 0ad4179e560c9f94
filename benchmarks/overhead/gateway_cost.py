"""The gateway beside an echo: processor time that each server takes for a request.

The gateway runs on fakes (no model, everything cached, tokenization in
process), so that what it costs is its own: interceptors, decoding, look-up,
scoring, encoding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import grpc

from benchmarks.intervals import Estimate, median, ratio_of_medians
from benchmarks.overhead.messages import CHANNEL_OPTIONS, MethodName, raw_rerank, rerank_request
from benchmarks.overhead.processes import cpu_seconds, echo_server, listeners
from benchmarks.overhead.texts import Texts
from benchmarks.server_flags import MEMORY_ONLY, ON_FAKES
from e2rank.v1 import rerank_pb2
from e2rank_client.local_server import local_server

NUM_DOCUMENTS = 100
DOCUMENT_BYTES = 1024
ITERATIONS = 40
REQUESTS_PER_ITERATION = 100
REQUESTS_IN_FLIGHT = 8
WARM_UP_ITERATIONS = 3


class _Server:
    """A server under load, and the processor time that it takes."""

    def __init__(self, channel: grpc.aio.Channel, pid: int) -> None:
        self._rerank = raw_rerank(channel)
        self._pid = pid

    async def seconds_per_request(self, requests: Sequence[bytes]) -> float:
        """Send each request, several at once; return the server's processor time for one."""
        before = cpu_seconds(self._pid)
        pending = iter(requests)
        async with asyncio.TaskGroup() as group:
            for _ in range(REQUESTS_IN_FLIGHT):
                group.create_task(self._send(pending))
        return (cpu_seconds(self._pid) - before) / len(requests)

    async def answer(self, request: bytes) -> rerank_pb2.RerankResponse:
        return rerank_pb2.RerankResponse.FromString(await self._rerank(request))

    async def _send(self, requests: object) -> None:
        for request in requests:  # type: ignore[attr-defined]
            await self._rerank(request)


async def measure_gateway(advance: Callable[[], None]) -> dict[str, Estimate]:
    """Return the ratios of rates (echo's time ÷ gateway's) and each side's µs a request."""
    methods: tuple[MethodName, ...] = ("cosine", "e2rank")
    texts = Texts()
    passages = [texts.passage_of_bytes(DOCUMENT_BYTES) for _ in range(NUM_DOCUMENTS)]
    async with AsyncExitStack() as stack:
        gateway = await _open(stack, stack.enter_context(local_server([*ON_FAKES, *MEMORY_ONLY])))
        echo = await _open(stack, stack.enter_context(echo_server()))
        for method in methods:
            await _warm_up(gateway, texts, passages, method)
        spent: dict[str, list[float]] = {"echo": [], "cosine": [], "e2rank": []}
        for iteration in range(WARM_UP_ITERATIONS + ITERATIONS):
            for method in methods:
                requests = _requests(texts, passages, method)
                spent[method].append(await gateway.seconds_per_request(requests))
            spent["echo"].append(await echo.seconds_per_request(requests))
            if iteration >= WARM_UP_ITERATIONS:
                advance()
    spent = {side: samples[WARM_UP_ITERATIONS:] for side, samples in spent.items()}
    return {
        "gateway_over_echo": ratio_of_medians(spent["echo"], spent["cosine"]),
        "gateway_over_echo.e2rank": ratio_of_medians(spent["echo"], spent["e2rank"]),
        **{
            f"gateway.{side}_cpu_us": median([1e6 * seconds for seconds in samples])
            for side, samples in spent.items()
        },
    }


async def _open(stack: AsyncExitStack, address: str) -> _Server:
    channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    return _Server(await stack.enter_async_context(channel), listeners(address)[0].pid)


async def _warm_up(
    gateway: _Server, texts: Texts, passages: Sequence[str], method: MethodName
) -> None:
    request = rerank_request(texts.query(), passages, method).SerializeToString()
    await gateway.answer(request)
    answer = await gateway.answer(request)
    assert answer.usage.documents_cached == len(answer.results) == NUM_DOCUMENTS


def _requests(texts: Texts, passages: list[str], method: MethodName) -> list[bytes]:
    """Make requests of which each has a query and an order of candidates of its own."""
    return [
        rerank_request(texts.query(), texts.shuffled(passages), method).SerializeToString()
        for _ in range(REQUESTS_PER_ITERATION)
    ]
