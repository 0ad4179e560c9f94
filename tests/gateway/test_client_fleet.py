"""Both Python clients in front of several servers, some of which are not well."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from e2rank.v1 import model_pb2, rerank_pb2
from e2rank_client import (
    AsyncE2RankClient,
    DeadlineExceededError,
    E2RankClient,
    InvalidRequestError,
    OverloadedError,
    ServerError,
    UnavailableError,
)
from e2rank_server.gateway.server import GatewayServer
from tests.fakes import FakeServedModel
from tests.gateway.canned_server import (
    CannedServer,
    canned_server,
    failure,
    forever,
    open_client,
    reason,
)
from tests.gateway.running_gateway import LIMITS

BOTH_CLIENTS = pytest.mark.parametrize("kind", ["async", "blocking"])

OK = model_pb2.GetModelResponse()
UNAVAILABLE, EXHAUSTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
async def servers() -> AsyncIterator[list[CannedServer]]:
    async with contextlib.AsyncExitStack() as stack:
        both = [await stack.enter_async_context(canned_server()) for _ in range(2)]
        for server in both:
            server.answer = OK
        yield both


@pytest.fixture
async def server() -> AsyncIterator[CannedServer]:
    async with canned_server() as canned:
        canned.answer = OK
        yield canned


def addresses(servers: list[CannedServer]) -> list[str]:
    return [server.address for server in servers]


def counts(servers: list[CannedServer]) -> list[int]:
    return [len(server.arrivals) for server in servers]


def pushback(milliseconds: int) -> Callable[[Any], Awaitable[None]]:
    trailers = (("grpc-retry-pushback-ms", str(milliseconds)),)
    return failure(UNAVAILABLE, "gone for now", trailers=trailers)


def in_turn(*answers: Any) -> Callable[[Any], Awaitable[Any]]:
    """Make an answer that is the next of these in each call, at whichever server."""
    left = iter(answers)

    async def answer(context: Any) -> Any:
        now = next(left)
        return await now(context) if callable(now) else now

    return answer


async def call_until(client: Any, condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await client.get_model()


@pytest.fixture
def dead_address() -> Iterator[str]:
    """An address at which nobody listens, and no other test will."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


# Which server is asked


@BOTH_CLIENTS
async def test_calls_go_to_all_servers_in_turn(servers: list[CannedServer], kind: str) -> None:
    async with open_client(kind, addresses(servers)) as client:
        await call_until(client, lambda: min(counts(servers)) > 0)
        before = counts(servers)
        for _ in range(10):
            await client.get_model()
        assert [now - then for now, then in zip(counts(servers), before, strict=True)] == [5, 5]


@BOTH_CLIENTS
async def test_a_dead_server_is_passed_over(
    server: CannedServer, dead_address: str, kind: str
) -> None:
    async with open_client(kind, [dead_address, server.address], max_attempts=1) as client:
        for _ in range(5):
            await client.get_model()
    assert len(server.arrivals) == 5


@BOTH_CLIENTS
async def test_a_server_that_says_not_serving_gets_no_calls_until_it_serves_again(
    servers: list[CannedServer], kind: str
) -> None:
    sick = servers[0]
    await sick.set_serving(False)
    async with open_client(kind, addresses(servers), max_attempts=1) as client:
        for _ in range(5):
            await client.get_model()
        assert counts(servers) == [0, 5]
        await sick.set_serving(True)
        await call_until(client, lambda: len(sick.arrivals) > 0)


@BOTH_CLIENTS
async def test_where_no_server_is_serving_calls_fail_without_reaching_any(
    servers: list[CannedServer], kind: str
) -> None:
    for server in servers:
        await server.set_serving(False)
    async with open_client(kind, addresses(servers), max_attempts=1) as client:
        with pytest.raises(UnavailableError, match="backend unhealthy"):
            await client.get_model()
        assert counts(servers) == [0, 0]
        # As soon as it is ready again, the next call must succeed.
        waiting = asyncio.ensure_future(client.wait_until_ready(timeout_seconds=30))
        await servers[1].set_serving(True)
        await waiting
        await client.get_model()
        assert counts(servers) == [0, 1]


