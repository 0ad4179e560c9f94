"""What happens around every unary call, one concern each, outermost first.

    RequestIdInterceptor    names the call
    MetricsInterceptor      counts and times it, if metrics are served
    AccessLogInterceptor    one line when it ends
    StatusInterceptor       errors become statuses
    GateInterceptor         refuses what is too much
    UnaryStack              bytes become the request message

Streams (health Watch, reflection) pass through untouched. CancelledError passes
all of them: grpc.aio raises it in the servicer for a client's cancellation and
for an expired deadline.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError

from e2rank_server.errors import OverloadedError
from e2rank_server.gateway.request_id import REQUEST_ID_KEY, choose_request_id, current_request_id
from e2rank_server.gateway.status import internal_status, status_of
from e2rank_server.gateway.wire import explain_parse_failure
from e2rank_server.telemetry import Telemetry

# Quoted: grpc's classes are generic in the stubs alone.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Proceed: TypeAlias = "Callable[[Call], Awaitable[Any]]"
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]]"

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("e2rank_server.access")

# grpc's own services are let through: an overloaded server must still say how it is.
_EXEMPT_PREFIX = "/grpc."
_GATE_RETRY_SECONDS = 1.0


@dataclass(slots=True)
class Call:
    """A unary call: its full method name, its request as bytes, and grpc's context."""

    method: str
    data: bytes
    context: Context


class UnaryInterceptor(ABC):
    """One concern of unary calls."""

    @abstractmethod
    async def around(self, call: Call, proceed: Proceed) -> Any:  # noqa: ANN401 - any message
        """Do something before and after `await proceed(call)`."""


class RequestIdInterceptor(UnaryInterceptor):
    """Takes the caller's `x-request-id` or makes one; returns it in the trailers."""

    async def around(self, call: Call, proceed: Proceed) -> Any:  # noqa: ANN401
        """Set `current_request_id` for the call's task."""
        metadata = dict(call.context.invocation_metadata() or ())
        request_id = choose_request_id(metadata.get(REQUEST_ID_KEY))
        current_request_id.set(request_id)
        call.context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
        return await proceed(call)


class _EndInterceptor(UnaryInterceptor):
    """Notes how each call ended, however it did: OK, another gRPC code, or CANCELLED.

    A deadline that expires is CANCELLED, too: the caller's own clock is the first to notice.
    """

    async def around(self, call: Call, proceed: Proceed) -> Any:  # noqa: ANN401
        """Note the end."""
        started = time.perf_counter()
        outcome = "CANCELLED"
        try:
            response = await proceed(call)
            outcome = "OK"
            return response
        except Exception:
            code = call.context.code()
            outcome = code.name if code is not None else "UNKNOWN"
            raise
        finally:
            self.ended(call, outcome, time.perf_counter() - started)

    @abstractmethod
    def ended(self, call: Call, outcome: str, seconds: float) -> None:
        """Note it."""


