"""RerankService over a socket: what is answered, and how bad requests are refused."""

from __future__ import annotations

import math

import grpc
import numpy as np
import pytest

from e2rank.v1 import rerank_pb2, types_pb2
from e2rank_server.types import (
    CosineOptions,
    E2RankOptions,
    FirstStageScores,
    PromptOrder,
    RerankRequest,
    ScoreScaling,
)
from tests.gateway.running_gateway import LIMITS, Gateway, failure_of
from tests.gateway.wire_requests import rerank_request, vector

Document = rerank_pb2.Document


async def test_results_carry_index_id_score_and_tier_best_first(gateway: Gateway) -> None:
    answer = await gateway.rerank(rerank_request(4))
    assert [result.index for result in answer.results] == [3, 2, 1, 0]
    assert [result.id for result in answer.results] == ["d3", "d2", "d1", "d0"]
    assert [result.relevance_score for result in answer.results] == [0.75, 0.5, 0.25, 0.0]
    assert {result.cache_tier for result in answer.results} == {types_pb2.CACHE_TIER_COMPUTED}
    assert not any(result.HasField("document") for result in answer.results)


async def test_answer_says_what_it_cost_and_which_model_answered(gateway: Gateway) -> None:
    answer = await gateway.rerank(rerank_request(2))
    assert answer.usage == rerank_pb2.RerankUsage(
        prompt_tokens=7, document_tokens=11, documents_embedded=2
    )
    assert answer.timings.total.ToMilliseconds() == 1500
    assert answer.timings.prompt.ToMilliseconds() == 250
    assert not answer.timings.HasField("queue")
    assert answer.method == rerank_pb2.RERANK_METHOD_COSINE
    assert answer.model == types_pb2.ModelIdentity(
        profile="fake-model",
        revision="revision-1",
        fingerprint="fingerprint-1",
        template_version="plain/1",
        tokenizer_backend=types_pb2.TOKENIZER_BACKEND_IN_PROCESS,
        embedder_backend=types_pb2.EMBEDDER_BACKEND_FAKE,
    )


async def test_return_documents_gives_back_text_and_title_but_no_vector(gateway: Gateway) -> None:
    documents = [
        Document(id="a", text="x", title="y", vector=vector()),
        Document(id="b", vector=vector()),
    ]
    answer = await gateway.rerank(rerank_request(documents=documents, return_documents=True))
    assert answer.results[1].document == Document(id="a", text="x", title="y")
    assert answer.results[0].document == Document(id="b")


async def test_top_n_beyond_the_number_of_documents_returns_all(gateway: Gateway) -> None:
    assert len((await gateway.rerank(rerank_request(3, top_n=99))).results) == 3
    assert len((await gateway.rerank(rerank_request(3, top_n=1))).results) == 1


async def test_engine_gets_the_request_as_domain_values(gateway: Gateway) -> None:
    options = rerank_pb2.E2RankOptions(
        prompt_documents=5,
        prompt_order=rerank_pb2.PROMPT_ORDER_FIRST_STAGE,
        first_stage_scores=rerank_pb2.FirstStageScoreOptions(
            scaling=rerank_pb2.FIRST_STAGE_SCORE_SCALING_PERCENT
        ),
    )
    documents = [Document(id="a", text="x", title="y", first_stage_score=-2.5)]
    await gateway.rerank(
        rerank_request(
            model="fake-model",
            namespace="n",
            instruction="find",
            documents=documents,
            top_n=1,
            max_tokens_per_document=9,
            priority=-3,
            e2rank=options,
        )
    )
    (request,) = gateway.model.requests
    assert isinstance(request, RerankRequest)
    assert request.query == "which one"
    assert (request.namespace, request.instruction, request.top_n) == ("n", "find", 1)
    assert (request.max_tokens_per_document, request.priority) == (9, -3)
    assert request.options == E2RankOptions(
        5, PromptOrder.FIRST_STAGE, FirstStageScores(ScoreScaling.PERCENT)
    )
    (document,) = request.documents
    assert (document.id, document.text, document.title) == ("a", "x", "y")
    assert (document.vector, document.first_stage_score) == (None, -2.5)


async def test_unset_options_reach_the_engine_as_none(gateway: Gateway) -> None:
    await gateway.rerank(rerank_request())
    await gateway.rerank(rerank_request(cosine=rerank_pb2.CosineOptions()))
    await gateway.rerank(rerank_request(e2rank=rerank_pb2.E2RankOptions()))
    assert [request.options for request in gateway.model.requests] == [
        None,
        CosineOptions(),
        E2RankOptions(),
    ]
    first = gateway.model.requests[0]
    assert (first.instruction, first.top_n, first.max_tokens_per_document) == (None, None, None)