@BOTH_CLIENTS
async def test_a_server_is_chosen_by_the_health_of_the_model_that_is_asked_for(
    servers: list[CannedServer], kind: str
) -> None:
    for server, status in zip(servers, (2, 1), strict=True):
        await server.health.set("models/small", status)
    async with open_client(kind, addresses(servers), health_service="models/small") as client:
        await client.wait_until_ready()
        for _ in range(3):
            await client.get_model()
        assert counts(servers) == [0, 3]


@BOTH_CLIENTS
async def test_a_client_that_does_not_ask_for_health_sends_to_any_server(
    server: CannedServer, kind: str
) -> None:
    await server.set_serving(False)
    async with open_client(kind, server.address, health_service=None) as client:
        await client.get_model()


@BOTH_CLIENTS
async def test_no_call_fails_when_a_gateway_says_not_serving_and_then_stops(kind: str) -> None:
    models = [FakeServedModel(), FakeServedModel()]
    gateways = [
        GatewayServer(
            [model],
            LIMITS,
            address="127.0.0.1:0",
            max_concurrent_requests=100,
            health_interval_seconds=0.01,
        )
        for model in models
    ]
    listening = [await gateway.start() for gateway in gateways]
    try:
        async with open_client(kind, listening) as client:
            await client.wait_until_ready()
            async with asyncio.timeout(20):
                while not all(model.requests for model in models):
                    await client.rerank("q", ["d"])
            models[0].is_healthy = False
            served = -1
            async with asyncio.timeout(20):
                while len(models[0].requests) != served:
                    served = len(models[0].requests)
                    await asyncio.gather(*(client.rerank("q", ["d"]) for _ in range(8)))
            stopping = asyncio.create_task(gateways[0].stop(20))
            while not stopping.done():
                await asyncio.gather(*(client.rerank("q", ["d"]) for _ in range(8)))
            assert len(models[0].requests) == served
    finally:
        await gateways[1].stop(0)


@pytest.mark.parametrize("scheme", ["name", "target", "unix"])
async def test_an_address_is_a_name_or_any_grpc_target(scheme: str, tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/socket" if scheme == "unix" else "127.0.0.1:0"
    async with canned_server(listen) as server:
        server.answer = OK
        port = server.address.rpartition(":")[2]
        address = {
            "name": f"localhost:{port}",
            "target": f"dns:///localhost:{port}",
            "unix": listen,
        }[scheme]
        async with AsyncE2RankClient(address) as client:
            await client.get_model()


# What is repeated


@BOTH_CLIENTS
async def test_an_unavailable_server_is_asked_again(server: CannedServer, kind: str) -> None:
    server.answer = in_turn(failure(UNAVAILABLE, "gone"), OK)
    async with open_client(kind, server.address) as client:
        await client.get_model()
    assert len(server.arrivals) == 2


@BOTH_CLIENTS
async def test_a_request_beyond_grpcs_retry_buffer_is_repeated_too(
    server: CannedServer, kind: str
) -> None:
    server.answer = in_turn(failure(UNAVAILABLE, "gone"), rerank_pb2.RerankResponse())
    async with open_client(kind, server.address) as client:
        await client.rerank("q", ["x" * (1 << 20)])
    assert len(server.arrivals) == 2


@BOTH_CLIENTS
async def test_a_server_that_asks_to_be_left_alone_for_a_while_is(
    server: CannedServer, kind: str
) -> None:
    server.answer = in_turn(pushback(250), OK)
    async with open_client(kind, server.address) as client:
        await client.get_model()
    first, second = server.arrivals
    assert second - first > 0.2  # the policy's own wait is 0.1 s


@BOTH_CLIENTS
async def test_a_server_that_asks_not_to_be_asked_again_is_not(
    server: CannedServer, kind: str
) -> None:
    server.answer = pushback(-1)
    async with open_client(kind, server.address) as client:
        with pytest.raises(UnavailableError):
            await client.get_model()
    assert len(server.arrivals) == 1


@BOTH_CLIENTS
@pytest.mark.parametrize(
    ("code", "kind_of_error"),
    [
        (EXHAUSTED, OverloadedError),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequestError),
        (grpc.StatusCode.INTERNAL, ServerError),
        (grpc.StatusCode.ABORTED, ServerError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceededError),
    ],
)
async def test_nothing_but_unavailable_is_repeated_even_if_the_server_says_when(
    server: CannedServer, kind: str, code: grpc.StatusCode, kind_of_error: type[Exception]
) -> None:
    server.answer = failure(code, "no", trailers=(("grpc-retry-pushback-ms", "0"),))
    async with open_client(kind, server.address) as client:
        with pytest.raises(kind_of_error):
            await client.get_model()
    assert len(server.arrivals) == 1


