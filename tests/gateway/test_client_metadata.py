"""What both Python clients send beside a request: tokens, own metadata, ids, trace context."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from e2rank.v1 import embedding_pb2, model_pb2, rerank_pb2
from e2rank_client import (
    AsyncE2RankClient,
    DeadlineExceededError,
    E2RankClient,
    InvalidRequestError,
)
from e2rank_client.tracing import AsyncTracingInterceptor, TracingInterceptor
from tests.gateway.canned_server import (
    CannedServer,
    canned_server,
    failure,
    forever,
    open_client,
)

BOTH_CLIENTS = pytest.mark.parametrize("kind", ["async", "blocking"])
TOKEN = "secret-4711"


@pytest.fixture
async def server() -> AsyncIterator[CannedServer]:
    async with canned_server() as canned:
        canned.answer = model_pb2.GetModelResponse()
        yield canned


@BOTH_CLIENTS
async def test_a_token_and_own_metadata_go_with_every_call(server: CannedServer, kind: str) -> None:
    options = {"token": TOKEN, "metadata": {"x-tenant": "acme", "x-team": "Search & Co"}}
    async with open_client(kind, server.address, **options) as client:
        for _ in range(2):
            await client.get_model()
            assert server.metadata["authorization"] == f"Bearer {TOKEN}"
            assert server.metadata["x-tenant"] == "acme"
            assert server.metadata["x-team"] == "Search & Co"


@BOTH_CLIENTS
async def test_a_token_that_changes_is_asked_for_in_each_call(
    server: CannedServer, kind: str
) -> None:
    tokens = iter(["one", "two"])
    async with open_client(kind, server.address, token=lambda: next(tokens)) as client:
        for expected in ("one", "two"):
            await client.get_model()
            assert server.metadata["authorization"] == f"Bearer {expected}"


@BOTH_CLIENTS
async def test_nothing_is_sent_that_was_not_asked_for(server: CannedServer, kind: str) -> None:
    async with open_client(kind, server.address) as client:
        await client.get_model()
    assert set(server.metadata) == {"user-agent"}


@BOTH_CLIENTS
async def test_no_error_or_repr_shows_a_token(server: CannedServer, kind: str) -> None:
    server.answer = failure(grpc.StatusCode.INVALID_ARGUMENT, "no")
    async with open_client(kind, server.address, token=TOKEN) as client:
        with pytest.raises(InvalidRequestError) as caught:
            await client.get_model()
        assert TOKEN not in repr(caught.value) + repr(caught.value.__cause__)
    for make in (E2RankClient, AsyncE2RankClient):
        plain = make(server.address, token=TOKEN)
        shown = [repr(plain), *(repr(value) for value in vars(plain).values())]
        assert not any(TOKEN in text for text in shown)
        with pytest.raises(ValueError, match="token is empty, or not") as refused:
            make(server.address, token=f"{TOKEN}\n")
        assert TOKEN not in str(refused.value)


@BOTH_CLIENTS
async def test_a_changing_token_that_cannot_be_sent_is_refused_without_showing_it(
    server: CannedServer, kind: str
) -> None:
    async with open_client(kind, server.address, token=lambda: f"{TOKEN} ") as client:
        with pytest.raises(ValueError, match="token is empty, or not") as refused:
            await client.get_model()
    assert TOKEN not in str(refused.value)
    assert not server.arrivals


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({"X-Tenant": "a"}, "metadata key 'X-Tenant' is not of lower-case letters"),
        ({"": "a"}, "metadata key '' is not"),
        ({"grpc-timeout": "1S"}, "metadata key 'grpc-timeout' is"),
        ({"key-bin": "a"}, "metadata key 'key-bin' is"),
        ({"x-tenant": "a\nb"}, r"metadata\['x-tenant'\] is empty, or not printable ASCII"),
        ({"x-tenant": "é"}, r"metadata\['x-tenant'\] is empty, or not printable ASCII"),
        ({"x-tenant": ""}, r"metadata\['x-tenant'\] is empty, or not printable ASCII"),
        ({"authorization": "Basic x"}, r"token or metadata\['authorization'\], not both"),
    ],
)
def test_metadata_that_cannot_be_sent_is_refused_and_named(
    metadata: dict[str, str], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        E2RankClient("localhost:1", token=TOKEN, metadata=metadata)


@BOTH_CLIENTS
async def test_a_call_is_known_to_the_server_by_the_callers_id(
    server: CannedServer, kind: str
) -> None:
    async with open_client(kind, server.address) as client:
        server.answer = rerank_pb2.RerankResponse()
        await client.rerank("q", ["d"], request_id="search-1")
        assert server.metadata["x-request-id"] == "search-1"
        server.answer = embedding_pb2.EmbedResponse(vectors={"encoding": 1})
        await client.embed(["t"], input_type="QUERY", request_id="search-2")
        assert server.metadata["x-request-id"] == "search-2"


@BOTH_CLIENTS
@pytest.mark.parametrize("request_id", ["two words", "new\nline", "x" * 129, "é"])
async def test_an_id_that_the_server_would_not_take_is_refused(
    server: CannedServer, kind: str, request_id: str
) -> None:
    async with open_client(kind, server.address) as client:
        with pytest.raises(ValueError, match=r"is not 1\.\.128 visible ASCII characters"):
            await client.rerank("q", ["d"], request_id=request_id)
    assert not server.arrivals


class Noting(grpc.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.methods: list[Any] = []

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.methods.append(details.method)
        return continuation(details, request)


class AsyncNoting(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self) -> None:
        self.methods: list[Any] = []

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.methods.append(details.method.decode())
        return await continuation(details, request)


@BOTH_CLIENTS
async def test_interceptors_see_every_call(server: CannedServer, kind: str) -> None:
    noting = AsyncNoting() if kind == "async" else Noting()
    async with open_client(kind, server.address, interceptors=[noting]) as client:
        await client.get_model()
        await client.check_health()
    assert noting.methods == ["/e2rank.v1.ModelService/GetModel", "/grpc.health.v1.Health/Check"]


# Tracing


class Traces(SpanProcessor):
    """The spans of a provider of its own, as they end: gRPC ends calls on threads of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Queue[ReadableSpan] = asyncio.Queue()
        self.provider = TracerProvider()
        self.provider.add_span_processor(self)

    def on_end(self, span: ReadableSpan) -> None:
        self._loop.call_soon_threadsafe(self._ended.put_nowait, span)

    def interceptor(self, kind: str, address: str) -> Any:
        made = AsyncTracingInterceptor if kind == "async" else TracingInterceptor
        return made(address, tracer_provider=self.provider)

    async def ended(self, number: int) -> list[ReadableSpan]:
        """Return the next spans to end."""
        async with asyncio.timeout(10):
            return [await self._ended.get() for _ in range(number)]


