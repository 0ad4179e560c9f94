"""A gateway on a real socket with a fake model and a fake document store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from e2rank_server.engine.documents import DocumentsEngine
from e2rank_server.engine.namespace_epochs import NamespaceEpochs
from e2rank_server.gateway.server import GatewayServer
from tests.fake_document_store import FakeDocumentStore
from tests.fakes import FakeServedModel
from tests.gateway.running_gateway import LIMITS


@asynccontextmanager
async def documents_gateway(store: FakeDocumentStore, model: FakeServedModel) -> AsyncIterator[str]:
    """Serve at the address that is yielded."""

    async def forget(namespace: str, epoch: int) -> None:
        pass

    epochs = NamespaceEpochs(store, forget, interval_seconds=3600)
    await epochs.start()
    server = GatewayServer(
        [model],
        LIMITS,
        address="127.0.0.1:0",
        max_concurrent_requests=10,
        health_interval_seconds=0.01,
        documents=DocumentsEngine(store, epochs, b"s" * 32, max_answer_bytes=10_000),
    )
    yield await server.start()
    await server.stop(0)
    await epochs.close()
