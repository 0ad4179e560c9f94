"""Hundreds of cancelled calls leave nothing behind: no task, no file, no permit, no prompt."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from e2rank.v1 import rerank_pb2, rerank_pb2_grpc
from e2rank_server.gateway.limits import GatewayLimits
from e2rank_server.gateway.server import GatewayServer
from tests.unit.engine_rig import EngineRig

CALLS = 300
DOCUMENTS = 4


@dataclass
class Rig:
    """A gateway on a real socket, over the whole engine on fakes."""

    engine: EngineRig
    channel: grpc.aio.Channel

    async def wait_until_prompts_run(self, count: int) -> None:
        async with asyncio.timeout(10):
            while self.engine.embedder.num_running_prompts < count:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0)

    async def wait_until_idle(self, tasks: int) -> None:
        """Return once there are no more tasks than before, whatever they were."""
        async with asyncio.timeout(10):
            while (  # noqa: ASYNC110 - no event
                len(asyncio.all_tasks()) > tasks or self.engine.gate.running_tokens
            ):
                await asyncio.sleep(0)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    engine = EngineRig()
    server = GatewayServer(
        [engine.model],
        GatewayLimits(),
        address="127.0.0.1:0",
        max_concurrent_requests=CALLS,
        health_interval_seconds=3600,
    )
    address = await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        yield Rig(engine, channel)
    await server.stop(0)


def request(number: int, method: str) -> rerank_pb2.RerankRequest:
    """Ask about documents of which half are new and half are the last call's."""
    message = rerank_pb2.RerankRequest(query=f"query {number}")
    getattr(message, method).SetInParent()
    for index in range(DOCUMENTS):
        message.documents.add(text=f"document {number * DOCUMENTS // 2 + index}")
    return message


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("method", ["cosine", "e2rank"])
async def test_calls_that_are_cancelled_while_the_model_computes_leave_nothing(
    rig: Rig, method: str
) -> None:
    rerank = rerank_pb2_grpc.RerankServiceStub(rig.channel).Rerank
    await rerank(request(0, method))
    tasks, files = len(asyncio.all_tasks()), open_files()

    for _ in range(2):
        rig.engine.embedder.hold()
        calls = [rerank(request(number, method)) for number in range(1, CALLS // 2)]
        await rig.wait_until_prompts_run(len(calls))
        for call in calls:
            call.cancel()
        await rig.wait_until_idle(tasks)
        rig.engine.embedder.release()

    gc.collect()
    assert len(asyncio.all_tasks()) <= tasks
    assert open_files() <= files
    assert rig.engine.embedder.num_running_prompts == 0
    assert rig.engine.model.load.running_tokens == rig.engine.model.load.waiting_tokens == 0
    answer = await rerank(request(1, method))
    assert len(answer.results) == DOCUMENTS


async def test_calls_that_are_cancelled_at_any_moment_leave_nothing(rig: Rig) -> None:
    rerank = rerank_pb2_grpc.RerankServiceStub(rig.channel).Rerank
    await rerank(request(0, "e2rank"))
    tasks, files = len(asyncio.all_tasks()), open_files()
    moments = random.Random(1)

    for number in range(1, CALLS):
        call = rerank(request(number, moments.choice(["cosine", "e2rank"])))
        waiting = asyncio.ensure_future(call)
        for _ in range(moments.randrange(40)):  # steps of the loop, not time
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait({waiting})

    await rig.wait_until_idle(tasks)
    assert open_files() <= files
    assert rig.engine.embedder.num_running_prompts == 0
    assert rig.engine.model.load.running_tokens == rig.engine.model.load.waiting_tokens == 0
