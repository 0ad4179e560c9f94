"""LLM_LISTWISE and VECTOR_PRF over the wire, on a fake LLM."""

from __future__ import annotations

import math
from typing import Any

import grpc
import pytest

from e2rank.v1 import model_pb2, rerank_pb2
from e2rank_server.engine.admission import WorkGate
from e2rank_server.engine.llm_rerank import LlmRerankEngine
from e2rank_server.engine.stored_documents import StoredDocuments
from e2rank_server.errors import GeneratorRefusedError, UnavailableError
from e2rank_server.llm_listwise.loading import load_templates
from e2rank_server.types import (
    FirstStageScores,
    InitialOrder,
    LlmListwiseOptions,
    ScoreScaling,
    VectorPrfOptions,
)
from tests.fake_generator import FakeGenerator, by_worth
from tests.gateway.running_gateway import Gateway, failure_of
from tests.gateway.wire_requests import rerank_request


def with_llm(gateway: Gateway, generator: FakeGenerator) -> None:
    """Let the gateway's model answer LLM_LISTWISE by this generator."""
    llm = LlmRerankEngine(
        generator,
        load_templates(),
        default_template="rankzephyr",
        default_score_template="insertrank",
        gate=WorkGate(1 << 16, 1 << 20),
        stored=StoredDocuments(None, 1 << 20),
        timeout_seconds=60.0,
    )
    gateway.model.llm = llm
    gateway.model.rerank = llm.rerank


def worths(*numbers: int) -> list[rerank_pb2.Document]:
    return [rerank_pb2.Document(id=f"d{n}", text=f"worth {n}") for n in numbers]


def llm_request(documents: list[rerank_pb2.Document], **options: Any) -> rerank_pb2.RerankRequest:
    return rerank_request(
        documents=documents, llm_listwise=rerank_pb2.LlmListwiseOptions(**options)
    )


async def test_the_response_says_what_the_llm_did(gateway: Gateway) -> None:
    with_llm(gateway, FakeGenerator())
    response = await gateway.rerank(llm_request(worths(1, 3, 2)))
    assert [result.id for result in response.results] == ["d3", "d2", "d1"]
    assert [result.relevance_score for result in response.results] == [1.0, 1 / 2, 1 / 3]
    assert response.score_kind == rerank_pb2.SCORE_KIND_RECIPROCAL_RANK
    assert response.method == rerank_pb2.RERANK_METHOD_LLM_LISTWISE
    report = response.llm_listwise
    assert (report.generator_model, report.template) == ("fake-llm", "rankzephyr")
    assert report.outputs == rerank_pb2.LlmOutputCounts(ok=1)
    assert (report.windows, report.prompt_tokens, report.generated_tokens) == (1, 10, 5)
    assert {result.cache_tier for result in response.results} == {0}


async def test_other_methods_have_cosines_and_no_report(gateway: Gateway) -> None:
    response = await gateway.rerank(rerank_request())
    assert response.score_kind == rerank_pb2.SCORE_KIND_COSINE
    assert not response.HasField("llm_listwise")


async def test_every_option_reaches_the_engine(gateway: Gateway) -> None:
    gateway.model.answers_llm_listwise = True
    documents = [rerank_pb2.Document(text="x", first_stage_score=1.0)]
    scores = rerank_pb2.FirstStageScoreOptions(scaling=rerank_pb2.FIRST_STAGE_SCORE_SCALING_MIN_MAX)
    await gateway.rerank(
        llm_request(
            documents,
            template="insertrank",
            window_size=10,
            stride=5,
            num_passes=2,
            initial_order=rerank_pb2.INITIAL_ORDER_SHUFFLED,
            shuffle_seed=2**64 - 1,
            max_words_per_document=50,
            thinking=True,
            reasoning_token_budget=99,
            first_stage_scores=scores,
            allow_degraded=True,
        )
    )
    await gateway.rerank(llm_request(documents))
    full, empty = (request.options for request in gateway.model.requests)
    assert full == LlmListwiseOptions(
        template="insertrank",
        window_size=10,
        stride=5,
        num_passes=2,
        initial_order=InitialOrder.SHUFFLED,
        shuffle_seed=2**64 - 1,
        max_words_per_document=50,
        thinking=True,
        reasoning_token_budget=99,
        first_stage_scores=FirstStageScores(ScoreScaling.MIN_MAX),
        allow_degraded=True,
    )
    assert empty == LlmListwiseOptions()


async def test_vector_feedback_has_defaults_and_keeps_a_weight_of_zero(gateway: Gateway) -> None:
    await gateway.rerank(rerank_request(vector_prf=rerank_pb2.VectorPrfOptions()))
    await gateway.rerank(
        rerank_request(
            vector_prf=rerank_pb2.VectorPrfOptions(feedback_documents=3, feedback_weight=0.0)
        )
    )
    default, given = (request.options for request in gateway.model.requests)
    assert default == VectorPrfOptions(5, 0.6)
    assert given == VectorPrfOptions(3, 0.0)


