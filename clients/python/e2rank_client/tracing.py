"""OpenTelemetry traces of the client's calls. Needs the extra `tracing`.

Each RPC is a span of kind CLIENT whose context goes along as W3C `traceparent`,
so that the server's spans become its children. Attributes are those of
OpenTelemetry's semantic conventions for gRPC. Repetitions by the retry policy
are within one span; a hedged call has two.

    client = E2RankClient(address, interceptors=[TracingInterceptor(address)])
    client = AsyncE2RankClient(address, interceptors=[AsyncTracingInterceptor(address)])
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import grpc
import grpc.aio
from opentelemetry import propagate
from opentelemetry.trace import (
    Span,
    SpanKind,
    StatusCode,
    TracerProvider,
    get_tracer,
    set_span_in_context,
)

from e2rank_client.addresses import split_host_and_port


class _Fields(NamedTuple):
    method: str
    timeout: float | None
    metadata: Any
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _ClientCallDetails(_Fields, grpc.ClientCallDetails):
    """How a call is made without asyncio; grpc has no public class that can be constructed."""


class _Spans:
    """Begins and ends the spans of both interceptors.

    Args:
        address: The client's; a `host:port` becomes `server.address` and `server.port`.
        tracer_provider: None means the process's.
    """

    def __init__(self, address: str = "", tracer_provider: TracerProvider | None = None) -> None:
        self._tracer = get_tracer("e2rank_client", tracer_provider=tracer_provider)
        self._attributes: dict[str, str | int] = {"rpc.system.name": "grpc"}
        host_and_port = split_host_and_port(address)
        if host_and_port:
            self._attributes["server.address"], self._attributes["server.port"] = host_and_port

    def _begin(self, method: str | bytes) -> tuple[Span, dict[str, str]]:
        """Start a call's span; return it with the headers that name it."""
        name = (method.decode() if isinstance(method, bytes) else method).removeprefix("/")
        span = self._tracer.start_span(
            name, kind=SpanKind.CLIENT, attributes={**self._attributes, "rpc.method": name}
        )
        headers: dict[str, str] = {}
        propagate.inject(headers, set_span_in_context(span))
        return span, headers


class TracingInterceptor(_Spans, grpc.UnaryUnaryClientInterceptor):
    """For `E2RankClient`."""

    def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.ClientCallDetails, Any], Any],
        client_call_details: grpc.ClientCallDetails,
        request: Any,  # noqa: ANN401 - any message
    ) -> Any:  # noqa: ANN401 - a call and future, which grpc has no public type for
        """Make the call within a span, which ends when the call does."""
        span, headers = self._begin(client_call_details.method)
        details = _ClientCallDetails(
            client_call_details.method,
            client_call_details.timeout,
            (*(client_call_details.metadata or ()), *headers.items()),
            client_call_details.credentials,
            client_call_details.wait_for_ready,
            client_call_details.compression,
        )
        call = continuation(details, request)
        call.add_done_callback(lambda ended: _end(span, _code_of(ended)))
        return call


class AsyncTracingInterceptor(_Spans, grpc.aio.UnaryUnaryClientInterceptor):
    """For `AsyncE2RankClient`."""

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,  # noqa: ANN401 - any message
    ) -> Any:  # noqa: ANN401 - a call
        """Make the call within a span, which ends when the call does."""
        span, headers = self._begin(client_call_details.method)
        details = grpc.aio.ClientCallDetails(
            client_call_details.method,
            client_call_details.timeout,
            grpc.aio.Metadata(*(client_call_details.metadata or ()), *headers.items()),
            client_call_details.credentials,
            client_call_details.wait_for_ready,
        )
        code = grpc.StatusCode.CANCELLED
        try:
            call = await continuation(details, request)
            try:
                # Not `call.code()`: cancelling that would let the RPC go on.
                await call
                code = grpc.StatusCode.OK
            except grpc.aio.AioRpcError as failure:
                code = failure.code()
            return call
        finally:
            _end(span, code)


def _code_of(ended: Any) -> grpc.StatusCode:  # noqa: ANN401 - as above
    if ended.cancelled():
        return grpc.StatusCode.CANCELLED
    failure = ended.exception()
    if failure is None:
        return grpc.StatusCode.OK
    return failure.code() if isinstance(failure, grpc.RpcError) else grpc.StatusCode.UNKNOWN


def _end(span: Span, code: grpc.StatusCode) -> None:
    span.set_attribute("rpc.response.status_code", code.name)
    if code is not grpc.StatusCode.OK:
        span.set_attribute("error.type", code.name)
        span.set_status(StatusCode.ERROR)
    span.end()
