"""The clients: how a `Call` is run, with asyncio and without."""

from __future__ import annotations

import asyncio
import functools
import inspect
import queue
import time
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeAlias, TypeVar, overload

import grpc
import grpc.aio

from e2rank_client import calls, document_calls, errors
from e2rank_client.calls import Call
from e2rank_client.channel import ChannelOptions
from e2rank_client.connection import (
    DEFAULT_ATTEMPTS,
    DEFAULT_TIMEOUT_SECONDS,
    Connection,
    Deadline,
)
from e2rank_client.embed_many import Batch, EmbedJob, embed_many
from e2rank_client.errors import E2RankError, InvalidRequestError
from e2rank_client.hedging import decides
from e2rank_client.metadata import Token
from e2rank_client.types import EmbedManyResult, HealthStatus

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Future: TypeAlias = "grpc.Future[Any]"


def _signature(build: Callable[..., Any], wrap: Callable[[Any], Any]) -> inspect.Signature:
    """Return the signature of a client's method made from `build`, for help()."""
    shown = inspect.signature(build)
    me = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    built = typing.get_type_hints(build)["return"]
    (result,) = (EmbedManyResult,) if built is EmbedJob else typing.get_args(built)
    return shown.replace(
        parameters=[me, *shown.parameters.values()], return_annotation=wrap(result)
    )


@overload
def _blocking(
    build: Callable[_P, EmbedJob],
) -> Callable[Concatenate[E2RankClient, _P], EmbedManyResult]: ...
@overload
def _blocking(build: Callable[_P, Call[_T]]) -> Callable[Concatenate[E2RankClient, _P], _T]: ...
def _blocking(build: Callable[_P, Any]) -> Callable[Concatenate[E2RankClient, _P], Any]:
    """Make a method that runs what is built and returns its result."""

    @functools.wraps(build)
    def method(self: E2RankClient, /, *args: _P.args, **kwargs: _P.kwargs) -> Any:  # noqa: ANN401 - see the overloads
        built = build(*args, **kwargs)
        return self._run_job(built) if isinstance(built, EmbedJob) else self._run(built)

    method.__signature__ = _signature(build, lambda result: result)  # type: ignore[attr-defined]
    return method


@overload
def _awaitable(
    build: Callable[_P, EmbedJob],
) -> Callable[Concatenate[AsyncE2RankClient, _P], Awaitable[EmbedManyResult]]: ...
@overload
def _awaitable(
    build: Callable[_P, Call[_T]],
) -> Callable[Concatenate[AsyncE2RankClient, _P], Awaitable[_T]]: ...
def _awaitable(
    build: Callable[_P, Any],
) -> Callable[Concatenate[AsyncE2RankClient, _P], Awaitable[Any]]:
    """Make a method that runs what is built when awaited."""

    @functools.wraps(build)
    async def method(self: AsyncE2RankClient, /, *args: _P.args, **kwargs: _P.kwargs) -> Any:  # noqa: ANN401 - see the overloads
        built = build(*args, **kwargs)
        return await (self._run_job(built) if isinstance(built, EmbedJob) else self._run(built))

    method.__signature__ = _signature(build, Awaitable.__class_getitem__)  # type: ignore[attr-defined]
    return method


