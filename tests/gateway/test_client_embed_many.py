"""Both Python clients embed more texts than a request may have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2

from e2rank.v1 import embedding_pb2, model_pb2, types_pb2
from e2rank_client import (
    Document,
    EmbedManyResult,
    InvalidRequestError,
    ModelMismatchError,
    OverloadedError,
    ServerError,
)
from tests.gateway.canned_server import CannedServer, canned_server, failure, open_client, reason

DIMENSION = 2


@dataclass
class Embedding:
    """Answers for a server: the vector of text n is [n, 1]; text "5" may have its own answer."""

    server: CannedServer
    max_inputs: int = 100
    max_bytes: int = 1 << 20
    fingerprint: str = "f1"
    answer_five: Any = None
    batches: list[list[str]] = field(default_factory=list)
    requests: list[embedding_pb2.EmbedRequest] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    gate: asyncio.Event | None = None
    """If set, embedding waits for it."""
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def __call__(self, context: Any) -> Any:
        request = self.server.request
        if isinstance(request, model_pb2.GetModelRequest):
            return self.model()
        self.requests.append(request)
        texts = [one.text for one in request.inputs]
        self.batches.append(texts)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        async with self.changed:
            self.changed.notify_all()
        try:
            if self.answer_five is not None and "5" in texts:
                return await self.answer_five(context)
            if self.gate is not None:
                await self.gate.wait()
            return self.vectors(texts)
        finally:
            self.running -= 1

    async def wait_until_running(self, number: int) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: self.running >= number)

    def model(self) -> model_pb2.GetModelResponse:
        limits = model_pb2.ModelLimits(
            max_inputs_per_request=self.max_inputs, max_request_bytes=self.max_bytes
        )
        identity = types_pb2.ModelIdentity(profile="small", fingerprint="f1")
        model = model_pb2.Model(identity=identity, dimension=DIMENSION, limits=limits)
        return model_pb2.GetModelResponse(model=model)

    def vectors(self, texts: list[str]) -> embedding_pb2.EmbedResponse:
        values = np.array([[int(text[:4]), 1] for text in texts], "<f4")
        return embedding_pb2.EmbedResponse(
            vectors=types_pb2.VectorMatrix(
                data=values.tobytes(),
                encoding=types_pb2.VECTOR_ENCODING_FLOAT32,
                dimension=DIMENSION,
            ),
            truncated=[int(text[:4]) % 2 == 1 for text in texts],
            cache_tiers=[types_pb2.CACHE_TIER_COMPUTED] * len(texts),
            usage=embedding_pb2.EmbedUsage(tokens=10, inputs_embedded=len(texts)),
            model=types_pb2.ModelIdentity(profile="small", fingerprint=self.fingerprint),
            warnings=[types_pb2.Warning(message="take care")],
        )


@pytest.fixture
async def embedding() -> AsyncIterator[Embedding]:
    async with canned_server() as server:
        server.answer = Embedding(server)
        yield server.answer


@pytest.fixture(params=["async", "blocking"])
async def client(embedding: Embedding, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    async with open_client(request.param, embedding.server.address) as either:
        yield either


def numbered(count: int) -> list[str]:
    return [str(number) for number in range(count)]


async def test_all_texts_are_embedded_in_their_order(embedding: Embedding, client: Any) -> None:
    embedding.max_inputs = 7
    answer = await client.embed_many(numbered(50), input_type="DOCUMENT", concurrency=3)
    assert isinstance(answer, EmbedManyResult)
    assert answer.vectors.dtype == np.float32
    assert answer.vectors.tolist() == [[number, 1] for number in range(50)]
    assert answer.truncated.tolist() == [number % 2 == 1 for number in range(50)]
    assert sorted(len(batch) for batch in embedding.batches) == [1, 7, 7, 7, 7, 7, 7, 7]
    assert (answer.usage.tokens, answer.usage.inputs_embedded) == (80, 50)
    assert answer.model.profile == "small"
    assert [warning.message for warning in answer.warnings] == ["take care"]
    assert Document(vector=answer.vector(9)).vector is not None
    assert answer.vector(9).model_fingerprint == "f1"


async def test_every_batch_asks_for_what_was_asked_for(embedding: Embedding, client: Any) -> None:
    await client.embed_many(
        numbered(5),
        input_type="DOCUMENT",
        titles=["a", None, "c", "d", "e"],
        model="small",
        namespace="n",
        instruction="i",
        priority=3,
        batch_size=2,
    )
    requests = sorted(embedding.requests, key=lambda request: request.inputs[0].text)
    assert [[one.title for one in r.inputs] for r in requests] == [["a", ""], ["c", "d"], ["e"]]
    for request in requests:
        assert request.input_type == embedding_pb2.INPUT_TYPE_DOCUMENT
        assert (request.model, request.namespace) == ("small", "n")
        assert (request.instruction, request.priority) == ("i", 3)


async def test_batches_stay_below_the_servers_bytes(embedding: Embedding, client: Any) -> None:
    embedding.max_bytes = 10_000
    texts = [f"{number:04}" + "é" * 1000 for number in range(7)]
    await client.embed_many(texts, input_type="QUERY", concurrency=1)
    assert [len(batch) for batch in embedding.batches] == [2, 2, 2, 1]
    assert max(request.ByteSize() for request in embedding.requests) < embedding.max_bytes


async def test_a_text_too_long_for_any_batch_is_left_for_the_server_to_refuse(
    embedding: Embedding, client: Any
) -> None:
    embedding.max_bytes = 10_000
    texts = ["1", "2" + " " * 20_000, "3"]
    await client.embed_many(texts, input_type="QUERY", concurrency=1)
    assert embedding.batches == [[text] for text in texts]


async def test_as_many_requests_run_at_a_time_as_asked_for(
    embedding: Embedding, client: Any
) -> None:
    embedding.gate = asyncio.Event()
    call = asyncio.ensure_future(
        client.embed_many(numbered(20), input_type="QUERY", batch_size=2, concurrency=3)
    )
    await embedding.wait_until_running(3)
    embedding.gate.set()
    await call
    assert embedding.most_running == 3


async def test_progress_is_reported_after_each_batch(embedding: Embedding, client: Any) -> None:
    progress: list[tuple[int, int]] = []
    await client.embed_many(
        numbered(5),
        input_type="QUERY",
        batch_size=2,
        concurrency=1,
        on_progress=lambda done, total: progress.append((done, total)),
    )
    assert progress == [(2, 5), (4, 5), (5, 5)]


async def test_no_texts_are_no_vectors(embedding: Embedding, client: Any) -> None:
    answer = await client.embed_many([], input_type="QUERY")
    assert answer.vectors.shape == (0, DIMENSION)
    assert answer.usage.tokens == 0
    assert embedding.batches == []


async def test_the_first_error_cancels_what_runs_and_sends_no_more(
    embedding: Embedding, client: Any
) -> None:
    embedding.gate = asyncio.Event()
    beside = asyncio.Barrier(2)

    async def refuse(context: Any) -> None:
        await beside.wait()
        await failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", reason("OVERLOADED"))(context)

    embedding.answer_five = refuse
    call = asyncio.ensure_future(
        client.embed_many(numbered(40), input_type="QUERY", batch_size=3, concurrency=2)
    )
    # The first batch hangs, the second has text 5.
    await embedding.wait_until_running(2)
    await asyncio.wait_for(beside.wait(), 10)
    with pytest.raises(OverloadedError):
        await call
    await asyncio.wait_for(embedding.server.cancelled.wait(), 10)
    assert len(embedding.batches) == 2


async def test_an_error_in_the_progress_callback_ends_the_work(
    embedding: Embedding, client: Any
) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyError(done)

    with pytest.raises(KeyError):
        await client.embed_many(
            numbered(40), input_type="QUERY", batch_size=1, concurrency=1, on_progress=stop
        )
    assert len(embedding.batches) <= 2


async def test_a_refused_text_is_named_by_its_place_among_all(
    embedding: Embedding, client: Any
) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(
        field="inputs[1].text", description="is blank"
    )
    embedding.answer_five = failure(
        grpc.StatusCode.INVALID_ARGUMENT,
        "inputs[1].text: is blank",
        reason("INVALID_REQUEST"),
        error_details_pb2.BadRequest(field_violations=[violation]),
    )
    with pytest.raises(InvalidRequestError, match=r"^texts\[5\]\.text: is blank$") as caught:
        await client.embed_many(numbered(9), input_type="QUERY", batch_size=2)
    assert [(v.field, v.description) for v in caught.value.violations] == [
        ("texts[5].text", "is blank")
    ]
    assert caught.value.request_id == "r-7"


async def test_vectors_of_two_models_are_never_put_together(
    embedding: Embedding, client: Any
) -> None:
    async def another_model(_context: Any) -> embedding_pb2.EmbedResponse:
        embedding.fingerprint = "f2"
        return embedding.vectors(["4", "5"])

    embedding.answer_five = another_model
    with pytest.raises(ModelMismatchError, match=r"texts\[4\].*'f2', not 'f1'"):
        await client.embed_many(numbered(9), input_type="QUERY", batch_size=2, concurrency=1)


async def test_an_answer_of_another_shape_is_an_error(embedding: Embedding, client: Any) -> None:
    async def too_few(_context: Any) -> embedding_pb2.EmbedResponse:
        return embedding.vectors(["5"])

    embedding.answer_five = too_few
    with pytest.raises(ServerError, match=r"vectors of shape \(1, 2\), not \(2, 2\)"):
        await client.embed_many(numbered(9), input_type="QUERY", batch_size=2)


async def test_cancelling_it_cancels_what_runs(embedding: Embedding) -> None:
    embedding.gate = asyncio.Event()
    async with open_client("async", embedding.server.address) as client:
        call = asyncio.ensure_future(client.embed_many(numbered(9), input_type="QUERY"))
        await embedding.wait_until_running(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(embedding.server.cancelled.wait(), 10)


@pytest.mark.parametrize(
    ("arguments", "error", "problem"),
    [
        ({"texts": "one text"}, TypeError, "texts is a sequence of strings"),
        ({"titles": ["a"]}, ValueError, "there are 2 texts and 1 titles"),
        ({"batch_size": 0}, ValueError, "batch_size is 0, below 1"),
        ({"concurrency": 0}, ValueError, "concurrency is 0, below 1"),
    ],
)
async def test_arguments_that_cannot_be_are_refused_before_anything_is_sent(
    embedding: Embedding,
    client: Any,
    arguments: dict[str, Any],
    error: type[Exception],
    problem: str,
) -> None:
    with pytest.raises(error, match=problem):
        await client.embed_many(**{"texts": ["a", "b"], "input_type": "QUERY", **arguments})
    assert not embedding.server.arrivals