class MetricsInterceptor(_EndInterceptor):
    """Counts and times each call."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def ended(self, call: Call, outcome: str, seconds: float) -> None:
        """Record the call."""
        self._telemetry.record_call(call.method, outcome, seconds)


class AccessLogInterceptor(_EndInterceptor):
    """Logs each call's method, outcome, duration and size, never its content.

    Failures at INFO; what went well, which is most of it, at DEBUG.
    """

    def ended(self, call: Call, outcome: str, seconds: float) -> None:
        """Log the call."""
        level = logging.DEBUG if outcome == "OK" else logging.INFO
        if access_logger.isEnabledFor(level):
            access_logger.log(
                level,
                "%s %s %.1f ms, %d bytes from %s",
                call.method,
                outcome,
                seconds * 1000,
                len(call.data),
                call.context.peer(),
            )


class StatusInterceptor(UnaryInterceptor):
    """Ends calls that failed with the status of their error."""

    async def around(self, call: Call, proceed: Proceed) -> Any:  # noqa: ANN401
        """Map errors; what is not in the tree is logged and told as INTERNAL, without its text."""
        try:
            return await proceed(call)
        except grpc.aio.AbortError:
            raise
        except Exception as error:
            request_id = current_request_id.get()
            status = status_of(error, request_id)
            if status is None:
                logger.exception("unexpected error in %s", call.method)
                status = internal_status(request_id)
            await call.context.abort(
                status.code,
                status.message,
                (*call.context.trailing_metadata(), *status.trailing_metadata),
            )


class GateInterceptor(UnaryInterceptor):
    """Bounds the calls in progress in this process."""

    def __init__(self, max_concurrent_requests: int) -> None:
        self._max_concurrent_requests = max_concurrent_requests
        self._in_progress = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_progress(self) -> int:
        """How many calls are in progress."""
        return self._in_progress

    async def wait_until_idle(self) -> None:
        """Return once no call is in progress."""
        await self._idle.wait()

    async def around(self, call: Call, proceed: Proceed) -> Any:  # noqa: ANN401
        """Count the call, or refuse it."""
        if call.method.startswith(_EXEMPT_PREFIX):
            return await proceed(call)
        if self._in_progress >= self._max_concurrent_requests:
            raise OverloadedError(
                f"{self._in_progress} requests are in progress, the limit",
                retry_after_seconds=_GATE_RETRY_SECONDS,
            )
        self._in_progress += 1
        self._idle.clear()
        try:
            return await proceed(call)
        finally:
            self._in_progress -= 1
            if self._in_progress == 0:
                self._idle.set()


class UnaryStack(grpc.aio.ServerInterceptor):
    """Puts interceptors around every unary method, the first one outermost.

    To grpc it is one interceptor: of several, grpc would ask each in every call
    for its handler. Requests are parsed here, inside all of them and in grpc's
    stead: there a failure would become INTERNAL without details, past them all;
    here it becomes INVALID_ARGUMENT naming the field.
    """

    def __init__(self, interceptors: Sequence[UnaryInterceptor]) -> None:
        self._interceptors = interceptors
        self._handlers: dict[str, _Handler] = {}

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        """Return the method's handler, wrapped when it is first called."""
        method = handler_call_details.method
        handler = self._handlers.get(method)
        if handler is None:
            handler = await continuation(handler_call_details)
            # What does not exist is not kept: callers can think of any number of names.
            if handler is not None and handler.unary_unary is not None:
                handler = self._handlers[method] = self._wrap(method, handler)
        return handler

    def _wrap(self, method: str, handler: _Handler) -> _Handler:
        proceed = _parsing(method, handler)
        for interceptor in reversed(self._interceptors):
            proceed = partial(interceptor.around, proceed=proceed)

        async def behaviour(data: bytes, context: Context) -> Any:  # noqa: ANN401 - any message
            return await proceed(Call(method, data, context))

        return grpc.unary_unary_rpc_method_handler(behaviour, None, handler.response_serializer)


def gateway_interceptors(
    gate: GateInterceptor, telemetry: Telemetry | None = None
) -> list[grpc.aio.ServerInterceptor]:
    """Return what to give to grpc's server."""
    metrics = [MetricsInterceptor(telemetry)] if telemetry else []
    interceptors = (
        RequestIdInterceptor(),
        *metrics,
        AccessLogInterceptor(),
        StatusInterceptor(),
        gate,
    )
    return [UnaryStack(interceptors)]


def _parsing(method: str, handler: _Handler) -> Proceed:
    """Return the innermost step: bytes to the request message, and on to the servicer."""
    parse: Any = handler.request_deserializer
    servicer_method: Any = handler.unary_unary

    async def parse_and_serve(call: Call) -> Any:  # noqa: ANN401 - any message
        try:
            request = parse(call.data)
        except DecodeError:
            raise explain_parse_failure(call.data, _request_type(method)) from None
        return await servicer_method(request, call.context)

    return parse_and_serve


def _request_type(method: str) -> Descriptor:
    """Return the request message of a method such as `/package.Service/Method`."""
    name = method.removeprefix("/").replace("/", ".")
    return descriptor_pool.Default().FindMethodByName(name).input_type