@BOTH_CLIENTS
@pytest.mark.parametrize("max_attempts", [1, 3])
async def test_attempts_are_bounded(server: CannedServer, kind: str, max_attempts: int) -> None:
    server.answer = pushback(1)
    async with open_client(kind, server.address, max_attempts=max_attempts) as client:
        with pytest.raises(UnavailableError):
            await client.get_model()
    assert len(server.arrivals) == max_attempts


@BOTH_CLIENTS
async def test_repetitions_end_at_the_calls_deadline(server: CannedServer, kind: str) -> None:
    server.answer = pushback(60_000)
    async with open_client(kind, server.address) as client:
        with pytest.raises(DeadlineExceededError):
            await client.get_model(timeout_seconds=0.1)
    assert len(server.arrivals) == 1


async def test_where_everything_fails_repetitions_stop(server: CannedServer) -> None:
    server.answer = pushback(1)
    async with AsyncE2RankClient(server.address) as client:
        for _ in range(20):
            calls = (client.get_model() for _ in range(10))
            errors = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(error) for error in errors} == {UnavailableError}
    assert 200 < len(server.arrivals) < 300  # of 800 that four attempts each would be


@BOTH_CLIENTS
async def test_a_call_whose_server_dies_is_answered_by_another(
    servers: list[CannedServer], kind: str
) -> None:
    entered = asyncio.Event()

    async def hang(_context: Any) -> None:
        entered.set()
        await asyncio.Event().wait()

    for server in servers:
        server.answer = hang
    async with open_client(kind, addresses(servers)) as client:
        call = asyncio.ensure_future(client.get_model())
        await asyncio.wait_for(entered.wait(), 10)
        dying, living = sorted(servers, key=lambda server: -len(server.arrivals))
        living.answer = OK
        assert dying.grpc_server is not None
        await dying.grpc_server.stop(0)
        await call
    assert (len(dying.arrivals), len(living.arrivals)) == (1, 1)


# Hedging


def answer_all(servers: list[CannedServer], answer: Any) -> None:
    for server in servers:
        server.answer = answer


async def connect(client: Any, servers: list[CannedServer]) -> None:
    """Have the client connected to all servers, and nothing counted yet."""
    await call_until(client, lambda: min(counts(servers)) > 0)
    for server in servers:
        server.arrivals.clear()


