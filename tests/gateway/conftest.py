"""A gateway on a real socket, in front of a fake model."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from e2rank_server.engine.documents import DocumentsEngine
from e2rank_server.engine.namespace_epochs import NamespaceEpochs
from e2rank_server.gateway.server import GatewayServer
from tests.fake_document_store import FakeDocumentStore
from tests.fakes import FakeServedModel
from tests.gateway.running_gateway import LIMITS, MAX_CONCURRENT_REQUESTS, Gateway


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    model = FakeServedModel()
    store = FakeDocumentStore()
    server = GatewayServer(
        [model],
        LIMITS,
        address="127.0.0.1:0",
        max_concurrent_requests=MAX_CONCURRENT_REQUESTS,
        health_interval_seconds=0.01,
        documents=DocumentsEngine(
            store, NamespaceEpochs(store), b"s" * 32, max_answer_bytes=LIMITS.max_request_bytes
        ),
    )
    address = await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield Gateway(server, model, address, channel)
    finally:
        await server.stop(0)
