"""grpc.health.v1: Check and Watch through a server's life."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from e2rank.v1 import model_pb2
from e2rank_server.gateway.server import SERVICES, GatewayServer
from tests.fakes import DESCRIPTION, FakeServedModel
from tests.gateway.running_gateway import LIMITS, Gateway

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Watcher:
    """A Watch stream."""

    def __init__(self, gateway: Gateway, service: str = "") -> None:
        self.stream = gateway.health.Watch(health_pb2.HealthCheckRequest(service=service))

    async def next(self) -> Any:
        answer = await asyncio.wait_for(self.stream.read(), 10)
        return answer if answer is grpc.aio.EOF else answer.status

    async def until(self, status: int) -> None:
        while await self.next() != status:
            pass


async def test_watcher_sees_a_whole_life(gateway: Gateway) -> None:
    watcher = Watcher(gateway)
    await watcher.until(SERVING)
    assert await gateway.is_serving()

    gateway.model.is_healthy = False
    assert await watcher.next() == NOT_SERVING
    assert not await gateway.is_serving()

    gateway.model.is_healthy = True
    assert await watcher.next() == SERVING
    assert await gateway.is_serving("e2rank.v1.RerankService")

    stopping = asyncio.create_task(gateway.server.stop(10))
    assert await watcher.next() == NOT_SERVING
    assert await watcher.next() is grpc.aio.EOF
    await stopping


async def test_server_is_not_serving_until_the_first_check_has_passed(gateway: Gateway) -> None:
    model = FakeServedModel()
    passed = asyncio.Event()
    model.check_health = passed.wait  # type: ignore[assignment]
    server = GatewayServer(
        [model],
        LIMITS,
        address="127.0.0.1:0",
        max_concurrent_requests=1,
        health_interval_seconds=0.01,
    )
    async with grpc.aio.insecure_channel(await server.start()) as channel:
        young = Gateway(server, model, "", channel)
        watcher = Watcher(young)
        assert await watcher.next() == NOT_SERVING
        passed.set()
        assert await watcher.next() == SERVING
    await server.stop(0)


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_every_service_has_a_status(gateway: Gateway, service: str) -> None:
    await Watcher(gateway, service).until(SERVING)
    assert await gateway.is_serving(service)


async def test_unknown_service_is_not_found_by_check_and_unknown_to_watch(
    gateway: Gateway,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.is_serving("nope")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert await Watcher(gateway, "nope").next() == SERVICE_UNKNOWN


async def test_watcher_still_hears_of_changes_after_another_left(gateway: Gateway) -> None:
    staying, leaving = Watcher(gateway), Watcher(gateway)
    await staying.until(SERVING)
    await leaving.until(SERVING)
    leaving.stream.cancel()
    gateway.model.is_healthy = False
    assert await staying.next() == NOT_SERVING


async def test_monitor_outlives_a_check_that_raises_something_else(gateway: Gateway) -> None:
    watcher = Watcher(gateway)
    await watcher.until(SERVING)

    async def explode() -> None:
        raise RuntimeError("boom")

    gateway.model.check_health = explode  # type: ignore[method-assign]
    assert await watcher.next() == NOT_SERVING
    del gateway.model.check_health
    assert await watcher.next() == SERVING


async def test_each_model_has_a_health_of_its_own_and_the_server_serves_while_any_does() -> None:
    first = FakeServedModel()
    second = FakeServedModel(replace(DESCRIPTION, profile="second"))
    second.is_healthy = False
    server = GatewayServer(
        [first, second],
        LIMITS,
        address="127.0.0.1:0",
        max_concurrent_requests=1,
        health_interval_seconds=0.01,
    )
    async with grpc.aio.insecure_channel(await server.start()) as channel:
        client = Gateway(server, first, "", channel)
        watchers = [Watcher(client, name) for name in ("", "models/fake-model", "models/second")]
        everything, good, bad = watchers
        await everything.until(SERVING)
        await good.until(SERVING)
        assert await bad.next() == NOT_SERVING
        second.is_healthy = True
        assert await bad.next() == SERVING
        first.is_healthy = False
        assert await good.next() == NOT_SERVING
        assert await client.is_serving()
        listed = (await client.models.ListModels(model_pb2.ListModelsRequest())).models
        assert [model.load.is_serving for model in listed] == [False, True]
        second.is_healthy = False
        assert await everything.next() == NOT_SERVING
    await server.stop(0)


async def test_watchers_do_not_hold_up_a_drain(gateway: Gateway) -> None:
    watcher = Watcher(gateway)
    await watcher.until(SERVING)
    started = time.monotonic()
    await gateway.server.stop(60)
    assert time.monotonic() - started < 10
