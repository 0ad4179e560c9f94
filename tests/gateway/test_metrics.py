"""What a gateway counts of its calls and models, and that docs/metrics.md lists it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from prometheus_client import CollectorRegistry

from e2rank.v1 import rerank_pb2
from e2rank_server.embedding_cache.circuit_breaker import BreakerState
from e2rank_server.embedding_cache.protocol import (
    Place,
    SecondTierStatistics,
    WriteStatistics,
)
from e2rank_server.errors import UnavailableError
from e2rank_server.gateway.server import GatewayServer
from e2rank_server.telemetry import Telemetry
from e2rank_server.types import (
    LlmListwiseReport,
    LlmOutputCounts,
    Method,
    RerankOutcome,
    RerankUsage,
    Timings,
)
from tests.fakes import FakeServedModel
from tests.gateway.running_gateway import LIMITS, MAX_CONCURRENT_REQUESTS, Gateway
from tests.gateway.wire_requests import embed_request, rerank_request

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(e2rank_\w+)` \| (\w+) \| (.*?) \|", re.MULTILINE)
MODEL = "fake-model"
RERANK = {"service": "e2rank.v1.RerankService", "method": "Rerank"}
SECOND_TIER = SecondTierStatistics(
    place=Place.SHARED,
    hits=6,
    misses=3,
    rejected=1,
    timeouts=2,
    errors=4,
    skipped=5,
    breaker=BreakerState.OPEN,
    writes=WriteStatistics(
        written=7,
        dropped=8,
        errors=9,
        waiting=10,
        waiting_bytes=11,
        waiting_purges=12,
        breaker=BreakerState.CLOSED,
    ),
)


class Measured(Gateway):
    """A gateway that records."""

    registry: CollectorRegistry

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def calls(self, code: str, labels: Mapping[str, str] = RERANK) -> float | None:
        return self.value("e2rank_requests_total", **labels, code=code)

    async def failed_calls(self, code: str) -> float | None:
        """Wait until there is one: the client hears of a failure before it is counted."""
        while self.calls(code) is None:  # noqa: ASYNC110 - of counting nobody tells
            await asyncio.sleep(0.001)
        return self.calls(code)


@pytest.fixture
async def measured() -> AsyncIterator[Measured]:
    model = FakeServedModel()
    telemetry = Telemetry(CollectorRegistry())
    server = GatewayServer(
        [model],
        LIMITS,
        address="127.0.0.1:0",
        max_concurrent_requests=MAX_CONCURRENT_REQUESTS,
        health_interval_seconds=0.01,
        telemetry=telemetry,
    )
    address = await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            gateway = Measured(server, model, address, channel)
            gateway.registry = telemetry.registry
            yield gateway
    finally:
        await server.stop(0)


async def test_an_answered_rerank_is_counted_and_timed(measured: Measured) -> None:
    await measured.rerank(rerank_request(3))
    assert measured.calls("OK") == 1
    assert measured.value("e2rank_request_seconds_count", **RERANK) == 1
    assert measured.value("e2rank_reranks_total", model=MODEL, method="COSINE") == 1
    documents = "e2rank_rerank_documents_total"
    assert measured.value(documents, model=MODEL, source="computed") == 3
    stage = {"model": MODEL, "stage": "prompt"}
    assert measured.value("e2rank_rerank_stage_seconds_sum", **stage) == 0.25


async def test_an_answered_embed_is_counted(measured: Measured) -> None:
    await measured.embed(embed_request())
    assert measured.calls("OK", {"service": "e2rank.v1.EmbeddingService", "method": "Embed"}) == 1
    assert measured.value("e2rank_embed_inputs_total", model=MODEL, source="cache") == 2


async def test_a_refused_request_counts_under_its_code_and_is_no_rerank(measured: Measured) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await measured.rerank(rerank_pb2.RerankRequest())
    assert await measured.failed_calls("INVALID_ARGUMENT") == 1
    assert measured.value("e2rank_reranks_total", model=MODEL, method="COSINE") is None


async def test_a_backend_that_is_away_counts_as_unavailable(measured: Measured) -> None:
    async def away() -> None:
        raise UnavailableError("embedder", "is away")

    measured.model.before_answering = away
    with pytest.raises(grpc.aio.AioRpcError):
        await measured.rerank(rerank_request(1))
    assert await measured.failed_calls("UNAVAILABLE") == 1


async def test_a_call_is_in_progress_until_it_is_cancelled_and_counts_as_that(
    measured: Measured,
) -> None:
    measured.model.before_answering = asyncio.Event().wait
    call = measured.rerank(rerank_request(1))
    await measured.model.entered.wait()
    assert measured.value("e2rank_requests_in_progress") == 1
    call.cancel()
    await measured.model.cancelled.wait()
    assert await measured.failed_calls("CANCELLED") == 1
    assert measured.value("e2rank_requests_in_progress") == 0


async def test_methods_that_do_not_exist_have_no_series(measured: Measured) -> None:
    call = measured.channel.unary_unary("/e2rank.v1.RerankService/Guess")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    methods = {
        sample.labels["method"]
        for family in measured.registry.collect()
        if family.name == "e2rank_requests"
        for sample in family.samples
    }
    assert methods == set()


async def test_callers_words_are_in_no_label(measured: Measured) -> None:
    request = rerank_request(1)
    request.namespace, request.query = "tenant-4711", "hush"
    await measured.rerank(request, metadata=[("x-request-id", "mine-4711")])
    for family in measured.registry.collect():
        for sample in family.samples:
            assert not {"tenant-4711", "hush", "mine-4711"} & set(sample.labels.values())


async def test_the_models_own_counters_are_read_when_asked(measured: Measured) -> None:
    cache = replace(measured.model.cache_statistics, hits=20, misses=9)
    measured.model.cache_statistics = cache
    measured.model.second_tier_statistics = SECOND_TIER
    assert measured.value("e2rank_work_tokens", model=MODEL, state="running") == 12
    assert measured.value("e2rank_work_tokens", model=MODEL, state="waiting") == 3
    assert measured.value("e2rank_cache_entries", model=MODEL) == 3
    assert measured.value("e2rank_cache_evictions_total", model=MODEL) == 2

    def keys(tier: str, outcome: str) -> float | None:
        labels = {"model": MODEL, "tier": tier, "outcome": outcome}
        return measured.value("e2rank_cache_keys_total", **labels)

    # Of 29 that were looked up memory had 14; the second tier had 6 of the other 15.
    assert (keys("MEMORY", "hit"), keys("MEMORY", "miss")) == (14, 15)
    assert (keys("SHARED", "hit"), keys("SHARED", "miss")) == (6, 3)


async def test_a_second_tier_that_is_away_for_reading_alone_says_so(measured: Measured) -> None:
    measured.model.second_tier_statistics = SECOND_TIER

    def states(operation: str) -> list[float | None]:
        labels = {"model": MODEL, "tier": "SHARED", "operation": operation}
        return [
            measured.value("e2rank_second_tier_state", **labels, state=state)
            for state in ("available", "away", "probing")
        ]

    assert states("read") == [0, 1, 0]
    assert states("write") == [1, 0, 0]


async def test_a_model_that_is_away_is_not_serving(measured: Measured) -> None:
    await _until_serving(measured, is_serving=True)
    assert measured.value("e2rank_model_serving", model=MODEL) == 1
    measured.model.is_healthy = False
    await _until_serving(measured, is_serving=False)
    assert measured.value("e2rank_model_serving", model=MODEL) == 0


async def test_without_telemetry_a_gateway_answers_as_ever(gateway: Gateway) -> None:
    assert len((await gateway.rerank(rerank_request(2))).results) == 2


async def test_the_documentation_lists_every_metric_with_its_type_and_labels(
    measured: Measured,
) -> None:
    measured.model.second_tier_statistics = SECOND_TIER
    await measured.health.Check(health_pb2.HealthCheckRequest())
    telemetry = Telemetry(CollectorRegistry())
    report = LlmListwiseReport("llm", "rankgpt", "1", 1, LlmOutputCounts(ok=1), 1, 1)
    telemetry.record_rerank(
        MODEL,
        RerankOutcome([], Method.LLM_LISTWISE, RerankUsage(), Timings(), llm_listwise=report),
    )
    exposed: dict[str, tuple[str, frozenset[str]]] = {}
    for family in (*measured.registry.collect(), *telemetry.registry.collect()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        for sample in family.samples:
            exposed[name] = (family.type, frozenset(sample.labels) - {"le"})
    documented = {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in ROW.findall(DOCUMENT.read_text())
    }
    assert documented == {
        name: shape for name, shape in exposed.items() if name.startswith("e2rank_")
    }


async def _until_serving(gateway: Gateway, *, is_serving: bool) -> None:
    while await gateway.is_serving() != is_serving:  # noqa: ASYNC110 - the monitor finds out
        await asyncio.sleep(0.005)
