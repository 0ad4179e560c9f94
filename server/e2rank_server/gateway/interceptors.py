"""What happens around every unary call, one concern each, outermost first.

    RequestIdInterceptor    names the call
    AccessLogInterceptor    one line when it ends
    StatusInterceptor       errors become statuses
    GateInterceptor         refuses what is too much
    DecodeInterceptor       bytes become the request message

Streams (health Watch, reflection) pass through untouched. CancelledError passes
all of them: grpc.aio raises it in the servicer for a client's cancellation and
for an expired deadline.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable
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

# Quoted: grpc's classes are generic in the stubs alone.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Proceed: TypeAlias = Callable[[], Awaitable[Any]]
_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[_Handler | None]]"

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("e2rank_server.access")

# grpc's own services are let through: an overloaded server must still say how it is.
_EXEMPT_PREFIX = "/grpc."
_GATE_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Call:
    """A unary call: its full method name, its request as bytes, and grpc's context."""

    method: str
    data: bytes
    context: Context


class UnaryInterceptor(grpc.aio.ServerInterceptor):
    """Runs `around` in place of a unary method."""

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        """Put `around` in front of the method's handler."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        method = handler_call_details.method
        inner: Any = handler.unary_unary

        async def behaviour(data: bytes, context: Context) -> Any:  # noqa: ANN401 - any message
            return await self.around(Call(method, data, context), partial(inner, data, context))

        return grpc.unary_unary_rpc_method_handler(
            behaviour, handler.request_deserializer, handler.response_serializer
        )

    @abstractmethod
    async def around(self, call: Call, proceed: Proceed) -> Any:  # noqa: ANN401
        """Do something before and after `await proceed()`."""


class RequestIdInterceptor(UnaryInterceptor):
    """Takes the caller's `x-request-id` or makes one; returns it in the trailers."""

    async def around(self, call: Call, proceed: Proceed) -> Any:  # noqa: ANN401
        """Set `current_request_id` for the call's task."""
        metadata = dict(call.context.invocation_metadata() or ())
        request_id = choose_request_id(metadata.get(REQUEST_ID_KEY))
        current_request_id.set(request_id)
        call.context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
        return await proceed()


class AccessLogInterceptor(UnaryInterceptor):
    """Logs each call's method, outcome, duration and size, never its content.

    Failures at INFO; what went well, which is most of it, at DEBUG.
    """

    async def around(self, call: Call, proceed: Proceed) -> Any:  # noqa: ANN401
        """Log when the call ends, however it ends."""
        started = time.perf_counter()
        outcome = "CANCELLED"
        try:
            response = await proceed()
            outcome = "OK"
            return response
        except Exception:
            code = call.context.code()
            outcome = code.name if code is not None else "UNKNOWN"
            raise
        finally:
            access_logger.log(
                logging.DEBUG if outcome == "OK" else logging.INFO,
                "%s %s %.1f ms, %d bytes from %s",
                call.method,
                outcome,
                (time.perf_counter() - started) * 1000,
                len(call.data),
                call.context.peer(),
            )


class StatusInterceptor(UnaryInterceptor):
    """Ends calls that failed with the status of their error."""

    async def around(self, call: Call, proceed: Proceed) -> Any:  # noqa: ANN401
        """Map errors; what is not in the tree is logged and told as INTERNAL, without its text."""
        try:
            return await proceed()
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

    async def wait_until_idle(self) -> None:
        """Return once no call is in progress."""
        await self._idle.wait()

    async def around(self, call: Call, proceed: Proceed) -> Any:  # noqa: ANN401
        """Count the call, or refuse it."""
        if call.method.startswith(_EXEMPT_PREFIX):
            return await proceed()
        if self._in_progress >= self._max_concurrent_requests:
            raise OverloadedError(
                f"{self._in_progress} requests are in progress, the limit",
                retry_after_seconds=_GATE_RETRY_SECONDS,
            )
        self._in_progress += 1
        self._idle.clear()
        try:
            return await proceed()
        finally:
            self._in_progress -= 1
            if self._in_progress == 0:
                self._idle.set()


class DecodeInterceptor(grpc.aio.ServerInterceptor):
    """Parses requests, in grpc's stead.

    Inside grpc a failure would become INTERNAL without details, past all other
    interceptors; here it becomes INVALID_ARGUMENT naming the field.
    """

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        """Take the deserializer out of a unary handler, so that grpc hands over bytes."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        method = handler_call_details.method
        inner: Any = handler.unary_unary
        parse: Any = handler.request_deserializer

        async def decode_and_proceed(data: bytes, context: Context) -> Any:  # noqa: ANN401
            try:
                request = parse(data)
            except DecodeError:
                raise explain_parse_failure(data, _request_type(method)) from None
            return await inner(request, context)

        return grpc.unary_unary_rpc_method_handler(
            decode_and_proceed, None, handler.response_serializer
        )


def gateway_interceptors(gate: GateInterceptor) -> list[grpc.aio.ServerInterceptor]:
    """Return the stack, outermost first."""
    return [
        RequestIdInterceptor(),
        AccessLogInterceptor(),
        StatusInterceptor(),
        gate,
        DecodeInterceptor(),
    ]


def _request_type(method: str) -> Descriptor:
    """Return the request message of a method such as `/package.Service/Method`."""
    name = method.removeprefix("/").replace("/", ".")
    return descriptor_pool.Default().FindMethodByName(name).input_type
