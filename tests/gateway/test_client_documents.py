"""Both Python clients and stored documents: against the real service, and a canned one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from e2rank.v1 import document_pb2, embedding_pb2, rerank_pb2, types_pb2
from e2rank_client import (
    CacheTier,
    DataLossError,
    Document,
    InvalidRequestError,
    NamespaceStats,
    OverloadedError,
    PutOutcome,
    QuotaExceededError,
    ServerError,
    StoredDocument,
    UnavailableError,
    UnknownDocumentsError,
    WarningCode,
)
from tests.fake_document_store import FakeDocumentStore
from tests.fakes import FakeServedModel
from tests.gateway.canned_server import CannedServer, canned_server, failure, open_client
from tests.gateway.documents_gateway import documents_gateway

BOTH_CLIENTS = pytest.mark.parametrize("kind", ["async", "blocking"])


@pytest.fixture
def store() -> FakeDocumentStore:
    return FakeDocumentStore(max_namespace_bytes=1000)


@pytest.fixture
async def address(store: FakeDocumentStore) -> AsyncIterator[str]:
    async with documents_gateway(store, FakeServedModel()) as at:
        yield at


@pytest.fixture(params=["async", "blocking"])
async def client(address: str, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    async with open_client(request.param, address, max_attempts=1) as either:
        await either.wait_until_ready(timeout_seconds=10)
        yield either


@pytest.fixture
async def canned() -> AsyncIterator[CannedServer]:
    async with canned_server() as server:
        yield server


@pytest.fixture(params=["async", "blocking"])
async def canned_client(canned: CannedServer, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    async with open_client(request.param, canned.address, max_attempts=1) as either:
        yield either


A, B = StoredDocument("a", "1", title="T"), StoredDocument("b", "2")


async def test_documents_are_put_and_it_is_said_what_became_of_each(client: Any) -> None:
    await client.put_documents([A, B], namespace="n")
    changed = StoredDocument("b", "22")
    answer = await client.put_documents([StoredDocument("c", "3"), changed, A], namespace="n")
    assert answer.outcomes == (PutOutcome.NEW, PutOutcome.REPLACED, PutOutcome.UNCHANGED)
    counts = (answer.documents_new, answer.documents_replaced, answer.documents_unchanged)
    assert counts == (1, 1, 1)
    assert answer.stats == NamespaceStats(documents=3, stored_bytes=131 + 131 + 130, max_bytes=1000)
    [ahead] = answer.embedded
    assert (ahead.model, ahead.documents_cached) == ("fake-model", 3)
    assert answer.warnings == ()


async def test_documents_can_be_stored_without_embedding_them(client: Any) -> None:
    answer = await client.put_documents([A], store_only=True)
    assert (answer.outcomes, answer.embedded) == ((PutOutcome.NEW,), ())


async def test_documents_come_back_as_they_were_put(client: Any) -> None:
    await client.put_documents([A, B], namespace="n")
    assert await client.get_documents(["b", "?", "a"], namespace="n") == (B, None, A)
    assert await client.documents_exist(["b", "?"], namespace="n") == (True, False)
    assert await client.documents_exist(["b"]) == (False,)


async def test_documents_are_deleted_one_by_one_or_with_their_namespace(client: Any) -> None:
    await client.put_documents([A, B], namespace="n")
    assert await client.delete_documents(["a", "?"], namespace="n") == (True, False)
    held = await client.get_namespace_stats("n")
    assert held.documents == 1
    assert await client.delete_namespace("n") == held
    assert await client.get_namespace_stats("n") == NamespaceStats(0, 0, 1000)


async def test_the_empty_namespace_is_deleted_only_if_it_is_named(client: Any) -> None:
    await client.put_documents([A])
    with pytest.raises(TypeError, match="namespace"):
        await client.delete_namespace()
    assert (await client.delete_namespace("")).documents == 1


async def test_a_full_namespace_says_what_and_how_much(client: Any) -> None:
    await client.put_documents([A], namespace="n")
    documents = [StoredDocument(str(number), "x" * 100) for number in range(4)]
    with pytest.raises(QuotaExceededError, match="do not fit") as caught:
        await client.put_documents(documents, namespace="n")
    error = caught.value
    assert (error.namespace, error.stored_bytes, error.needed_bytes, error.max_bytes) == (
        "n",
        131,
        916,
        1000,
    )
    assert not isinstance(error, OverloadedError)


async def test_a_bad_document_is_named_with_its_field_and_limit(client: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await client.put_documents([A, StoredDocument("", " ")])
    assert [(v.field, v.description) for v in caught.value.violations] == [
        ("documents[1].id", "must not be empty"),
        ("documents[1].text", "must not be blank"),
    ]


async def test_a_store_that_is_away_is_unavailable(client: Any, store: FakeDocumentStore) -> None:
    store.is_available = False
    for call in (
        client.put_documents([A]),
        client.get_documents(["a"]),
        client.documents_exist(["a"]),
        client.delete_documents(["a"]),
        client.delete_namespace("n"),
        client.get_namespace_stats(),
    ):
        with pytest.raises(UnavailableError, match="document_store"):
            await call


@pytest.mark.parametrize("method", ["get_documents", "documents_exist", "delete_documents"])
async def test_one_id_for_several_is_refused_before_sending(
    canned: CannedServer, canned_client: Any, method: str
) -> None:
    with pytest.raises(TypeError, match="ids is a sequence of strings"):
        await getattr(canned_client, method)("abc")
    with pytest.raises(TypeError, match="models is a sequence of strings"):
        await canned_client.put_documents([A], models="small")
    assert canned.request is None


async def test_put_sends_all_that_was_asked(canned: CannedServer, canned_client: Any) -> None:
    canned.answer = document_pb2.PutDocumentsResponse(
        outcomes=[document_pb2.PUT_OUTCOME_NEW, 99],
        embedded=[document_pb2.EmbeddedAhead(model="small", documents_not_embedded=2, tokens=5)],
        warnings=[types_pb2.Warning(code=types_pb2.WARNING_CODE_DOCUMENTS_NOT_EMBEDDED)],
    )
    answer = await canned_client.put_documents(
        [A, B], namespace="n", models=["small"], priority=3, request_id="r-1"
    )
    assert canned.request == document_pb2.PutDocumentsRequest(
        namespace="n",
        documents=[
            document_pb2.StoredDocument(id="a", text="1", title="T"),
            document_pb2.StoredDocument(id="b", text="2"),
        ],
        models=["small"],
        priority=3,
    )
    assert canned.metadata["x-request-id"] == "r-1"
    assert answer.outcomes == (PutOutcome.NEW, PutOutcome.UNRECOGNISED)
    assert answer.stats is None
    assert answer.embedded[0].documents_not_embedded == 2
    assert answer.warnings[0].code is WarningCode.DOCUMENTS_NOT_EMBEDDED


@pytest.mark.parametrize(
    ("method", "argument", "answer"),
    [
        ("put_documents", [A], document_pb2.PutDocumentsResponse()),
        ("get_documents", ["a"], document_pb2.GetDocumentsResponse()),
        ("documents_exist", ["a"], document_pb2.GetDocumentsResponse()),
        ("delete_documents", ["a"], document_pb2.DeleteDocumentsResponse(existed=[True, True])),
    ],
)
async def test_an_answer_of_another_number_of_documents_is_an_error(
    canned: CannedServer, canned_client: Any, method: str, argument: Any, answer: Any
) -> None:
    canned.answer = answer
    with pytest.raises(ServerError, match="unreadable answer"):
        await getattr(canned_client, method)(argument)


async def test_rerank_names_stored_documents_by_id_alone(
    canned: CannedServer, canned_client: Any
) -> None:
    canned.answer = rerank_pb2.RerankResponse(
        results=[rerank_pb2.RerankResult(index=1, id="b", cache_tier=types_pb2.CACHE_TIER_DISK)],
        usage=rerank_pb2.RerankUsage(documents_stored=1),
        timings=rerank_pb2.RerankTimings(store=Duration(nanos=2_000_000)),
        unknown_documents=[0],
    )
    documents = [Document(id="a"), Document(id="b")]
    answer = await canned_client.rerank("q", documents, unknown_documents="DROP")
    assert list(canned.request.documents) == [
        rerank_pb2.Document(id="a"),
        rerank_pb2.Document(id="b"),
    ]
    assert canned.request.unknown_documents == types_pb2.UNKNOWN_DOCUMENTS_DROP
    assert answer.unknown_documents == (0,)
    assert answer.usage.documents_stored == 1
    assert answer.timings.store_seconds == 0.002
    assert answer.results[0].cache_tier is CacheTier.DISK


async def test_stored_documents_are_embedded_by_id(
    canned: CannedServer, canned_client: Any
) -> None:
    canned.answer = embedding_pb2.EmbedResponse(
        vectors=types_pb2.VectorMatrix(
            data=np.array([0.6, 0.8], "<f4").tobytes(),
            encoding=types_pb2.VECTOR_ENCODING_FLOAT32,
            dimension=2,
        ),
        truncated=[False],
        cache_tiers=[types_pb2.CACHE_TIER_SHARED],
        timings=embedding_pb2.EmbedTimings(store=Duration(seconds=1)),
        unknown_inputs=[1],
    )
    answer = await canned_client.embed_stored(
        ["a", "?"], model="small", namespace="n", unknown_documents="DROP", priority=2
    )
    assert canned.request == embedding_pb2.EmbedRequest(
        model="small",
        namespace="n",
        input_type=embedding_pb2.INPUT_TYPE_DOCUMENT,
        inputs=[embedding_pb2.TextInput(id="a"), embedding_pb2.TextInput(id="?")],
        encoding=types_pb2.VECTOR_ENCODING_FLOAT32,
        priority=2,
        unknown_documents=types_pb2.UNKNOWN_DOCUMENTS_DROP,
    )
    assert answer.vectors.shape == (1, 2)
    assert answer.unknown_inputs == (1,)
    assert answer.cache_tiers == (CacheTier.SHARED,)
    assert answer.timings.store_seconds == 1


def info(name: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=name, domain="e2rank.v1", metadata=metadata)


async def test_unknown_documents_are_named(canned: CannedServer, canned_client: Any) -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(
        field="documents[3].id", description="'x' is not stored"
    )
    canned.answer = failure(
        grpc.StatusCode.NOT_FOUND,
        "no",
        info("UNKNOWN_DOCUMENTS"),
        error_details_pb2.BadRequest(field_violations=[violation]),
    )
    with pytest.raises(UnknownDocumentsError) as caught:
        await canned_client.rerank("q", [Document(id="x")])
    assert [(v.field, v.description) for v in caught.value.violations] == [
        ("documents[3].id", "'x' is not stored")
    ]


async def test_a_damaged_document_is_named(canned: CannedServer, canned_client: Any) -> None:
    details = info("DATA_LOSS", namespace="n", document_id="a")
    canned.answer = failure(grpc.StatusCode.DATA_LOSS, "damaged", details)
    with pytest.raises(DataLossError) as caught:
        await canned_client.get_documents(["a"], namespace="n")
    assert (caught.value.namespace, caught.value.document_id) == ("n", "a")


@pytest.mark.parametrize("garbled", ["", "-1", "many", "9" * 21, "٣"])
async def test_numbers_of_a_quota_that_are_none_are_left_open(
    canned: CannedServer, canned_client: Any, garbled: str
) -> None:
    details = info("QUOTA_EXCEEDED", namespace="n", max_bytes=garbled)
    canned.answer = failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", details)
    with pytest.raises(QuotaExceededError) as caught:
        await canned_client.put_documents([A])
    assert (caught.value.max_bytes, caught.value.stored_bytes) == (None, None)


PUT_ONE = document_pb2.PutDocumentsResponse(outcomes=[document_pb2.PUT_OUTCOME_NEW])


@BOTH_CLIENTS
async def test_a_write_is_repeated_while_the_server_is_unavailable(
    canned: CannedServer, kind: str
) -> None:
    async def answer(context: Any) -> Any:
        if len(canned.arrivals) < 3:
            await failure(grpc.StatusCode.UNAVAILABLE, "away")(context)
        return PUT_ONE

    canned.answer = answer
    async with open_client(kind, canned.address) as client:
        assert (await client.put_documents([A])).outcomes == (PutOutcome.NEW,)
    assert len(canned.arrivals) == 3


@BOTH_CLIENTS
async def test_a_write_is_never_hedged(canned: CannedServer, kind: str) -> None:
    answers = {
        document_pb2.PutDocumentsRequest: PUT_ONE,
        document_pb2.DeleteDocumentsRequest: document_pb2.DeleteDocumentsResponse(existed=[True]),
        document_pb2.DeleteNamespaceRequest: document_pb2.DeleteNamespaceResponse(),
        document_pb2.GetNamespaceStatsRequest: document_pb2.GetNamespaceStatsResponse(),
    }
    # The read's second attempt shows that there was time for those of the writes.
    all_sent = asyncio.Barrier(5)

    async def answer(_context: Any) -> Any:
        request = canned.request
        await all_sent.wait()
        return answers[type(request)]

    canned.answer = answer
    async with open_client(kind, canned.address, hedge_after_seconds=0.001) as client:
        await asyncio.wait_for(
            asyncio.gather(
                client.put_documents([A]),
                client.delete_documents(["a"]),
                client.delete_namespace("n"),
                client.get_namespace_stats(),
            ),
            10,
        )
    assert len(canned.arrivals) == 5