@pytest.mark.parametrize(
    ("elements", "dtype"),
    [
        ((3.0, 0.0, 4.0, 0.0), "<f4"),
        ((3.0, 0.0, 4.0, 0.0), "<f2"),
        ((3e38, 0.0, 3e38, 0.0), "<f4"),
        ((1e-40, 0.0, 1e-40, 0.0), "<f4"),
    ],
)
async def test_vectors_are_normalised_however_large_or_small(
    gateway: Gateway, elements: tuple[float, ...], dtype: str
) -> None:
    documents = [Document(text="x"), Document(vector=vector(*elements, dtype=dtype))]
    await gateway.rerank(rerank_request(documents=documents))
    decoded = gateway.model.requests[0].documents[1].vector
    expected = np.array(elements) / np.linalg.norm(elements)
    assert decoded.dtype == np.float32
    assert decoded.flags.c_contiguous
    np.testing.assert_allclose(decoded, expected, rtol=1e-4)


async def test_values_at_their_limits_are_accepted(gateway: Gateway) -> None:
    document = Document(id="i" * 256, text="é" * 32, title="t" * 64)
    await gateway.rerank(
        rerank_request(
            query="é" * 32,
            instruction="x" * LIMITS.max_instruction_bytes,
            namespace="n" * 256,
            documents=[document] * LIMITS.max_documents,
        )
    )
    assert len(gateway.model.requests) == 1


def spoilt(**fields: object) -> rerank_pb2.Document:
    """Make a document that is valid but for `fields`."""
    return Document(**{"text": "x", **fields})


def with_second(document: rerank_pb2.Document) -> rerank_pb2.RerankRequest:
    return rerank_request(documents=[Document(text="fine"), document])