@pytest.mark.parametrize(
    ("request_", "field", "description"),
    [
        (
            rerank_request(vector_prf=rerank_pb2.VectorPrfOptions(feedback_documents=0)),
            "vector_prf.feedback_documents",
            "is 0; it must be at least 1, or unset",
        ),
        (
            rerank_request(vector_prf=rerank_pb2.VectorPrfOptions(feedback_weight=10.5)),
            "vector_prf.feedback_weight",
            "is 10.5, not within 0 to 10",
        ),
        (
            rerank_request(vector_prf=rerank_pb2.VectorPrfOptions(feedback_weight=math.nan)),
            "vector_prf.feedback_weight",
            "is nan, not within 0 to 10",
        ),
        (
            llm_request(worths(1), window_size=1),
            "llm_listwise.window_size",
            "is 1; it must be at least 2, or unset",
        ),
        (
            llm_request(worths(1), window_size=1001),
            "llm_listwise.window_size",
            "is 1001, more than the limit of 1000",
        ),
        (
            llm_request(worths(1), stride=0),
            "llm_listwise.stride",
            "is 0; it must be at least 1, or unset",
        ),
        (
            llm_request(worths(1), num_passes=11),
            "llm_listwise.num_passes",
            "is 11, more than the limit of 10",
        ),
        (
            llm_request(worths(1), template="x" * 257),
            "llm_listwise.template",
            "has 257 bytes, more than the limit of 256",
        ),
        (
            llm_request(worths(1), initial_order=9),
            "llm_listwise.initial_order",
            "9 is not a value of this enum",
        ),
        (
            llm_request(worths(1), first_stage_scores=rerank_pb2.FirstStageScoreOptions()),
            "llm_listwise.first_stage_scores",
            "needs first_stage_score on all documents",
        ),
        (
            llm_request(worths(1), first_stage_scores=rerank_pb2.FirstStageScoreOptions(source=7)),
            "llm_listwise.first_stage_scores.source",
            "7 is not a value of this enum",
        ),
    ],
)
async def test_options_out_of_bounds_are_named_with_their_limit(
    gateway: Gateway, request_: rerank_pb2.RerankRequest, field: str, description: str
) -> None:
    failure = await failure_of(gateway.rerank(request_))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.violations == {field: description}
    assert gateway.model.requests == []


async def test_an_llm_that_is_away_is_unavailable(gateway: Gateway) -> None:
    def fail(_: object) -> str:
        raise UnavailableError("generator", "away")

    with_llm(gateway, FakeGenerator(fail))
    failure = await failure_of(gateway.rerank(llm_request(worths(1, 2))))
    assert failure.code is grpc.StatusCode.UNAVAILABLE
    assert failure.metadata["backend"] == "generator"


async def test_an_llm_that_refuses_for_good_is_a_failed_precondition(gateway: Gateway) -> None:
    def fail(_: object) -> str:
        raise GeneratorRefusedError("404: no such model")

    with_llm(gateway, FakeGenerator(fail))
    failure = await failure_of(gateway.rerank(llm_request(worths(1, 2))))
    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert failure.reason == "GENERATOR_REFUSED"


async def test_a_fallback_that_was_allowed_is_visible(gateway: Gateway) -> None:
    def fail(_: object) -> str:
        raise UnavailableError("generator", "away")

    with_llm(gateway, FakeGenerator(fail))
    response = await gateway.rerank(llm_request(worths(1, 2), allow_degraded=True))
    assert [result.id for result in response.results] == ["d1", "d2"]
    assert response.llm_listwise.outputs == rerank_pb2.LlmOutputCounts(failed=1)
    assert "1 of 1 windows kept their order" in response.warnings[0].message


async def test_get_model_describes_the_llm_and_counts_its_outputs(gateway: Gateway) -> None:
    with_llm(gateway, FakeGenerator(by_worth, max_model_tokens=4096))
    await gateway.rerank(llm_request(worths(1, 2)))
    model = (await gateway.models.GetModel(model_pb2.GetModelRequest())).model
    assert model.generator == model_pb2.Generator(
        model="fake-llm",
        backend=model_pb2.GENERATOR_BACKEND_OPENAI_ENDPOINT,
        max_model_tokens=4096,
        templates=sorted(load_templates()),
        default_template="rankzephyr",
        default_score_template="insertrank",
        outputs=rerank_pb2.LlmOutputCounts(ok=1),
    )


async def test_get_model_without_an_llm_has_none(gateway: Gateway) -> None:
    model = (await gateway.models.GetModel(model_pb2.GetModelRequest())).model
    assert not model.HasField("generator")


async def test_the_callers_priority_reaches_the_generator(gateway: Gateway) -> None:
    with_llm(gateway, generator := FakeGenerator())
    await gateway.rerank(rerank_request(documents=worths(1, 2), llm_listwise={}, priority=-4))
    assert generator.priorities == [-12]