class E2RankClient:
    """A client for programs without asyncio. Safe to share between threads.

    It holds its connections from the first call until `close` or the end of
    `with`::

        with E2RankClient("localhost:50051") as client:
            answer = client.rerank("why is the sky blue", ["Air scatters…", "Paint…"])

    Requests go to all servers of the address in turn, of which those that do
    not answer, or say that they are not serving, are passed over.

    Args:
        address: `host:port`, which is all addresses of that name; several of them; or a
            gRPC target such as `unix:/path`.
        timeout_seconds: Deadline of a call that names none, repetitions included.
        credentials: For TLS, say `grpc.ssl_channel_credentials()`; None is plain text.
        token: Sent with every call as `authorization: Bearer …`; a function is asked each
            time and must return at once. Without TLS whoever is on the way can read it.
        metadata: Sent with every call, for proxies, say, or by tenant.
        interceptors: Around every call, the first outermost; see `e2rank_client.tracing`.
        max_attempts: How often a call that ends UNAVAILABLE is tried in all, 1 to 5, after
            waits that grow from 0.1 s or that the server asks for. Nothing else is repeated.
        hedge_after_seconds: When a call has no answer by then, it is sent once more, most
            likely to another server, and the first good answer counts. None is never;
            writes are never sent twice at once.
        health_service: What servers are asked for about themselves (grpc.health.v1), such
            as `models/<profile>`; empty is the server as a whole, None is not to ask,
            for proxies that pick a server for each call.
        channel_options: gRPC's own, which override this client's.

    Raises:
        ValueError: An argument is not as described, or a host of several is not known.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        credentials: grpc.ChannelCredentials | None = None,
        token: Token | None = None,
        metadata: Mapping[str, str] | None = None,
        interceptors: Sequence[grpc.UnaryUnaryClientInterceptor] = (),
        max_attempts: int = DEFAULT_ATTEMPTS,
        hedge_after_seconds: float | None = None,
        health_service: str | None = "",
        channel_options: ChannelOptions = (),
    ) -> None:
        self._connection = Connection(
            address,
            timeout_seconds=timeout_seconds,
            token=token,
            metadata=metadata,
            max_attempts=max_attempts,
            hedge_after_seconds=hedge_after_seconds,
            health_service=health_service,
            own_options=channel_options,
        )

        def channel(options: ChannelOptions) -> grpc.Channel:
            target = self._connection.target
            plain = (
                grpc.secure_channel(target, credentials, options)
                if credentials
                else grpc.insecure_channel(target, options)
            )
            return grpc.intercept_channel(plain, *interceptors)

        # A channel connects when it is first used.
        self._channel = channel(self._connection.options)
        self._health_channel = channel(self._connection.health_options)
        self._stub = functools.cache(lambda stub: stub(self._channel))
        self._health_stub = functools.cache(lambda stub: stub(self._health_channel))

    rerank = _blocking(calls.rerank)
    embed = _blocking(calls.embed)
    embed_many = _blocking(embed_many)
    embed_stored = _blocking(document_calls.embed_stored)
    put_documents = _blocking(document_calls.put_documents)
    get_documents = _blocking(document_calls.get_documents)
    documents_exist = _blocking(document_calls.documents_exist)
    delete_documents = _blocking(document_calls.delete_documents)
    delete_namespace = _blocking(document_calls.delete_namespace)
    get_namespace_stats = _blocking(document_calls.get_namespace_stats)
    get_model = _blocking(calls.get_model)
    list_models = _blocking(calls.list_models)
    check_health = _blocking(calls.check_health)

    def wait_until_ready(self, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        """Return once a server says that it is serving, and calls will reach it.

        Raises:
            DeadlineExceededError: None did within the timeout.
        """
        deadline = self._connection.deadline(timeout_seconds)
        last = ""
        while last != HealthStatus.SERVING:
            last = self._ask_health(deadline)
            if last != HealthStatus.SERVING:
                time.sleep(deadline.pause_seconds(last))
        connected = grpc.channel_ready_future(self._channel)
        try:
            connected.result(deadline.remaining_seconds())
        except grpc.FutureTimeoutError:
            connected.cancel()
            raise deadline.exceeded(last) from None

    def close(self) -> None:
        """Close the connections; calls in progress end with an error."""
        self._channel.close()
        self._health_channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask_health(self, deadline: Deadline) -> str:
        try:
            return self.check_health(
                self._connection.health_service, timeout_seconds=deadline.remaining_seconds()
            )
        except (errors.UnavailableError, errors.DeadlineExceededError) as error:
            return str(error)

    def _rpc(self, call: Call[Any]) -> grpc.UnaryUnaryMultiCallable[Any, Any]:
        stub = self._health_stub if call.is_about_health else self._stub
        rpc: grpc.UnaryUnaryMultiCallable[Any, Any] = getattr(stub(call.stub), call.rpc)
        return rpc

    def _run(self, call: Call[_T]) -> _T:
        deadline = self._connection.deadline(call.timeout_seconds)
        hedge_after_seconds = self._connection.hedging.delay_seconds()
        if hedge_after_seconds is not None and call.may_be_hedged:
            return self._run_hedged(call, deadline, hedge_after_seconds)
        metadata = self._connection.metadata.of_call(call.request_id)
        try:
            response = self._rpc(call)(
                call.request, timeout=deadline.remaining_seconds(), metadata=metadata
            )
        except grpc.RpcError as failure:
            raise self._connection.failed(failure) from failure
        return call.read(response)

    def _start(self, call: Call[Any], deadline: Deadline) -> _Future:
        metadata = self._connection.metadata.of_call(call.request_id)
        return self._rpc(call).future(
            call.request, timeout=deadline.remaining_seconds(), metadata=metadata
        )

    def _finish(self, call: Call[_T], attempt: _Future) -> _T:
        try:
            response = attempt.result()
        except grpc.RpcError as failure:
            raise self._connection.failed(failure) from failure
        return call.read(response)

    def _run_hedged(self, call: Call[_T], deadline: Deadline, after_seconds: float) -> _T:
        ended: queue.SimpleQueue[_Future] = queue.SimpleQueue()
        attempts = [self._start(call, deadline)]
        attempts[0].add_done_callback(ended.put)
        num_failed = 0
        try:
            while True:
                try:
                    attempt = ended.get(timeout=after_seconds if len(attempts) == 1 else None)
                except queue.Empty:
                    attempts.append(self._start(call, deadline))
                    attempts[1].add_done_callback(ended.put)
                    continue
                try:
                    return self._finish(call, attempt)
                except E2RankError as error:
                    num_failed += 1
                    if decides(error) or num_failed == len(attempts):
                        raise
        finally:
            for attempt in attempts:
                attempt.cancel()

    def _run_job(self, job: EmbedJob) -> EmbedManyResult:
        batches, assembly = job.begin(self._run(job.get_model))
        ended: queue.SimpleQueue[_Future] = queue.SimpleQueue()
        running: dict[_Future, Batch] = {}

        def fill() -> None:
            for batch in islice(batches, job.concurrency - len(running)):
                attempt = self._start(
                    batch.call, self._connection.deadline(batch.call.timeout_seconds)
                )
                running[attempt] = batch
                attempt.add_done_callback(ended.put)

        try:
            fill()
            while running:
                attempt = ended.get()
                batch = running.pop(attempt)
                try:
                    assembly.add(batch, self._finish(batch.call, attempt))
                except InvalidRequestError as error:
                    raise batch.place(error) from error
                fill()
        finally:
            for attempt in running:
                attempt.cancel()
        return assembly.result()


class AsyncE2RankClient:
    """A client for asyncio; the methods are `E2RankClient`'s, to be awaited.

    It belongs to the event loop that first uses it. Cancelling a call cancels
    it in the server::

        async with AsyncE2RankClient("localhost:50051") as client:
            answer = await client.rerank("why is the sky blue", ["Air scatters…", "Paint…"])

    The arguments are `E2RankClient`'s; `interceptors` are those of `grpc.aio`.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        credentials: grpc.ChannelCredentials | None = None,
        token: Token | None = None,
        metadata: Mapping[str, str] | None = None,
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
        max_attempts: int = DEFAULT_ATTEMPTS,
        hedge_after_seconds: float | None = None,
        health_service: str | None = "",
        channel_options: ChannelOptions = (),
    ) -> None:
        self._connection = Connection(
            address,
            timeout_seconds=timeout_seconds,
            token=token,
            metadata=metadata,
            max_attempts=max_attempts,
            hedge_after_seconds=hedge_after_seconds,
            health_service=health_service,
            own_options=channel_options,
        )
        self._credentials = credentials
        self._interceptors = list(interceptors)
        self._stub = functools.cache(lambda stub: stub(self._channel))
        self._health_stub = functools.cache(lambda stub: stub(self._health_channel))

    rerank = _awaitable(calls.rerank)
    embed = _awaitable(calls.embed)
    embed_many = _awaitable(embed_many)
    embed_stored = _awaitable(document_calls.embed_stored)
    put_documents = _awaitable(document_calls.put_documents)
    get_documents = _awaitable(document_calls.get_documents)
    documents_exist = _awaitable(document_calls.documents_exist)
    delete_documents = _awaitable(document_calls.delete_documents)
    delete_namespace = _awaitable(document_calls.delete_namespace)
    get_namespace_stats = _awaitable(document_calls.get_namespace_stats)
    get_model = _awaitable(calls.get_model)
    list_models = _awaitable(calls.list_models)
    check_health = _awaitable(calls.check_health)

    async def wait_until_ready(self, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        """Return once a server says that it is serving, and calls will reach it.

        Raises:
            DeadlineExceededError: None did within the timeout.
        """
        deadline = self._connection.deadline(timeout_seconds)
        last = ""
        while last != HealthStatus.SERVING:
            last = await self._ask_health(deadline)
            if last != HealthStatus.SERVING:
                await asyncio.sleep(deadline.pause_seconds(last))
        try:
            async with asyncio.timeout(deadline.remaining_seconds()):
                await self._channel.channel_ready()
        except TimeoutError:
            raise deadline.exceeded(last) from None

    async def close(self) -> None:
        """Close the connections; calls in progress end with an error."""
        for name in ("_channel", "_health_channel"):
            if name in self.__dict__:
                await self.__dict__[name].close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # Made on first use, because a channel takes hold of the running event loop.

    @functools.cached_property
    def _channel(self) -> grpc.aio.Channel:
        return self._make_channel(self._connection.options)

    @functools.cached_property
    def _health_channel(self) -> grpc.aio.Channel:
        return self._make_channel(self._connection.health_options)

    def _make_channel(self, options: ChannelOptions) -> grpc.aio.Channel:
        target, interceptors = self._connection.target, self._interceptors
        if self._credentials:
            return grpc.aio.secure_channel(
                target, self._credentials, options, interceptors=interceptors
            )
        return grpc.aio.insecure_channel(target, options, interceptors=interceptors)

    async def _ask_health(self, deadline: Deadline) -> str:
        try:
            return await self.check_health(
                self._connection.health_service, timeout_seconds=deadline.remaining_seconds()
            )
        except (errors.UnavailableError, errors.DeadlineExceededError) as error:
            return str(error)

    async def _run(self, call: Call[_T]) -> _T:
        deadline = self._connection.deadline(call.timeout_seconds)
        hedge_after_seconds = self._connection.hedging.delay_seconds()
        if hedge_after_seconds is not None and call.may_be_hedged:
            return await self._run_hedged(call, deadline, hedge_after_seconds)
        return await self._attempt(call, deadline)

    async def _attempt(self, call: Call[_T], deadline: Deadline) -> _T:
        stub = self._health_stub if call.is_about_health else self._stub
        rpc = getattr(stub(call.stub), call.rpc)
        metadata = self._connection.metadata.of_call(call.request_id)
        try:
            response = await rpc(
                call.request, timeout=deadline.remaining_seconds(), metadata=metadata
            )
        except grpc.aio.AioRpcError as failure:
            raise self._connection.failed(failure) from failure
        return call.read(response)

    async def _run_hedged(self, call: Call[_T], deadline: Deadline, after_seconds: float) -> _T:
        attempts = [asyncio.create_task(self._attempt(call, deadline))]
        try:
            ended, _ = await asyncio.wait(attempts, timeout=after_seconds)
            if not ended:
                attempts.append(asyncio.create_task(self._attempt(call, deadline)))
            return await _first_good(attempts)
        finally:
            for attempt in attempts:
                attempt.cancel()
            await asyncio.gather(*attempts, return_exceptions=True)

    async def _run_job(self, job: EmbedJob) -> EmbedManyResult:
        batches, assembly = job.begin(await self._run(job.get_model))

        async def work() -> None:
            for batch in batches:
                deadline = self._connection.deadline(batch.call.timeout_seconds)
                try:
                    assembly.add(batch, await self._attempt(batch.call, deadline))
                except InvalidRequestError as error:
                    raise batch.place(error) from error

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(job.concurrency):
                    group.create_task(work())
        except BaseExceptionGroup as failures:
            # The first one; the others failed on being cancelled, or meanwhile.
            raise failures.exceptions[0] from None
        return assembly.result()


async def _first_good(attempts: Sequence[asyncio.Task[_T]]) -> _T:
    """Return the first result; raise the first error that decides, or else the last."""
    for number, attempt in enumerate(asyncio.as_completed(attempts), start=1):
        try:
            return await attempt
        except E2RankError as error:
            if decides(error) or number == len(attempts):
                raise
    raise AssertionError("there is at least one attempt")
