"""What is counted of answers, and where it is served."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from e2rank_server.errors import ConfigurationError
from e2rank_server.telemetry import MetricsEndpoint, Telemetry, address_of_process
from e2rank_server.types import (
    EmbedOutcome,
    EmbedUsage,
    LlmListwiseReport,
    LlmOutputCounts,
    Method,
    RerankOutcome,
    RerankUsage,
    Timings,
)

RERANK = "/e2rank.v1.RerankService/Rerank"
LABELS = {"service": "e2rank.v1.RerankService", "method": "Rerank"}
ANSWER = RerankOutcome(
    results=[],
    method=Method.E2RANK,
    usage=RerankUsage(
        prompt_tokens=700,
        document_tokens=30,
        documents_from_caller=1,
        documents_cached=4,
        documents_embedded=2,
    ),
    timings=Timings(total_seconds=0.3, prompt_seconds=0.2, lookup_seconds=0.0001),
)


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(CollectorRegistry())


def value(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    return telemetry.registry.get_sample_value(name, labels)


def test_calls_are_counted_by_code_and_timed_whatever_it_is(telemetry: Telemetry) -> None:
    telemetry.record_call(RERANK, "OK", 0.003)
    telemetry.record_call(RERANK, "OK", 0.004)
    telemetry.record_call(RERANK, "CANCELLED", 2.0)
    assert value(telemetry, "e2rank_requests_total", **LABELS, code="OK") == 2
    assert value(telemetry, "e2rank_requests_total", **LABELS, code="CANCELLED") == 1
    assert value(telemetry, "e2rank_request_seconds_count", **LABELS) == 3
    assert value(telemetry, "e2rank_request_seconds_sum", **LABELS) == pytest.approx(2.007)


@pytest.mark.parametrize(
    ("seconds", "first_bucket"),
    [(0.0, "0.001"), (0.001, "0.001"), (0.0011, "0.0025"), (60.0, "60.0"), (61.0, "+Inf")],
)
def test_a_duration_is_in_each_bucket_from_the_first_that_is_as_long(
    telemetry: Telemetry, seconds: float, first_bucket: str
) -> None:
    telemetry.record_call(RERANK, "OK", seconds)
    [family] = [
        each for each in telemetry.registry.collect() if each.name == "e2rank_request_seconds"
    ]
    buckets = {
        sample.labels["le"]: sample.value
        for sample in family.samples
        if sample.name.endswith("_bucket")
    }
    bounds = list(buckets)
    assert bounds[0] == "0.001"
    assert bounds[-2:] == ["60.0", "+Inf"]
    expected = [float(at >= bounds.index(first_bucket)) for at in range(len(bounds))]
    assert list(buckets.values()) == expected


def test_a_reranks_documents_are_counted_by_where_their_vectors_came_from(
    telemetry: Telemetry,
) -> None:
    telemetry.record_rerank("small", ANSWER)
    telemetry.record_rerank("small", ANSWER)
    name = "e2rank_rerank_documents_total"
    assert value(telemetry, name, model="small", source="caller") == 2
    assert value(telemetry, name, model="small", source="cache") == 8
    assert value(telemetry, name, model="small", source="computed") == 4
    assert value(telemetry, "e2rank_tokens_total", model="small") == 1460
    assert value(telemetry, "e2rank_reranks_total", model="small", method="E2RANK") == 2
    assert value(telemetry, "e2rank_reranks_total", model="small", method="COSINE") == 0


def test_only_stages_that_took_place_are_timed(telemetry: Telemetry) -> None:
    telemetry.record_rerank("small", ANSWER)

    def timed(stage: str) -> tuple[float | None, float | None]:
        labels = {"model": "small", "stage": stage}
        name = "e2rank_rerank_stage_seconds"
        return (
            value(telemetry, f"{name}_count", **labels),
            value(telemetry, f"{name}_sum", **labels),
        )

    assert timed("prompt") == (1, 0.2)
    assert timed("lookup") == (1, 0.0001)
    assert timed("generate") == (0, 0.0)
    assert timed("total") == (None, None)


def test_an_embeds_texts_are_counted_apart(telemetry: Telemetry) -> None:
    outcome = EmbedOutcome(
        vectors=np.zeros((3, 4), np.float32),
        truncated=[],
        cache_tiers=[],
        usage=EmbedUsage(tokens=12, inputs_cached=1, inputs_embedded=2),
        timings=Timings(),
    )
    telemetry.record_embed("small", outcome)
    name = "e2rank_embed_inputs_total"
    assert value(telemetry, name, model="small", source="cache") == 1
    assert value(telemetry, name, model="small", source="computed") == 2
    assert value(telemetry, "e2rank_tokens_total", model="small") == 12
    assert value(telemetry, "e2rank_rerank_documents_total", model="small", source="cache") == 0


def test_what_an_llm_wrote_is_counted_by_what_was_wrong(telemetry: Telemetry) -> None:
    report = LlmListwiseReport(
        generator_model="llm",
        template="rankgpt",
        template_version="1",
        windows=9,
        outputs=LlmOutputCounts(ok=5, malformed=1, missing=2, failed=1),
        prompt_tokens=9000,
        generated_tokens=900,
    )
    answer = replace(ANSWER, method=Method.LLM_LISTWISE, llm_listwise=report)
    telemetry.record_rerank("small", answer)
    labels = {"model": "small", "template": "rankgpt"}
    counts = {
        outcome: value(telemetry, "e2rank_llm_outputs_total", **labels, outcome=outcome)
        for outcome in ("ok", "malformed", "repetition", "missing", "refused", "failed")
    }
    assert list(counts.values()) == [5, 1, 0, 2, 0, 1]
    assert value(telemetry, "e2rank_llm_tokens_total", **labels, kind="prompt") == 9000
    assert value(telemetry, "e2rank_llm_tokens_total", **labels, kind="generated") == 900


def test_two_servers_in_one_process_count_apart(telemetry: Telemetry) -> None:
    other = Telemetry(CollectorRegistry())
    telemetry.record_call(RERANK, "OK", 0.1)
    assert value(other, "e2rank_requests_total", **LABELS, code="OK") is None


@asynccontextmanager
async def serving(telemetry: Telemetry, address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    endpoint = MetricsEndpoint(telemetry.registry)
    try:
        yield await endpoint.start(address)
    finally:
        await endpoint.close()


async def fetch(url: str) -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, answer.headers["Content-Type"], await answer.text()


async def test_the_endpoint_serves_what_was_recorded_as_prometheus_reads_it(
    telemetry: Telemetry,
) -> None:
    telemetry.record_call(RERANK, "OK", 0.02)
    async with serving(telemetry) as address:
        status, content_type, text = await fetch(f"http://{address}/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    assert (
        'e2rank_requests_total{code="OK",method="Rerank",service="e2rank.v1.RerankService"} 1.0'
        in text.splitlines()
    )
    assert "process_resident_memory_bytes" in text
    assert "_created" not in text


async def test_nothing_else_is_served(telemetry: Telemetry) -> None:
    async with serving(telemetry) as address:
        assert (await fetch(f"http://{address}/"))[0] == 404


async def test_an_ipv6_address_is_written_in_brackets(telemetry: Telemetry) -> None:
    async with serving(telemetry, "[::1]:0") as address:
        assert address.startswith("[::1]:")
        assert (await fetch(f"http://{address}/metrics"))[0] == 200


async def test_a_taken_port_is_a_configuration_error_that_names_it(telemetry: Telemetry) -> None:
    async with serving(telemetry) as address:
        with pytest.raises(ConfigurationError) as caught:
            await MetricsEndpoint(telemetry.registry).start(address)
    [problem] = caught.value.problems
    assert address in problem


async def test_a_closed_endpoint_gives_its_port_back(telemetry: Telemetry) -> None:
    async with serving(telemetry) as address:
        await fetch(f"http://{address}/metrics")
    async with serving(telemetry, address) as again:
        assert again == address


def test_each_of_several_processes_has_the_next_port() -> None:
    assert address_of_process("0.0.0.0:9090", 0) == "0.0.0.0:9090"
    assert address_of_process("0.0.0.0:9090", 3) == "0.0.0.0:9093"
    assert address_of_process("[::1]:9090", 1) == "[::1]:9091"
    assert address_of_process("127.0.0.1:0", 3) == "127.0.0.1:0"


def test_a_process_beyond_the_last_port_is_a_configuration_error() -> None:
    assert address_of_process("127.0.0.1:65534", 1) == "127.0.0.1:65535"
    with pytest.raises(ConfigurationError, match="process 2 would need port 65536"):
        address_of_process("127.0.0.1:65534", 2)
