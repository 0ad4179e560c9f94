"""Locust itself, without its web page, against a gateway in front of a fake model.

It runs as a process of its own: importing it would replace this one's threads and sockets.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

if importlib.util.find_spec("locust") is None or importlib.util.find_spec("scipy") is None:
    pytest.skip("not in the environment of the fast tests alone", allow_module_level=True)

from benchmarks.load.arrivals import PoissonArrivals
from benchmarks.load.locust_process import Load, LoadRunError, run_locust
from benchmarks.load.parameters import Arrivals, LoadParameters, Scenario
from benchmarks.load.recording import Recording
from e2rank_server.engine.rerank import RerankRequest
from e2rank_server.errors import UnavailableError
from e2rank_server.gateway.limits import GatewayLimits
from e2rank_server.gateway.server import GatewayServer
from tests.fakes import FakeServedModel

_LOCUSTFILE = Path(__file__).resolve().parents[2] / "benchmarks" / "locustfile.py"
SMALL = {"candidates": 4, "document_words": 5, "min_requests": 20, "timeout_seconds": 20.0}


@dataclass
class Gateway:
    """One with its usual limits: the benchmark's queries are prose."""

    model: FakeServedModel
    address: str


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    model = FakeServedModel()
    server = GatewayServer(
        [model],
        GatewayLimits(),
        address="127.0.0.1:0",
        max_concurrent_requests=10,
        health_interval_seconds=0.01,
    )
    try:
        yield Gateway(model, await server.start())
    finally:
        await server.stop(0)


async def run(gateway: Gateway, users: int = 2, **values: object) -> Recording:
    parameters = LoadParameters(**{**SMALL, **values})  # type: ignore[arg-type]
    return await asyncio.to_thread(run_locust, gateway.address, Load(parameters, users))


@pytest.mark.parametrize("scenario", list(Scenario))
async def test_every_scenario_ends_with_all_its_requests_answered(
    gateway: Gateway, scenario: Scenario
) -> None:
    gateway.model.answers_llm_listwise = True
    recording = await run(gateway, scenario=scenario)
    assert recording.num_requests >= 20
    assert recording.error_rate == 0
    assert recording.failures == {}
    assert len(recording.latency_seconds) == len(recording.lateness_seconds)
    assert all(seconds > 0 for seconds in recording.latency_seconds)
    assert recording.cpu_seconds > 0
    assert recording.hit_rate == (1.0 if scenario is Scenario.EMBED else 0.0)  # as the fake says
    assert recording.stage_seconds["total_seconds"] > 0
    measured = gateway.model.requests[-recording.num_requests :]
    sizes = {len(r.documents if isinstance(r, RerankRequest) else r.inputs) for r in measured}
    assert sizes == {4}


async def test_a_failing_servers_requests_count_by_status(gateway: Gateway) -> None:
    async def fail() -> None:
        raise UnavailableError("embedder", "is away")

    gateway.model.before_answering = fail
    recording = await run(gateway)
    assert recording.error_rate == 1.0
    assert recording.failures == {"UNAVAILABLE": recording.num_requests}
    assert len(gateway.model.requests) <= recording.num_requests + 1  # nothing is repeated


async def test_what_is_due_while_the_server_is_slow_is_measured_from_then(
    gateway: Gateway,
) -> None:
    answer_seconds, count = 0.2, 5

    async def be_slow() -> None:
        await asyncio.sleep(answer_seconds)

    gateway.model.before_answering = be_slow
    recording = await run(
        gateway, users=1, arrivals=Arrivals.OPEN, rate=20.0, seed=1, min_requests=count
    )
    arrivals = PoissonArrivals(20.0, seed=1)
    due = list(itertools.islice(arrivals, count))
    # One user: the nth answer cannot come before n answers' time.
    for number, (due_seconds, latency) in enumerate(
        zip(due, recording.latency_seconds, strict=True), start=1
    ):
        assert latency >= number * answer_seconds - due_seconds - 0.01  # timers round
    assert recording.latency_seconds[-1] > 2 * answer_seconds
    assert recording.num_unsent >= arrivals.num_due(count * answer_seconds) - count > 0


async def test_parameters_that_do_not_fit_end_it_at_once(gateway: Gateway) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--headless"),
        *("--host", gateway.address, "--candidates", "0", "--min-requests", "1"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=_LOCUSTFILE.parents[1],
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    assert b"locustfile: --candidates is 0, not within 1..10000" in output
    assert gateway.model.requests == []


async def test_an_error_of_locust_ends_with_its_log(gateway: Gateway) -> None:
    load = Load(LoadParameters(min_requests=1), users=-1)
    with pytest.raises(LoadRunError, match="Locust ended with code"):
        await asyncio.to_thread(run_locust, gateway.address, load)
