"""EmbeddingService over a socket."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from e2rank.v1 import embedding_pb2, types_pb2
from e2rank_server.types import EmbedRequest, InputType, TextInput
from tests.gateway.running_gateway import Gateway, failure_of
from tests.gateway.wire_requests import embed_request, rerank_request

Input = embedding_pb2.TextInput


@pytest.mark.parametrize(
    ("asked", "given", "dtype"),
    [
        (types_pb2.VECTOR_ENCODING_UNSPECIFIED, types_pb2.VECTOR_ENCODING_FLOAT32, "<f4"),
        (types_pb2.VECTOR_ENCODING_FLOAT32, types_pb2.VECTOR_ENCODING_FLOAT32, "<f4"),
        (types_pb2.VECTOR_ENCODING_FLOAT16, types_pb2.VECTOR_ENCODING_FLOAT16, "<f2"),
    ],
)
async def test_vectors_come_in_the_encoding_asked_for(
    gateway: Gateway, asked: int, given: int, dtype: str
) -> None:
    answer = await gateway.embed(embed_request(encoding=asked))
    vectors = answer.vectors
    assert vectors.encoding == given
    assert (vectors.dimension, vectors.model_fingerprint) == (4, "fingerprint-1")
    assert np.frombuffer(vectors.data, dtype).reshape(2, 4).tolist() == [[1.0, 0.0, 0.0, 0.0]] * 2
    assert answer.cache_tiers == [types_pb2.CACHE_TIER_MEMORY] * 2
    assert answer.truncated == [False, False]
    assert answer.usage == embedding_pb2.EmbedUsage(tokens=5, inputs_cached=2)
    assert answer.timings.total.ToMilliseconds() == 500
    assert answer.model.profile == "fake-model"


async def test_embedded_vector_is_accepted_back_as_a_documents_vector(gateway: Gateway) -> None:
    answer = await gateway.embed(embed_request())
    request = rerank_request(1)
    row = answer.vectors.data[16:32]
    vector = types_pb2.Vector(data=row, encoding="VECTOR_ENCODING_FLOAT32", dimension=4)
    vector.model_fingerprint = answer.vectors.model_fingerprint
    request.documents[0].vector.CopyFrom(vector)
    await gateway.rerank(request)
    assert gateway.model.requests[1].documents[0].vector.tolist() == [1.0, 0.0, 0.0, 0.0]


async def test_engine_gets_the_request_as_domain_values(gateway: Gateway) -> None:
    await gateway.embed(
        embed_request(
            inputs=[Input(text="x", title="y"), Input(text="z", title="")],
            namespace="n",
            priority=2,
        )
    )
    await gateway.embed(
        embed_request(
            input_type=embedding_pb2.INPUT_TYPE_QUERY, inputs=[Input(text="q")], instruction="find"
        )
    )
    assert gateway.model.requests == [
        EmbedRequest(
            InputType.DOCUMENT,
            [TextInput("x", "y"), TextInput("z")],
            namespace="n",
            priority=2,
        ),
        EmbedRequest(InputType.QUERY, [TextInput("q")], instruction="find"),
    ]


async def test_stored_documents_are_named_by_id(gateway: Gateway) -> None:
    await gateway.embed(embed_request(inputs=[Input(id="a")], unknown_documents=2))
    assert gateway.model.requests == [
        EmbedRequest(InputType.DOCUMENT, [TextInput("", None, "a")], drop_unknown=True)
    ]


BAD_REQUESTS = {
    "no inputs": (embed_request(inputs=[]), {"inputs": "must not be empty"}),
    "too many inputs": (
        embed_request(inputs=[Input(text="x")] * 5),
        {"inputs": "has 5 elements, more than the limit of 4"},
    ),
    "no input type": (
        embed_request(input_type=0),
        {"input_type": "0 is neither QUERY (1) nor DOCUMENT (2)"},
    ),
    "unknown input type": (
        embed_request(input_type=3),
        {"input_type": "3 is neither QUERY (1) nor DOCUMENT (2)"},
    ),
    "empty text": (
        embed_request(inputs=[Input(text="x"), Input()]),
        {"inputs[1].text": "must not be blank"},
    ),
    "blank text": (
        embed_request(inputs=[Input(text="\u3000\n")]),
        {"inputs[0].text": "must not be blank"},
    ),
    "huge document": (
        embed_request(inputs=[Input(text="x" * 100, title="t" * 29)]),
        {"inputs[0].text": "has 129 bytes, more than the limit of 128"},
    ),
    "long query": (
        embed_request(input_type=1, inputs=[Input(text="x" * 65)]),
        {"inputs[0].text": "has 65 bytes, more than the limit of 64"},
    ),
    "title on a query": (
        embed_request(input_type=1, inputs=[Input(text="x", title="t")]),
        {"inputs[0].title": "is for documents; these inputs are queries"},
    ),
    "instruction on documents": (
        embed_request(instruction="find"),
        {"instruction": "is for queries; these inputs are documents"},
    ),
    "long instruction": (
        embed_request(input_type=1, instruction="x" * 33),
        {"instruction": "has 33 bytes, more than the limit of 32"},
    ),
    "long namespace": (
        embed_request(namespace="x" * 257),
        {"namespace": "has 257 bytes, more than the limit of 256"},
    ),
    "unknown encoding": (
        embed_request(encoding=3),
        {"encoding": "3 is not a value of VectorEncoding"},
    ),
    "an id and a text": (
        embed_request(inputs=[Input(text="x", id="a")]),
        {"inputs[0].id": "names a stored document, and cannot go with a text or title"},
    ),
    "an id on a query": (
        embed_request(input_type=1, inputs=[Input(id="a")]),
        {"inputs[0].id": "is for documents; these inputs are queries"},
    ),
    "long id": (
        embed_request(inputs=[Input(id="x" * 257)]),
        {"inputs[0].id": "has 257 bytes, more than the limit of 256"},
    ),
    "unknown choice for unknown documents": (
        embed_request(unknown_documents=7),
        {"unknown_documents": "7 is not a value of this enum"},
    ),
    "several things at once": (
        embed_request(inputs=[Input()], encoding=3, instruction="find"),
        {
            "inputs[0].text": "must not be blank",
            "encoding": "3 is not a value of VectorEncoding",
            "instruction": "is for queries; these inputs are documents",
        },
    ),
}


@pytest.mark.parametrize(
    ("request_message", "violations"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys()
)
async def test_bad_request_is_refused_with_every_violation(
    gateway: Gateway, request_message: embedding_pb2.EmbedRequest, violations: dict[str, str]
) -> None:
    failure = await failure_of(gateway.embed(request_message))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.violations == violations
    assert gateway.model.requests == []