@contextlib.asynccontextmanager
async def traced(
    kind: str, server: CannedServer, **options: Any
) -> AsyncIterator[tuple[Any, Traces]]:
    traces = Traces()
    interceptors = [traces.interceptor(kind, server.address)]
    async with open_client(kind, server.address, interceptors=interceptors, **options) as client:
        yield client, traces


def traceparent(span: ReadableSpan) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


@BOTH_CLIENTS
async def test_a_call_is_a_span_that_the_server_can_join(server: CannedServer, kind: str) -> None:
    async with traced(kind, server, metadata={"x-tenant": "acme"}) as (client, traces):
        tracer = traces.provider.get_tracer("test")
        with tracer.start_as_current_span("search") as search:
            await client.get_model()
        call, _ = await traces.ended(2)
    assert call.name == "e2rank.v1.ModelService/GetModel"
    assert call.kind is trace.SpanKind.CLIENT
    assert call.parent == search.get_span_context()
    assert call.status.is_unset
    assert dict(call.attributes or {}) == {
        "rpc.system.name": "grpc",
        "rpc.method": "e2rank.v1.ModelService/GetModel",
        "rpc.response.status_code": "OK",
        "server.address": "127.0.0.1",
        "server.port": int(server.address.rpartition(":")[2]),
    }
    assert server.metadata["traceparent"] == traceparent(call)
    assert server.metadata["x-tenant"] == "acme"


@BOTH_CLIENTS
async def test_a_failed_calls_span_says_how_it_failed(server: CannedServer, kind: str) -> None:
    server.answer = failure(grpc.StatusCode.INVALID_ARGUMENT, "no")
    async with traced(kind, server) as (client, traces):
        with pytest.raises(InvalidRequestError):
            await client.get_model()
        (call,) = await traces.ended(1)
    assert call.status.status_code is trace.StatusCode.ERROR
    assert (call.attributes or {})["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert (call.attributes or {})["error.type"] == "INVALID_ARGUMENT"


@BOTH_CLIENTS
async def test_both_attempts_of_a_hedged_call_have_spans_that_end(
    server: CannedServer, kind: str
) -> None:
    answers = iter([forever, None])

    async def answer(context: Any) -> Any:
        now = next(answers)
        return await now(context) if now else model_pb2.GetModelResponse()

    server.answer = answer
    async with traced(kind, server, hedge_after_seconds=0.05) as (client, traces):
        await client.get_model()
        spans = await traces.ended(2)
    codes = {(span.attributes or {})["rpc.response.status_code"] for span in spans}
    assert codes == {"OK", "CANCELLED"}
    await asyncio.wait_for(server.cancelled.wait(), 10)


async def test_cancelling_a_traced_call_cancels_it_in_the_server_and_ends_its_span(
    server: CannedServer,
) -> None:
    entered = asyncio.Event()

    async def hang(context: Any) -> None:
        entered.set()
        await forever(context)

    server.answer = hang
    async with traced("async", server) as (client, traces):
        call = asyncio.ensure_future(client.get_model())
        await asyncio.wait_for(entered.wait(), 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(server.cancelled.wait(), 10)
        (span,) = await traces.ended(1)
    assert (span.attributes or {})["rpc.response.status_code"] == "CANCELLED"


@BOTH_CLIENTS
async def test_a_traced_call_ends_at_its_deadline(server: CannedServer, kind: str) -> None:
    server.answer = forever
    async with traced(kind, server) as (client, traces):
        with pytest.raises(DeadlineExceededError):
            await client.get_model(timeout_seconds=0.2)
        (span,) = await traces.ended(1)
    assert (span.attributes or {})["error.type"] == "DEADLINE_EXCEEDED"


def test_the_client_imports_no_tracing_of_its_own_accord(tmp_path: Path) -> None:
    program = "import e2rank_client, sys; sys.exit('opentelemetry' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False).returncode == 0
    )
