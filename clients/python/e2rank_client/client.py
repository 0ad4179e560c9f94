"""The clients: how a `Call` is run, with asyncio and without."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
import typing
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import grpc
import grpc.aio

from e2rank_client import calls, errors
from e2rank_client.calls import Call
from e2rank_client.types import HealthStatus

_P = ParamSpec("_P")
_T = TypeVar("_T")

DEFAULT_TIMEOUT_SECONDS = 60.0
"""Long enough for a cold rerank of many documents on a CPU."""

MAX_MESSAGE_BYTES = 256 << 20
"""Both ways. The server has the tighter limit, and says so with a proper error."""

_READINESS_PAUSE_SECONDS = 0.1


def _channel_options() -> list[tuple[str, int]]:
    return [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ]


def _signature(build: Callable[..., Any], wrap: Callable[[Any], Any]) -> inspect.Signature:
    """Return the signature of a client's method made from `build`, for help()."""
    shown = inspect.signature(build)
    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    (result,) = typing.get_args(typing.get_type_hints(build)["return"])
    return shown.replace(
        parameters=[me, *shown.parameters.values()], return_annotation=wrap(result)
    )


def _blocking(
    build: Callable[_P, Call[_T]],
) -> Callable[Concatenate[E2RankClient, _P], _T]:
    """Make a method that runs the call and returns its result."""

    @functools.wraps(build)
    def method(self: E2RankClient, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self._run(build(*args, **kwargs))

    method.__signature__ = _signature(build, lambda result: result)  # type: ignore[attr-defined]
    return method


def _awaitable(
    build: Callable[_P, Call[_T]],
) -> Callable[Concatenate[AsyncE2RankClient, _P], Awaitable[_T]]:
    """Make a method that runs the call when awaited."""

    @functools.wraps(build)
    async def method(self: AsyncE2RankClient, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._run(build(*args, **kwargs))

    method.__signature__ = _signature(build, Awaitable.__class_getitem__)  # type: ignore[attr-defined]
    return method


class _Deadline:
    """When to give up waiting."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._end = time.monotonic() + timeout_seconds

    def remaining_seconds(self) -> float:
        return max(self._end - time.monotonic(), 0.001)

    def pause_seconds(self, last: str) -> float:
        """Return how long to wait before asking again; raise if there is no time for it."""
        if self.remaining_seconds() <= _READINESS_PAUSE_SECONDS:
            message = f"not ready within {self._timeout_seconds:g} s; last answer: {last}"
            failed = errors.FailedCall(grpc.StatusCode.DEADLINE_EXCEEDED, message)
            raise errors.DeadlineExceededError(failed)
        return _READINESS_PAUSE_SECONDS


class E2RankClient:
    """A client for programs without asyncio. Safe to share between threads.

    It holds one channel, made with it and closed by `close` or `with`::

        with E2RankClient("localhost:50051") as client:
            answer = client.rerank("why is the sky blue", ["Air scatters…", "Paint…"])

    Args:
        address: `host:port`.
        timeout_seconds: Deadline of a call that names none.
        credentials: For TLS, say `grpc.ssl_channel_credentials()`; None is plain text.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        options = _channel_options()
        self._channel = (
            grpc.secure_channel(address, credentials, options)
            if credentials
            else grpc.insecure_channel(address, options)
        )
        self._stub = functools.cache(lambda stub: stub(self._channel))

    rerank = _blocking(calls.rerank)
    embed = _blocking(calls.embed)
    get_model = _blocking(calls.get_model)
    list_models = _blocking(calls.list_models)
    check_health = _blocking(calls.check_health)

    def wait_until_ready(self, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        """Return once the server says that it is serving.

        Raises:
            DeadlineExceededError: It did not within the timeout.
        """
        deadline = _Deadline(timeout_seconds)
        last = ""
        while last != HealthStatus.SERVING:
            try:
                last = self.check_health(timeout_seconds=deadline.remaining_seconds())
            except (errors.UnavailableError, errors.DeadlineExceededError) as error:
                last = str(error)
            if last != HealthStatus.SERVING:
                time.sleep(deadline.pause_seconds(last))

    def close(self) -> None:
        """Close the channel; calls in progress end with an error."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, call: Call[_T]) -> _T:
        rpc = getattr(self._stub(call.stub), call.rpc)
        timeout = self._timeout_seconds if call.timeout_seconds is None else call.timeout_seconds
        try:
            response = rpc(call.request, timeout=timeout)
        except grpc.RpcError as failure:
            raise errors.from_rpc_failure(failure) from failure  # type: ignore[arg-type]  # failures are calls, too
        return call.read(response)


class AsyncE2RankClient:
    """A client for asyncio; the methods are `E2RankClient`'s, to be awaited.

    It belongs to the event loop that first uses it. Cancelling a call cancels
    it in the server::

        async with AsyncE2RankClient("localhost:50051") as client:
            answer = await client.rerank("why is the sky blue", ["Air scatters…", "Paint…"])

    Args:
        address: `host:port`.
        timeout_seconds: Deadline of a call that names none.
        credentials: For TLS, say `grpc.ssl_channel_credentials()`; None is plain text.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._credentials = credentials
        self._stub = functools.cache(lambda stub: stub(self._channel))

    rerank = _awaitable(calls.rerank)
    embed = _awaitable(calls.embed)
    get_model = _awaitable(calls.get_model)
    list_models = _awaitable(calls.list_models)
    check_health = _awaitable(calls.check_health)

    async def wait_until_ready(self, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        """Return once the server says that it is serving.

        Raises:
            DeadlineExceededError: It did not within the timeout.
        """
        deadline = _Deadline(timeout_seconds)
        last = ""
        while last != HealthStatus.SERVING:
            try:
                last = await self.check_health(timeout_seconds=deadline.remaining_seconds())
            except (errors.UnavailableError, errors.DeadlineExceededError) as error:
                last = str(error)
            if last != HealthStatus.SERVING:
                await asyncio.sleep(deadline.pause_seconds(last))

    async def close(self) -> None:
        """Close the channel; calls in progress end with an error."""
        if "_channel" in self.__dict__:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @functools.cached_property
    def _channel(self) -> grpc.aio.Channel:
        """Made on first use, because a channel takes hold of the running event loop."""
        options = _channel_options()
        if self._credentials:
            return grpc.aio.secure_channel(self._address, self._credentials, options)
        return grpc.aio.insecure_channel(self._address, options)

    async def _run(self, call: Call[_T]) -> _T:
        rpc = getattr(self._stub(call.stub), call.rpc)
        timeout = self._timeout_seconds if call.timeout_seconds is None else call.timeout_seconds
        try:
            response = await rpc(call.request, timeout=timeout)
        except grpc.aio.AioRpcError as failure:
            raise errors.from_rpc_failure(failure) from failure
        return call.read(response)
