"""A server whose answers a test decides, and either client of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from e2rank.v1 import (
    document_pb2_grpc,
    embedding_pb2_grpc,
    model_pb2_grpc,
    rerank_pb2_grpc,
)
from e2rank_client import AsyncE2RankClient, E2RankClient


class CannedServer:
    """Answers every RPC with `answer`, or by calling it; keeps what it was sent, and when."""

    def __init__(self) -> None:
        self.answer: Any = None
        self.request: Any = None
        self.metadata: dict[str, str | bytes] = {}
        """Of the last call."""
        self.arrivals: list[float] = []
        self.cancelled = asyncio.Event()
        self.health = health.aio.HealthServicer()
        self.address = ""
        self.grpc_server: grpc.aio.Server | None = None

    async def respond(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        self.request = request
        self.metadata = dict(context.invocation_metadata() or ())
        self.arrivals.append(time.monotonic())
        try:
            return await self.answer(context) if callable(self.answer) else self.answer
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    # The names by which the generated code looks handlers up.
    Rerank = Embed = GetModel = ListModels = respond
    PutDocuments = GetDocuments = DeleteDocuments = respond
    DeleteNamespace = GetNamespaceStats = respond

    async def set_serving(self, is_serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        await self.health.set("", status.SERVING if is_serving else status.NOT_SERVING)


@asynccontextmanager
async def canned_server(listen: str = "127.0.0.1:0") -> AsyncIterator[CannedServer]:
    canned = CannedServer()
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    grpc_server = grpc.aio.server(options=unlimited)
    rerank_pb2_grpc.add_RerankServiceServicer_to_server(canned, grpc_server)
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(canned, grpc_server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(canned, grpc_server)
    document_pb2_grpc.add_DocumentServiceServicer_to_server(canned, grpc_server)
    health_pb2_grpc.add_HealthServicer_to_server(canned.health, grpc_server)
    port = grpc_server.add_insecure_port(listen)
    canned.address = listen if listen.startswith("unix:") else f"127.0.0.1:{port}"
    canned.grpc_server = grpc_server
    await grpc_server.start()
    yield canned
    await grpc_server.stop(None)


class InThread:
    """The blocking client, with each method in a thread so that the server's loop can run."""

    def __init__(self, client: E2RankClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._client, name)
        return lambda *args, **kwargs: asyncio.to_thread(method, *args, **kwargs)


@asynccontextmanager
async def open_client(kind: str, address: Any, **options: Any) -> AsyncIterator[Any]:
    """Open the `async` or the `blocking` client; methods of either are to be awaited."""
    if kind == "async":
        async with AsyncE2RankClient(address, **options) as async_client:
            yield async_client
    else:
        with E2RankClient(address, **options) as blocking_client:
            yield InThread(blocking_client)


def failure(
    code: grpc.StatusCode,
    message: str,
    *details: Any,
    trailers: tuple[tuple[str, str], ...] = (),
) -> Callable[[Any], Awaitable[None]]:
    """Make an answer that ends the call with a status and its google.rpc details."""
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        status.details.add().Pack(detail)
    packed = rpc_status.to_status(status).trailing_metadata

    async def abort(context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(code, message, (*packed, ("x-request-id", "r-7"), *trailers))

    return abort


def reason(name: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=name, domain="e2rank.v1")


async def forever(_context: Any) -> None:
    await asyncio.Event().wait()
