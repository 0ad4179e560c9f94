"""The contract has a value for every word of the domain, and the codec finds it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from e2rank.v1 import model_pb2, rerank_pb2, types_pb2
from e2rank_server.embedding_cache.circuit_breaker import BreakerState
from e2rank_server.embedding_cache.protocol import (
    CacheStatistics,
    Place,
    SecondTierStatistics,
    WriteStatistics,
)
from e2rank_server.gateway.codec import encode_identity, encode_rerank_response
from e2rank_server.gateway.limits import GatewayLimits
from e2rank_server.gateway.model_codec import encode_cache, encode_model
from e2rank_server.types import (
    AnswerWarning,
    CacheTier,
    Document,
    EmbedderBackend,
    Method,
    PromptOrder,
    RankedDocument,
    RerankOutcome,
    RerankUsage,
    Timings,
    TokenizerBackend,
    WarningCode,
)
from tests.fakes import DESCRIPTION


def outcome(**fields: object) -> RerankOutcome:
    values = {
        "results": [],
        "method": Method.E2RANK,
        "usage": RerankUsage(),
        "timings": Timings(),
    }
    return RerankOutcome(**{**values, **fields})  # type: ignore[arg-type]


def encoded(answer: RerankOutcome) -> rerank_pb2.RerankResponse:
    return encode_rerank_response(answer, DESCRIPTION, return_documents=False)


@pytest.mark.parametrize("method", Method)
def test_every_method_is_in_the_contract(method: Method) -> None:
    number = encoded(outcome(method=method)).method
    assert rerank_pb2.RerankMethod.Name(number) == f"RERANK_METHOD_{method}"


@pytest.mark.parametrize("tier", CacheTier)
def test_every_cache_tier_is_in_the_contract(tier: CacheTier) -> None:
    (result,) = encoded(outcome(results=[RankedDocument(0, 0.5, tier, Document(id="a"))])).results
    assert types_pb2.CacheTier.Name(result.cache_tier) == f"CACHE_TIER_{tier}"


@pytest.mark.parametrize("code", WarningCode)
def test_every_warning_is_in_the_contract_with_its_message(code: WarningCode) -> None:
    (warning,) = encoded(outcome(warnings=[AnswerWarning(code, "why")])).warnings
    assert types_pb2.WarningCode.Name(warning.code) == f"WARNING_CODE_{code}"
    assert warning.message == "why"


@pytest.mark.parametrize("tokenizer", TokenizerBackend)
@pytest.mark.parametrize("embedder", EmbedderBackend)
@pytest.mark.parametrize("order", PromptOrder)
def test_every_backend_and_order_is_in_the_contract(
    tokenizer: TokenizerBackend, embedder: EmbedderBackend, order: PromptOrder
) -> None:
    description = replace(
        DESCRIPTION,
        tokenizer_backend=tokenizer,
        embedder_backend=embedder,
        default_prompt_order=order,
    )
    identity = encode_identity(description)
    assert types_pb2.TokenizerBackend.Name(identity.tokenizer_backend).endswith(tokenizer)
    assert types_pb2.EmbedderBackend.Name(identity.embedder_backend).endswith(embedder)
    model = encode_model(
        description,
        GatewayLimits(),
        load=model_pb2.ModelLoad(),
        cache=model_pb2.CacheStats(),
        generator=None,
    )
    assert rerank_pb2.PromptOrder.Name(model.default_prompt_order).endswith(order)


def test_durations_keep_nanoseconds_and_round_to_whole_ones() -> None:
    timings = Timings(
        total_seconds=2.0000000004, score_seconds=0.123456789, queue_seconds=1 - 1e-12
    )
    answer = encoded(outcome(timings=timings)).timings
    assert (answer.total.seconds, answer.total.nanos) == (2, 0)
    assert (answer.score.seconds, answer.score.nanos) == (0, 123456789)
    assert (answer.queue.seconds, answer.queue.nanos) == (1, 0)


def second_tier(**fields: object) -> SecondTierStatistics:
    writes = WriteStatistics(
        written=11,
        dropped=12,
        errors=13,
        waiting=14,
        waiting_bytes=15,
        waiting_purges=16,
        breaker=BreakerState.CLOSED,
    )
    values = {
        "place": Place.DISK,
        "hits": 1,
        "misses": 2,
        "rejected": 3,
        "timeouts": 4,
        "errors": 5,
        "skipped": 6,
        "breaker": BreakerState.OPEN,
        "writes": writes,
    }
    return SecondTierStatistics(**{**values, **fields})  # type: ignore[arg-type]


MEMORY = CacheStatistics(
    hits=21, misses=22, evictions=23, rejected=24, entries=25, resident_bytes=26, max_bytes=27
)


def test_cache_statistics_are_encoded_field_by_field() -> None:
    assert encode_cache(MEMORY, second_tier()) == model_pb2.CacheStats(
        hits=21,
        misses=22,
        evictions=23,
        rejected=24,
        entries=25,
        resident_bytes=26,
        max_bytes=27,
        second_tier=model_pb2.SecondTierStats(
            tier=types_pb2.CACHE_TIER_DISK,
            state=model_pb2.SECOND_TIER_STATE_AWAY,
            hits=1,
            misses=2,
            rejected=3,
            timeouts=4,
            errors=5,
            skipped=6,
            writes=model_pb2.SecondTierWrites(
                state=model_pb2.SECOND_TIER_STATE_AVAILABLE,
                written=11,
                dropped=12,
                errors=13,
                pending=14,
                pending_bytes=15,
                pending_purges=16,
            ),
        ),
    )


def test_a_cache_of_memory_alone_has_no_second_tier() -> None:
    assert not encode_cache(MEMORY, None).HasField("second_tier")


@pytest.mark.parametrize("place", [Place.DISK, Place.SHARED])
def test_every_place_of_a_second_tier_is_in_the_contract(place: Place) -> None:
    tier = encode_cache(MEMORY, second_tier(place=place)).second_tier.tier
    assert types_pb2.CacheTier.Name(tier) == f"CACHE_TIER_{place.name}"


@pytest.mark.parametrize("state", BreakerState)
def test_every_state_of_a_second_tier_has_a_name_of_its_own(state: BreakerState) -> None:
    names = {
        BreakerState.CLOSED: "SECOND_TIER_STATE_AVAILABLE",
        BreakerState.OPEN: "SECOND_TIER_STATE_AWAY",
        BreakerState.HALF_OPEN: "SECOND_TIER_STATE_PROBING",
    }
    number = encode_cache(MEMORY, second_tier(breaker=state)).second_tier.state
    assert model_pb2.SecondTierState.Name(number) == names[state]