@BOTH_CLIENTS
async def test_a_slow_call_is_answered_by_a_second_server_and_cancelled_at_the_first(
    servers: list[CannedServer], kind: str
) -> None:
    async with open_client(kind, addresses(servers), hedge_after_seconds=0.05) as client:
        await connect(client, servers)
        answer_all(servers, in_turn(forever, OK))
        await client.get_model()
        assert counts(servers) == [1, 1]
        cancelled = [asyncio.create_task(server.cancelled.wait()) for server in servers]
        await asyncio.wait(cancelled, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        first, second = sorted(servers, key=lambda server: server.arrivals[0])
        assert first.cancelled.is_set()
        assert not second.cancelled.is_set()
        cancelled[servers.index(second)].cancel()


@BOTH_CLIENTS
async def test_a_call_that_is_answered_or_fails_in_time_is_sent_once(
    servers: list[CannedServer], kind: str
) -> None:
    async with open_client(kind, addresses(servers), hedge_after_seconds=30) as client:
        await client.get_model()
        answer_all(servers, failure(EXHAUSTED, "busy", reason("OVERLOADED")))
        with pytest.raises(OverloadedError):
            await client.get_model()
    assert sum(counts(servers)) == 2


@BOTH_CLIENTS
@pytest.mark.parametrize("code", [EXHAUSTED, UNAVAILABLE])
async def test_while_a_second_attempt_finds_no_room_the_first_goes_on(
    servers: list[CannedServer], kind: str, code: grpc.StatusCode
) -> None:
    refused = asyncio.Event()

    async def slow(_context: Any) -> Any:
        await refused.wait()
        return OK

    async def refuse(context: Any) -> None:
        refused.set()
        await failure(code, "no")(context)

    options = {"hedge_after_seconds": 0.05, "max_attempts": 1}
    async with open_client(kind, addresses(servers), **options) as client:
        answer_all(servers, in_turn(slow, refuse))
        await client.get_model()
    assert sum(counts(servers)) == 2


@BOTH_CLIENTS
async def test_an_error_that_repeating_cannot_help_ends_both_attempts(
    servers: list[CannedServer], kind: str
) -> None:
    refuse = failure(grpc.StatusCode.INVALID_ARGUMENT, "no")
    async with open_client(kind, addresses(servers), hedge_after_seconds=0.05) as client:
        answer_all(servers, in_turn(forever, refuse))
        with pytest.raises(InvalidRequestError):
            await client.get_model()


@BOTH_CLIENTS
async def test_when_both_attempts_find_no_room_the_call_fails(
    servers: list[CannedServer], kind: str
) -> None:
    both = asyncio.Barrier(2)

    async def refuse(context: Any) -> None:
        await both.wait()
        await failure(EXHAUSTED, "busy")(context)

    async with open_client(kind, addresses(servers), hedge_after_seconds=0.05) as client:
        answer_all(servers, refuse)
        with pytest.raises(OverloadedError):
            await client.get_model()


@BOTH_CLIENTS
async def test_both_attempts_end_at_the_calls_deadline(
    servers: list[CannedServer], kind: str
) -> None:
    async with open_client(kind, addresses(servers), hedge_after_seconds=0.01) as client:
        await connect(client, servers)
        answer_all(servers, forever)
        with pytest.raises(DeadlineExceededError):
            await client.get_model(timeout_seconds=0.3)
        for server in servers:
            await asyncio.wait_for(server.cancelled.wait(), 10)


async def test_cancelling_a_hedged_call_cancels_it_in_both_servers(
    servers: list[CannedServer],
) -> None:
    async with AsyncE2RankClient(addresses(servers), hedge_after_seconds=0.01) as client:
        await connect(client, servers)
        both = asyncio.Barrier(3)

        async def hang(_context: Any) -> None:
            await both.wait()
            await asyncio.Event().wait()

        answer_all(servers, hang)
        call = asyncio.ensure_future(client.get_model())
        await asyncio.wait_for(both.wait(), 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        for server in servers:
            await asyncio.wait_for(server.cancelled.wait(), 10)


@BOTH_CLIENTS
async def test_an_overloaded_server_is_not_sent_second_attempts_while_it_wants_none(
    server: CannedServer, kind: str
) -> None:
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=60))
    server.answer = failure(EXHAUSTED, "busy", reason("OVERLOADED"), retry)
    async with open_client(kind, server.address, hedge_after_seconds=0.01) as client:
        with pytest.raises(OverloadedError):
            await client.get_model()
        server.arrivals.clear()
        server.answer = forever
        with pytest.raises(DeadlineExceededError):
            await client.get_model(timeout_seconds=0.2)
    assert len(server.arrivals) == 1


# What is refused


@pytest.mark.parametrize("max_attempts", [0, 6])
def test_attempts_that_grpc_cannot_make_are_refused(max_attempts: int) -> None:
    with pytest.raises(ValueError, match=f"max_attempts is {max_attempts}, not within 1..5"):
        E2RankClient("localhost:1", max_attempts=max_attempts)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_wait_before_hedging_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="hedge_after_seconds is "):
        E2RankClient("localhost:1", hedge_after_seconds=seconds)
