"""vLLM servers over HTTP: which is asked, what is believed, and what happens when one fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2rank_server.embedder.fake import FakeEmbedder
from e2rank_server.embedder.identity import ProbeReferences
from e2rank_server.embedder.protocol import EmbedderPrompt
from e2rank_server.embedder.vllm_remote.embedder import VllmRemoteEmbedder
from e2rank_server.embedder.vllm_remote.failure import FailureReason, RefusedError
from e2rank_server.embedder.vllm_remote.lane import Expectation
from e2rank_server.errors import ConfigurationError, UnavailableError
from e2rank_server.types import FloatArray
from tests.fake_vllm_server import (
    FAST,
    PROBES,
    PROFILE,
    FakeVllmServer,
    Fault,
    LoadBalancer,
    OtherModel,
    eventually,
    references,
    remote_embedder,
)

# The failures that eject a replica, and the reason that is then told.
EJECTING = {
    Fault.RESET: FailureReason.DISCONNECTED,
    Fault.TRUNCATE: FailureReason.NONSENSE,
    Fault.OVERSIZE: FailureReason.NONSENSE,
    Fault.CUT_STREAM: FailureReason.NONSENSE,
    Fault.NAN: FailureReason.NONSENSE,
    Fault.ZERO: FailureReason.NONSENSE,
    Fault.JSON: FailureReason.NONSENSE,
    Fault.STATUS_302: FailureReason.NONSENSE,
    Fault.STATUS_500: FailureReason.SERVER_ERROR,
    Fault.STATUS_503: FailureReason.SERVER_ERROR,
    Fault.STATUS_429: FailureReason.SERVER_ERROR,
    Fault.STATUS_401: FailureReason.UNAUTHORIZED,
    Fault.STATUS_404: FailureReason.WRONG_MODEL,
}
RESTING = replace(FAST, first_rest_seconds=60, max_rest_seconds=60)
"""A replica that fails stays away for the rest of the test."""


@pytest.fixture
async def servers() -> AsyncIterator[list[FakeVllmServer]]:
    async with AsyncExitStack() as stack:
        started = [FakeVllmServer(), FakeVllmServer(), FakeVllmServer()]
        for server in started:
            await server.start()
            stack.push_async_callback(server.stop)
        yield started


def prompt(*ids: int, span: tuple[int, int] | None = None) -> EmbedderPrompt:
    return EmbedderPrompt(np.array(ids, np.int32), span)


def start(
    embedder: VllmRemoteEmbedder, *prompts: EmbedderPrompt, priority: int = 0
) -> asyncio.Task[FloatArray]:
    return asyncio.create_task(embedder.embed(prompts, priority=priority))


def asked(server: FakeVllmServer) -> list[list[int]]:
    """Return the first token of each prompt, request by request."""
    return [[ids[0] for ids in request.prompts] for request in server.requests]


def is_connected(embedder: VllmRemoteEmbedder) -> bool:
    """Say whether the connection that would be used next is open."""
    lane = embedder._dispatcher.replicas[0]._free_lanes[-1]
    pools: Any = lane._connection._session.connector._conns.values()  # type: ignore[union-attr]
    return any(protocol.is_connected() for pool in pools for protocol, _ in pool)


async def expected(*prompts: EmbedderPrompt) -> FloatArray:
    return await FakeEmbedder(PROFILE.dimension).embed(prompts)


class TestRequests:
    async def test_calls_of_one_moment_share_a_request(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        async with remote_embedder(tmp_path, servers[0].url) as embedder:
            await asyncio.gather(*(embedder.embed([prompt(500 + i)]) for i in range(16)))
        assert asked(servers[0]) == [list(range(500, 516))]

    async def test_requests_are_bounded_in_prompts_and_tokens(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        limits = replace(FAST, max_request_prompts=3, max_request_tokens=10)
        async with remote_embedder(tmp_path, servers[0].url, limits=limits) as embedder:
            await embedder.embed([prompt(500 + i) for i in range(7)])
            await embedder.embed([prompt(*[600 + i] * 4) for i in range(3)])
            await embedder.embed([prompt(*[700] * 11)])
        assert [len(request) for request in asked(servers[0])] == [3, 3, 1, 2, 1, 1]

    async def test_prompts_with_a_span_and_prompts_without_get_their_own_vectors(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        prompts = [prompt(500, 501), prompt(600, 601, 602, span=(1, 3)), prompt(700)]
        async with remote_embedder(tmp_path, servers[0].url) as embedder:
            vectors = await embedder.embed(prompts)
        np.testing.assert_allclose(vectors, await expected(*prompts), atol=1e-6)

    async def test_the_priority_is_passed_on(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        async with remote_embedder(tmp_path, servers[0].url) as embedder:
            await embedder.embed([prompt(500)], priority=7)
        assert [request.priority for request in servers[0].requests] == [7]

    async def test_a_server_without_priorities_is_sent_none(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        servers[0].takes_priority = False
        async with remote_embedder(tmp_path, servers[0].url) as embedder:
            vectors = await embedder.embed([prompt(500)], priority=7)
        np.testing.assert_allclose(vectors, await expected(prompt(500)), atol=1e-6)
        assert servers[0].requests[-1].priority == 0

    async def test_what_waits_goes_by_priority_and_then_by_arrival(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        limits = replace(FAST, max_outstanding_tokens=1)
        server = servers[0]
        async with remote_embedder(tmp_path, server.url, limits=limits) as embedder:
            server.embedder.hold()
            first = start(embedder, prompt(500))
            await eventually(lambda: len(server.requests) == 1)
            rest = [
                start(embedder, prompt(500 + i), priority=priority)
                for i, priority in [(1, 5), (2, 0), (3, 5), (4, -2)]
            ]
            await asyncio.sleep(0)
            server.embedder.release()
            await asyncio.gather(first, *rest)
        assert asked(server) == [[500], [504], [502], [501], [503]]

    async def test_no_more_than_the_outstanding_tokens_are_sent(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        limits = replace(FAST, max_outstanding_tokens=4, max_request_prompts=1)
        server = servers[0]
        async with remote_embedder(tmp_path, server.url, limits=limits) as embedder:
            server.embedder.hold()
            task = start(embedder, *(prompt(500 + i, 1) for i in range(5)))
            await eventually(lambda: server.embedder.num_running_prompts == 2)
            await embedder.check_health()
            assert len(server.requests) == 2
            server.embedder.release()
            await task

    async def test_no_more_connections_are_opened_than_allowed(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        limits = replace(FAST, max_connections=3, max_request_prompts=1)
        balancer = LoadBalancer(servers[0])
        async with (
            balancer.running() as url,
            remote_embedder(tmp_path, url, limits=limits) as embedder,
        ):
            await embedder.embed([prompt(500 + i) for i in range(50)])
        # And one more that watches it.
        assert balancer.num_connections <= 4
        assert servers[0].num_checks == balancer.num_connections

    async def test_connections_are_used_again_without_another_check(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        unwatched = replace(FAST, health_interval_seconds=60)
        async with remote_embedder(tmp_path, servers[0].url, limits=unwatched) as embedder:
            for i in range(20):
                await embedder.embed([prompt(500 + i)])
        assert servers[0].num_checks == 1


class TestCancellation:
    async def test_what_had_not_been_sent_never_arrives(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        limits = replace(FAST, max_outstanding_tokens=2, max_request_prompts=1)
        server = servers[0]
        async with remote_embedder(tmp_path, server.url, limits=limits) as embedder:
            server.embedder.hold()
            task = start(embedder, *(prompt(500 + i) for i in range(20)))
            await eventually(lambda: len(server.requests) == 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            server.embedder.release()
            await embedder.embed([prompt(900)])
            assert embedder._dispatcher.num_waiting == 0
        assert asked(server) == [[500], [501], [900]]

    async def test_a_request_that_nobody_waits_for_is_ended_at_the_server(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        server = servers[0]
        async with remote_embedder(tmp_path, server.url) as embedder:
            server.embedder.hold()
            task = start(embedder, prompt(500), prompt(501))
            await eventually(lambda: server.embedder.num_running_prompts == 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await eventually(lambda: server.num_cancelled == 1)
            assert server.embedder.num_running_prompts == 0
            server.embedder.release()
            await embedder.embed([prompt(502)])

    async def test_a_request_goes_on_until_its_last_caller_has_left(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        server = servers[0]
        async with remote_embedder(tmp_path, server.url) as embedder:
            server.embedder.hold()
            tasks = [start(embedder, prompt(500 + i)) for i in range(3)]
            await eventually(lambda: server.embedder.num_running_prompts == 3)
            tasks[0].cancel()
            await asyncio.wait({tasks[0]})
            assert server.embedder.num_running_prompts == 3
            server.embedder.release()
            vectors = await tasks[1]
            await tasks[2]
        assert server.num_cancelled == 0
        np.testing.assert_allclose(vectors, await expected(prompt(501)), atol=1e-6)

    async def test_a_call_that_is_thrown_away_is_ended_too(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        server = servers[0]
        async with remote_embedder(tmp_path, server.url) as embedder:
            server.embedder.hold()
            call = embedder.embed([prompt(500)])
            call.send(None)  # as far as its first wait
            await eventually(lambda: server.embedder.num_running_prompts == 1)
            call.close()  # raises GeneratorExit inside
            await eventually(lambda: server.num_cancelled == 1)

    async def test_many_cancelled_calls_leave_nothing_in_the_queue(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        limits = replace(FAST, max_outstanding_tokens=1)
        server = servers[0]
        async with remote_embedder(tmp_path, server.url, limits=limits) as embedder:
            server.embedder.hold()
            tasks = [start(embedder, prompt(500 + i)) for i in range(200)]
            await eventually(lambda: len(server.requests) == 1)
            for task in tasks[1:]:
                task.cancel()
            await asyncio.wait(tasks[1:])
            assert len(embedder._dispatcher._queue._heap) == 0
            server.embedder.release()
            await tasks[0]

    async def test_closing_fails_the_calls_in_flight_and_those_that_wait(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        limits = replace(FAST, max_outstanding_tokens=1)
        server = servers[0]
        async with remote_embedder(tmp_path, server.url, limits=limits) as embedder:
            server.embedder.hold()
            tasks = [start(embedder, prompt(500 + i)) for i in range(3)]
            await eventually(lambda: len(server.requests) == 1)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [UnavailableError] * 3
        with pytest.raises(UnavailableError):
            await embedder.embed([prompt(500)])


class TestReplicas:
    async def test_the_least_loaded_server_is_asked(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        one, other, _ = servers
        async with remote_embedder(tmp_path, one.url, other.url) as embedder:
            await eventually(lambda: all(r.is_usable for r in embedder._dispatcher.replicas))
            one.embedder.hold()
            other.embedder.hold()
            tasks = [start(embedder, prompt(*[500] * 100))]
            await eventually(lambda: len(one.requests) + len(other.requests) == 1)
            busy, idle = (one, other) if one.requests else (other, one)
            for i in range(5):
                tasks.append(start(embedder, prompt(600 + i)))
                await eventually(lambda count=i + 1: len(idle.requests) == count)  # type: ignore[misc]
            assert len(busy.requests) == 1
            one.embedder.release()
            other.embedder.release()
            await asyncio.gather(*tasks)

    async def test_what_is_there_is_spread_over_idle_servers(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        urls = [server.url for server in servers]
        async with remote_embedder(tmp_path, *urls) as embedder:
            await eventually(lambda: all(r.is_usable for r in embedder._dispatcher.replicas))
            await embedder.embed([prompt(500 + i) for i in range(12)])
        assert sorted(len(request) for server in servers for request in asked(server)) == [4, 4, 4]

    @pytest.mark.parametrize("fault", EJECTING)
    async def test_a_failed_request_is_answered_by_another_server(
        self, servers: list[FakeVllmServer], tmp_path: Path, fault: Fault
    ) -> None:
        sick, well, _ = servers
        async with remote_embedder(tmp_path, sick.url, well.url, limits=RESTING) as embedder:
            await eventually(lambda: all(r.is_usable for r in embedder._dispatcher.replicas))
            sick.fault = fault
            prompts = [prompt(500 + i) for i in range(4)]
            vectors = await embedder.embed(prompts)
            np.testing.assert_allclose(vectors, await expected(*prompts), atol=1e-6)
            state = embedder._dispatcher.replicas[0].describe()
            assert f"{sick.url} is EJECTED ({EJECTING[fault]}: " in state
            await embedder.embed(prompts)
        assert len(sick.requests) == 1

    async def test_a_server_that_does_not_answer_in_time_counts_as_failed(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        limits = replace(RESTING, request_timeout_seconds=0.2)
        servers[0].fault = Fault.HANG
        async with remote_embedder(tmp_path, servers[0].url, limits=limits) as embedder:
            with pytest.raises(UnavailableError, match=r"EJECTED \(TIMED_OUT"):
                await embedder.embed([prompt(500)])

    async def test_a_request_is_tried_on_three_servers_at_most(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        fourth = FakeVllmServer()
        await fourth.start()
        urls = [server.url for server in [*servers, fourth]]
        async with remote_embedder(tmp_path, *urls, limits=RESTING) as embedder:
            await eventually(lambda: all(r.is_usable for r in embedder._dispatcher.replicas))
            for server in [*servers, fourth]:
                server.fault = Fault.STATUS_500
            with pytest.raises(UnavailableError, match="3 attempts failed, the last with SERVER"):
                await embedder.embed([prompt(500)])
            await embedder.check_health()
        await fourth.stop()
        assert sum(len(server.requests) for server in [*servers, fourth]) == 3

    async def test_a_request_that_is_refused_is_not_tried_again(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        urls = [server.url for server in servers]
        async with remote_embedder(tmp_path, *urls) as embedder:
            with pytest.raises(RefusedError, match="400 from /v1/embeddings: a token is out of"):
                await embedder.embed([prompt(2_000_000)])
            await embedder.check_health()
        assert sum(len(server.requests) for server in servers) == 1

    async def test_a_prompt_that_is_refused_does_not_take_those_of_others_with_it(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        async with remote_embedder(tmp_path, servers[0].url) as embedder:
            tasks = [start(embedder, prompt(ids)) for ids in (500, 2_000_000, 501)]
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[1], RefusedError)
        assert [type(results[0]), type(results[2])] == [np.ndarray] * 2
        assert asked(servers[0]) == [[500, 2_000_000, 501], [500], [2_000_000], [501]]

    async def test_with_all_servers_away_the_error_says_how_each_one_is(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        one, other, _ = servers
        async with remote_embedder(tmp_path, one.url, other.url, limits=RESTING) as embedder:
            await eventually(lambda: all(r.is_usable for r in embedder._dispatcher.replicas))
            await one.stop()
            other.fault = Fault.STATUS_500
            with pytest.raises(UnavailableError) as caught:
                await embedder.embed([prompt(500)])
            with pytest.raises(UnavailableError):
                await embedder.check_health()
        assert f"{one.url} is EJECTED (" in str(caught.value)
        assert f"{other.url} is EJECTED (SERVER_ERROR: HTTP 500" in str(caught.value)

    async def test_a_server_that_dies_without_traffic_fails_the_health_check(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        async with remote_embedder(tmp_path, servers[0].url) as embedder:
            servers[0].is_healthy = False
            servers[0].fault, servers[0].spares_probes = Fault.STATUS_503, False
            await eventually(lambda: not embedder._dispatcher.replicas[0].is_usable)
            with pytest.raises(UnavailableError, match="embedder"):
                await embedder.check_health()

    async def test_a_server_is_used_as_soon_as_it_has_come_up(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        await servers[0].stop()
        async with remote_embedder(tmp_path, servers[0].url, is_ready=False) as embedder:
            await eventually(lambda: "UNREACHABLE" in embedder._dispatcher.replicas[0].describe())
            with pytest.raises(UnavailableError, match=r"is CONNECTING \(UNREACHABLE"):
                await embedder.embed([prompt(500)])
            await servers[0].start()
            await embedder.wait_until_ready()
            await embedder.embed([prompt(500)])

    async def test_a_server_that_comes_back_is_checked_and_then_asked_once_at_a_time(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        server = servers[0]
        limits = replace(FAST, max_request_prompts=1)
        async with remote_embedder(tmp_path, server.url, limits=limits) as embedder:
            replica = embedder._dispatcher.replicas[0]
            server.fault = Fault.STATUS_500
            with pytest.raises(UnavailableError):
                await embedder.embed([prompt(500)])
            server.fault = None
            checks = server.num_checks
            await embedder.wait_until_ready()
            assert replica.state == "PROBATION"
            assert server.num_checks == checks + 1
            server.embedder.hold()
            tasks = [start(embedder, prompt(600 + i)) for i in range(4)]
            await eventually(lambda: len(server.requests) == 2)
            await embedder.check_health()
            assert server.embedder.num_running_prompts == 1
            server.embedder.release()
            await asyncio.gather(*tasks)
            assert replica.state == "READY"

    async def test_a_request_that_hangs_from_before_does_not_hold_up_a_server_on_probation(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        server = servers[0]
        async with remote_embedder(tmp_path, server.url) as embedder:
            server.fault = Fault.HANG
            hanging = start(embedder, prompt(500))
            await eventually(lambda: len(server.requests) == 1)
            server.fault = Fault.STATUS_500
            with pytest.raises(UnavailableError):
                await embedder.embed([prompt(501)])
            server.fault = None
            await embedder.wait_until_ready()
            await embedder.embed([prompt(502)])
            assert embedder._dispatcher.replicas[0].state == "READY"
            assert not hanging.done()
            hanging.cancel()
            await asyncio.wait({hanging})

    async def test_a_defect_in_a_check_is_logged_and_the_check_repeated(
        self,
        servers: list[FakeVllmServer],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        check = ProbeReferences.check

        def fail_once(self: ProbeReferences, vectors: FloatArray) -> None:
            monkeypatch.setattr(ProbeReferences, "check", check)
            raise KeyError("a defect")

        expectation = Expectation(PROFILE, PROBES, references(tmp_path))
        monkeypatch.setattr(ProbeReferences, "check", fail_once)
        embedder = await VllmRemoteEmbedder.start(expectation, [servers[0].url], limits=FAST)
        await embedder.wait_until_ready()
        await embedder.close()
        assert "a defect" in caplog.text

    async def test_rests_grow_with_each_failure_in_a_row_up_to_a_bound(self) -> None:
        limits = replace(FAST, first_rest_seconds=1, max_rest_seconds=10)
        assert [limits.rest_seconds(n) for n in (1, 2, 3, 4, 5, 1000)] == [1, 2, 4, 8, 10, 10]

    async def test_a_connection_that_was_closed_while_idle_ejects_nobody(
        self, servers: list[FakeVllmServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("e2rank_server.embedder.vllm_remote.lane._IDLE_SECONDS", -1.0)
        async with remote_embedder(tmp_path, servers[0].url, limits=RESTING) as embedder:
            await embedder.embed([prompt(500)])
            servers[0].fault = Fault.RESET
            task = start(embedder, prompt(501))
            await eventually(lambda: len(servers[0].requests) == 2)
            servers[0].fault = None
            await task
            await embedder.check_health()


class TestIdentity:
    async def test_a_server_of_another_model_is_not_used(self, tmp_path: Path) -> None:
        server = FakeVllmServer(OtherModel(PROFILE.dimension))
        await server.start()
        async with remote_embedder(tmp_path, server.url, is_ready=False) as embedder:
            await eventually(lambda: "cosine" in embedder._dispatcher.replicas[0].describe())
            with pytest.raises(UnavailableError, match="WRONG_VECTORS: cosine with the vectors"):
                await embedder.embed([prompt(500)])
        await server.stop()
        assert not server.requests

    @pytest.mark.parametrize(
        ("attribute", "value", "reason"),
        [
            ("model", "another", "WRONG_MODEL: it serves 'another'; expected exactly one of"),
            ("max_model_len", 511, "TOO_SHORT: max_model_len is 511; expected at least 512"),
            ("max_model_len", "512", "TOO_SHORT: max_model_len is '512'"),
            ("has_span_route", False, "WRONG_MODEL: HTTP 404 from /v1/span_embeddings"),
            ("api_key", "secret", "UNAUTHORIZED: HTTP 401 from /v1/models"),
        ],
    )
    async def test_a_server_that_is_not_as_the_profile_needs_it_is_not_used(
        self,
        servers: list[FakeVllmServer],
        tmp_path: Path,
        attribute: str,
        value: object,
        reason: str,
    ) -> None:
        setattr(servers[0], attribute, value)
        async with remote_embedder(tmp_path, servers[0].url, is_ready=False) as embedder:
            await eventually(lambda: reason in embedder._dispatcher.replicas[0].describe())
            with pytest.raises(UnavailableError):
                await embedder.check_health()

    async def test_the_model_may_be_served_under_its_sources_name(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        servers[0].model = PROFILE.source.location
        async with remote_embedder(tmp_path, servers[0].url) as embedder:
            await embedder.embed([prompt(500)])

    async def test_an_api_key_is_sent_and_never_shown(
        self, servers: list[FakeVllmServer], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        servers[0].api_key = "open-sesame"
        async with remote_embedder(tmp_path, servers[0].url, api_key="open-sesame") as embedder:
            await embedder.embed([prompt(500)])
            await servers[0].stop()
            await eventually(lambda: not embedder._dispatcher.replicas[0].is_usable)
        assert "open-sesame" not in caplog.text

    async def test_another_model_that_appears_behind_a_live_url_is_never_believed(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        server = servers[0]
        async with remote_embedder(tmp_path, server.url, limits=RESTING) as embedder:
            await embedder.embed([prompt(500)])
            await server.stop()
            server.embedder = OtherModel(PROFILE.dimension)
            await server.start()
            with pytest.raises(UnavailableError, match="EJECTED"):
                await embedder.embed([prompt(501)])

    async def test_an_answer_over_a_new_connection_waits_for_the_check_of_that_connection(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        impostor = FakeVllmServer(OtherModel(PROFILE.dimension))
        await impostor.start()
        balancer = LoadBalancer(servers[0], impostor)
        limits = replace(RESTING, health_interval_seconds=60)
        async with (
            balancer.running() as url,
            remote_embedder(tmp_path, url, limits=limits) as embedder,
        ):
            await embedder.embed([prompt(500)])
            balancer.drop()
            await eventually(lambda: not is_connected(embedder))
            with pytest.raises(UnavailableError, match=r"EJECTED \(WRONG_VECTORS"):
                await embedder.embed([prompt(501)])
        assert asked(impostor) == [[501]]  # and its answer was thrown away
        await impostor.stop()

    async def test_a_connection_to_a_wrong_server_is_given_up_for_one_that_may_be_right(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        impostor = FakeVllmServer(OtherModel(PROFILE.dimension))
        await impostor.start()
        async with (
            LoadBalancer(impostor, servers[0]).running() as url,
            remote_embedder(tmp_path, url) as embedder,
        ):
            await embedder.embed([prompt(500)])
        await impostor.stop()
        assert not impostor.requests

    async def test_behind_a_load_balancer_only_the_servers_of_the_model_answer(
        self, servers: list[FakeVllmServer], tmp_path: Path
    ) -> None:
        impostor = FakeVllmServer(OtherModel(PROFILE.dimension))
        await impostor.start()
        limits = replace(FAST, max_request_prompts=1)
        prompts = [prompt(500 + i) for i in range(40)]
        wanted = await expected(*prompts)
        believed = 0
        async with (
            LoadBalancer(servers[0], impostor).running() as url,
            remote_embedder(tmp_path, url, limits=limits) as embedder,
        ):
            for _ in range(5):
                await embedder.wait_until_ready()
                results = await asyncio.gather(
                    *(embedder.embed([each]) for each in prompts), return_exceptions=True
                )
                for result, vector in zip(results, wanted, strict=True):
                    if not isinstance(result, BaseException):
                        np.testing.assert_allclose(result[0], vector, atol=1e-6)
                        believed += 1
        await impostor.stop()
        assert believed > 0
        assert not impostor.requests

    async def test_a_server_behind_a_unix_socket_is_reached(self, tmp_path: Path) -> None:
        server = FakeVllmServer()
        await server.start(unix_socket=tmp_path / "vllm.sock")
        async with remote_embedder(tmp_path, f"unix:{tmp_path}/vllm.sock") as embedder:
            await embedder.embed([prompt(500)])
        await server.stop()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("localhost:8000", "expected http://HOST:PORT"),
        ("ftp://localhost", "expected http://HOST:PORT"),
        ("http://", "expected http://HOST:PORT"),
        ("http://localhost:99999", "99999"),
        ("unix:relative.sock", "absolute"),
        ("http://host/?a=b", "query"),
    ],
)
async def test_a_url_that_is_none_is_a_configuration_error(
    tmp_path: Path, url: str, problem: str
) -> None:
    expectation = Expectation(PROFILE, PROBES, references(tmp_path))
    with pytest.raises(ConfigurationError, match=problem):
        await VllmRemoteEmbedder.start(expectation, [url])


async def test_no_url_at_all_is_a_configuration_error(tmp_path: Path) -> None:
    expectation = Expectation(PROFILE, PROBES, references(tmp_path))
    with pytest.raises(ConfigurationError, match="no vLLM URL"):
        await VllmRemoteEmbedder.start(expectation, [])


async def test_credentials_in_a_url_are_refused_and_not_repeated(tmp_path: Path) -> None:
    expectation = Expectation(PROFILE, PROBES, references(tmp_path))
    with pytest.raises(ConfigurationError) as caught:
        await VllmRemoteEmbedder.start(expectation, ["http://user:hunter2@host:80"])
    assert "hunter2" not in str(caught.value)
