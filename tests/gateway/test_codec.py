"""The contract has a value for every word of the domain, and the codec finds it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from e2rank.v1 import rerank_pb2, types_pb2
from e2rank_server.gateway.codec import encode_model, encode_rerank_response
from e2rank_server.gateway.limits import GatewayLimits
from e2rank_server.types import (
    AnswerWarning,
    CacheTier,
    Document,
    EmbedderBackend,
    Method,
    ModelLoad,
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
    model = encode_model(description, GatewayLimits(), ModelLoad(0, 0), is_serving=True)
    identity = model.identity
    assert types_pb2.TokenizerBackend.Name(identity.tokenizer_backend).endswith(tokenizer)
    assert types_pb2.EmbedderBackend.Name(identity.embedder_backend).endswith(embedder)
    assert rerank_pb2.PromptOrder.Name(model.default_prompt_order).endswith(order)


def test_durations_keep_nanoseconds_and_round_to_whole_ones() -> None:
    timings = Timings(
        total_seconds=2.0000000004, score_seconds=0.123456789, queue_seconds=1 - 1e-12
    )
    answer = encoded(outcome(timings=timings)).timings
    assert (answer.total.seconds, answer.total.nanos) == (2, 0)
    assert (answer.score.seconds, answer.score.nanos) == (0, 123456789)
    assert (answer.queue.seconds, answer.queue.nanos) == (1, 0)
