"""The server as a whole: addresses, models, reflection, draining."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from e2rank.v1 import (
    document_pb2,
    document_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    rerank_pb2,
)
from e2rank_server.errors import ConfigurationError
from e2rank_server.gateway.server import DOCUMENT_SERVICE, GatewayServer
from tests.fakes import DESCRIPTION, FakeServedModel
from tests.gateway.running_gateway import LIMITS, Gateway, failure_of
from tests.gateway.wire_requests import rerank_request


def server_at(address: str, *models: FakeServedModel) -> GatewayServer:
    return GatewayServer(
        models or [FakeServedModel()],
        LIMITS,
        address=address,
        max_concurrent_requests=1,
        health_interval_seconds=1,
    )


async def test_port_zero_becomes_a_port_that_answers(gateway: Gateway) -> None:
    host, _, port = gateway.address.rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0


async def test_port_in_use_is_a_configuration_error_that_names_it(gateway: Gateway) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await server_at(gateway.address).start()
    assert len(caught.value.problems) == 1
    assert gateway.address in caught.value.problems[0]


async def test_server_that_never_started_can_be_stopped() -> None:
    await server_at("127.0.0.1:0").stop(0)


async def test_requests_go_to_the_model_they_name_and_else_to_the_first() -> None:
    first = FakeServedModel()
    second = FakeServedModel(replace(DESCRIPTION, profile="second", fingerprint="f2"))
    server = server_at("127.0.0.1:0", first, second)
    async with grpc.aio.insecure_channel(await server.start()) as channel:
        gateway = Gateway(server, first, "", channel)
        assert (await gateway.rerank(rerank_request())).model.profile == "fake-model"
        named = await gateway.rerank(rerank_request(model="second"))
        assert named.model.profile == "second"
        listed = await gateway.models.ListModels(model_pb2.ListModelsRequest())
        assert [model.identity.profile for model in listed.models] == ["fake-model", "second"]
    await server.stop(0)
    assert (len(first.requests), len(second.requests)) == (1, 1)


async def test_get_model_describes_the_profile_and_the_limits(gateway: Gateway) -> None:
    answer = await gateway.models.GetModel(model_pb2.GetModelRequest())
    model = answer.model
    assert model.identity.fingerprint == "fingerprint-1"
    assert (model.dimension, model.compute_dtype) == (4, "float32")
    assert model.default_method == rerank_pb2.RERANK_METHOD_COSINE
    assert model.default_prompt_order == rerank_pb2.PROMPT_ORDER_COSINE
    assert model.limits == model_pb2.ModelLimits(
        max_documents_per_request=10,
        max_inputs_per_request=4,
        max_query_bytes=64,
        max_document_bytes=128,
        max_request_bytes=64 * 1024,
        max_query_tokens=16,
        max_document_tokens=32,
        max_prompt_tokens=128,
        default_prompt_documents=3,
        max_prompt_documents=5,
    )


async def test_get_model_and_list_models_say_how_the_cache_is_doing(gateway: Gateway) -> None:
    got = (await gateway.models.GetModel(model_pb2.GetModelRequest())).model.cache
    [listed] = (await gateway.models.ListModels(model_pb2.ListModelsRequest())).models
    assert got == listed.cache
    assert (got.hits, got.misses, got.entries, got.resident_bytes) == (8, 5, 3, 2304)
    assert not got.HasField("second_tier")


async def test_get_model_of_an_unknown_name_is_not_found(gateway: Gateway) -> None:
    failure = await failure_of(gateway.models.GetModel(model_pb2.GetModelRequest(model="x")))
    assert failure.code is grpc.StatusCode.NOT_FOUND


async def reflect(gateway: Gateway, **request: str) -> reflection_pb2.ServerReflectionResponse:
    stub = reflection_pb2_grpc.ServerReflectionStub(gateway.channel)
    stream = stub.ServerReflectionInfo()
    await stream.write(reflection_pb2.ServerReflectionRequest(**request))
    await stream.done_writing()
    return await stream.read()


async def test_reflection_lists_all_services(gateway: Gateway) -> None:
    answer = await reflect(gateway, list_services="")
    assert sorted(service.name for service in answer.list_services_response.service) == [
        "e2rank.v1.DocumentService",
        "e2rank.v1.EmbeddingService",
        "e2rank.v1.ModelService",
        "e2rank.v1.RerankService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    ]


async def test_a_server_without_a_store_has_no_document_service() -> None:
    server = server_at("127.0.0.1:0")
    async with grpc.aio.insecure_channel(await server.start()) as channel:
        documents = document_pb2_grpc.DocumentServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await documents.GetNamespaceStats(document_pb2.GetNamespaceStatsRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        health = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service=DOCUMENT_SERVICE))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    await server.stop(0)


async def test_reflection_describes_a_method(gateway: Gateway) -> None:
    answer = await reflect(gateway, file_containing_symbol="e2rank.v1.RerankService")
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(data)
        for data in answer.file_descriptor_response.file_descriptor_proto
    ]
    assert "e2rank/v1/rerank.proto" in {file.name for file in files}


async def list_models_forever(gateway: Gateway) -> None:
    while True:
        await gateway.models.ListModels(model_pb2.ListModelsRequest())


async def test_draining_server_finishes_calls_in_progress_and_takes_no_new_ones(
    gateway: Gateway,
) -> None:
    release = asyncio.Event()
    gateway.model.before_answering = release.wait  # type: ignore[assignment]
    call = asyncio.ensure_future(gateway.rerank(rerank_request()))
    await gateway.model.entered.wait()
    stopping = asyncio.create_task(gateway.server.stop(30))
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        late = Gateway(gateway.server, gateway.model, "", channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(list_models_forever(late), 10)
    # grpc cancels a call that arrives in the very moment of closing.
    assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    release.set()
    assert len((await call).results) == 2
    await stopping


async def test_calls_that_outlast_the_drain_are_cancelled(gateway: Gateway) -> None:
    gateway.model.before_answering = asyncio.Event().wait  # type: ignore[assignment]
    call = asyncio.ensure_future(gateway.rerank(rerank_request()))
    await gateway.model.entered.wait()
    await gateway.server.stop(0.05)
    assert gateway.model.cancelled.is_set()
    with pytest.raises(grpc.aio.AioRpcError):
        await call


async def test_calls_that_come_while_clients_learn_of_a_stop_are_answered(
    gateway: Gateway,
) -> None:
    watcher = gateway.health.Watch(health_pb2.HealthCheckRequest())
    stopping = asyncio.create_task(gateway.server.stop(30))
    while (await watcher.read()).status != health_pb2.HealthCheckResponse.NOT_SERVING:
        pass
    assert len((await gateway.rerank(rerank_request())).results) == 2
    await stopping


async def test_an_old_connection_is_replaced_without_a_failed_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = GatewayServer(
        [FakeServedModel()],
        LIMITS,
        address="127.0.0.1:0",
        max_concurrent_requests=1,
        health_interval_seconds=1,
        max_connection_age_seconds=0.05,
    )
    caplog.set_level(logging.DEBUG, "e2rank_server.access")
    async with grpc.aio.insecure_channel(await server.start()) as channel:
        models = model_pb2_grpc.ModelServiceStub(channel)
        async with asyncio.timeout(20):
            while len({record.args[-1] for record in caplog.records}) < 2:
                await models.ListModels(model_pb2.ListModelsRequest())
    await server.stop(0)