BAD_REQUESTS = {
    "no documents": (rerank_request(0), {"documents": "must not be empty"}),
    "too many documents": (
        rerank_request(11),
        {"documents": "has 11 elements, more than the limit of 10"},
    ),
    "no query": (rerank_request(query=""), {"query": "must not be blank"}),
    "blank query": (rerank_request(query=" \n\t"), {"query": "must not be blank"}),
    "long query": (
        rerank_request(query="é" * 33),
        {"query": "has 66 bytes, more than the limit of 64"},
    ),
    "long instruction": (
        rerank_request(instruction="x" * 33),
        {"instruction": "has 33 bytes, more than the limit of 32"},
    ),
    "long namespace": (
        rerank_request(namespace="x" * 257),
        {"namespace": "has 257 bytes, more than the limit of 256"},
    ),
    "long model": (
        rerank_request(model="x" * 257),
        {"model": "has 257 bytes, more than the limit of 256"},
    ),
    "long id": (
        with_second(spoilt(id="é" * 129)),
        {"documents[1].id": "has 258 bytes, more than the limit of 256"},
    ),
    "top_n zero": (
        rerank_request(top_n=0),
        {"top_n": "is 0; it must be at least 1, or unset"},
    ),
    "max_tokens_per_document zero": (
        rerank_request(max_tokens_per_document=0),
        {"max_tokens_per_document": "is 0; it must be at least 1, or unset"},
    ),
    "neither text nor vector nor id": (
        with_second(Document(title="title alone")),
        {"documents[1]": "needs a text, a vector or the id of a stored document"},
    ),
    "a stored document with a title": (
        with_second(Document(id="x", title="title alone")),
        {"documents[1].title": "must not be set: a stored document has its own"},
    ),
    "unknown choice for unknown documents": (
        rerank_request(unknown_documents=9),
        {"unknown_documents": "9 is not a value of this enum"},
    ),
    "empty text": (
        with_second(Document(text="")),
        {"documents[1].text": "must not be blank"},
    ),
    "blank text beside a vector": (
        with_second(Document(text="  ", vector=vector())),
        {"documents[1].text": "must not be blank"},
    ),
    "huge document": (
        with_second(spoilt(text="é" * 60, title="t" * 9)),
        {"documents[1].text": "has 129 bytes with its title, more than the limit of 128"},
    ),
    "prompt_documents zero": (
        rerank_request(e2rank=rerank_pb2.E2RankOptions(prompt_documents=0)),
        {"e2rank.prompt_documents": "is 0; it must be at least 1, or unset"},
    ),
    "too many prompt_documents": (
        rerank_request(e2rank=rerank_pb2.E2RankOptions(prompt_documents=6)),
        {"e2rank.prompt_documents": "is 6, more than this model's limit of 5"},
    ),
    "unknown prompt order": (
        rerank_request(e2rank=rerank_pb2.E2RankOptions(prompt_order=7)),
        {"e2rank.prompt_order": "7 is not a value of this enum"},
    ),
    "unknown scaling": (
        rerank_request(
            documents=[spoilt(first_stage_score=1.0)],
            e2rank=rerank_pb2.E2RankOptions(
                first_stage_scores=rerank_pb2.FirstStageScoreOptions(scaling=-1)
            ),
        ),
        {"e2rank.first_stage_scores.scaling": "-1 is not a value of this enum"},
    ),
    "some scores": (
        rerank_request(documents=[spoilt(first_stage_score=0.0), spoilt(), spoilt()]),
        {
            "documents[1].first_stage_score": "is not set, but 1 of the 3 documents have one: "
            "set all or none"
        },
    ),
    "score nan": (
        rerank_request(documents=[spoilt(first_stage_score=math.nan)]),
        {"documents[0].first_stage_score": "nan is not finite"},
    ),
    "score infinite": (
        rerank_request(documents=[spoilt(first_stage_score=-math.inf)]),
        {"documents[0].first_stage_score": "-inf is not finite"},
    ),
    "scores asked for but missing": (
        rerank_request(
            e2rank=rerank_pb2.E2RankOptions(first_stage_scores=rerank_pb2.FirstStageScoreOptions())
        ),
        {"e2rank.first_stage_scores": "needs first_stage_score on all documents"},
    ),
    "vector without encoding": (
        with_second(spoilt(vector=vector(encoding=0))),
        {"documents[1].vector.encoding": "must be set"},
    ),
    "vector of unknown encoding": (
        with_second(spoilt(vector=vector(encoding=9))),
        {"documents[1].vector.encoding": "9 is not a value of VectorEncoding"},
    ),
    "vector of wrong dimension": (
        with_second(spoilt(vector=vector(1.0, 2.0, 3.0))),
        {"documents[1].vector.dimension": "is 3, but the model's is 4"},
    ),
    "vector of wrong length": (
        with_second(spoilt(vector=vector(1.0, 2.0, 3.0, dimension=4))),
        {"documents[1].vector.data": "has 12 bytes, but 4 elements of 4 bytes take 16"},
    ),
    "vector of the other encoding's length": (
        with_second(spoilt(vector=vector(encoding="VECTOR_ENCODING_FLOAT16"))),
        {"documents[1].vector.data": "has 16 bytes, but 4 elements of 2 bytes take 8"},
    ),
    "vector with nan": (
        with_second(spoilt(vector=vector(1.0, math.nan, 0.0, 0.0))),
        {"documents[1].vector.data": "has elements that are not finite"},
    ),
    "half vector with infinity": (
        with_second(spoilt(vector=vector(1e9, 0.0, 0.0, 0.0, dtype="<f2"))),
        {"documents[1].vector.data": "has elements that are not finite"},
    ),
    "zero vector": (
        with_second(spoilt(vector=vector(0.0, 0.0, -0.0, 0.0))),
        {"documents[1].vector.data": "has norm zero"},
    ),
    "vector without fingerprint": (
        with_second(spoilt(vector=vector(model_fingerprint=""))),
        {"documents[1].vector.model_fingerprint": "must be set: GetModel returns it"},
    ),
    "vector with a long fingerprint": (
        with_second(spoilt(vector=vector(model_fingerprint="f" * 257))),
        {"documents[1].vector.model_fingerprint": "has 257 bytes, more than the limit of 256"},
    ),
    "several things at once": (
        rerank_request(
            query="",
            top_n=0,
            documents=[
                Document(),
                spoilt(text=" "),
                spoilt(vector=vector(0.0, 0.0, 0.0, 0.0)),
                spoilt(vector=vector(model_fingerprint="other")),
            ],
        ),
        {
            "query": "must not be blank",
            "documents[0]": "needs a text, a vector or the id of a stored document",
            "documents[1].text": "must not be blank",
            "documents[2].vector.data": "has norm zero",
            "top_n": "is 0; it must be at least 1, or unset",
        },
    ),
}


@pytest.mark.parametrize(
    ("request_message", "violations"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys()
)
async def test_bad_request_is_refused_with_every_violation(
    gateway: Gateway, request_message: rerank_pb2.RerankRequest, violations: dict[str, str]
) -> None:
    failure = await failure_of(gateway.rerank(request_message))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.reason == "INVALID_REQUEST"
    assert failure.violations == violations
    assert failure.metadata["num_violations"] == str(len(violations))
    for field, description in violations.items():
        assert f"{field}: {description}" in failure.message
    assert gateway.model.requests == []


async def test_another_models_vector_is_a_failed_precondition(gateway: Gateway) -> None:
    other = vector(1.0, 2.0, model_fingerprint="other")
    failure = await failure_of(gateway.rerank(with_second(spoilt(vector=other))))
    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert failure.reason == "MODEL_MISMATCH"
    assert failure.metadata["field"] == "documents[1].vector.model_fingerprint"
    assert "'other'" in failure.message
    assert "'fingerprint-1'" in failure.message
    assert gateway.model.requests == []


async def test_unknown_model_is_not_found_and_named(gateway: Gateway) -> None:
    failure = await failure_of(gateway.rerank(rerank_request(model="nope")))
    assert failure.code is grpc.StatusCode.NOT_FOUND
    assert failure.reason == "UNKNOWN_MODEL"
    assert failure.metadata["model"] == "nope"
    assert failure.message == "no model 'nope' is served here; served: fake-model"
