"""DocumentService over a socket, on a fake store and a fake model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from e2rank.v1 import document_pb2, document_pb2_grpc, types_pb2
from e2rank_server.engine.documents import DocumentsEngine
from e2rank_server.engine.namespace_epochs import NamespaceEpochs
from e2rank_server.errors import DataLossError, OverloadedError
from e2rank_server.gateway.document_servicer import DocumentServicer
from e2rank_server.gateway.interceptors import GateInterceptor, gateway_interceptors
from e2rank_server.gateway.served_models import ServedModels
from tests.fake_document_store import FakeDocumentStore
from tests.fakes import FakeServedModel
from tests.gateway.running_gateway import LIMITS, failure_of

Put = document_pb2.PutDocumentsRequest
Get = document_pb2.GetDocumentsRequest
Delete = document_pb2.DeleteDocumentsRequest
DeleteNamespace = document_pb2.DeleteNamespaceRequest
Stats = document_pb2.GetNamespaceStatsRequest
Stored = document_pb2.StoredDocument

NEW = document_pb2.PUT_OUTCOME_NEW
UNCHANGED = document_pb2.PUT_OUTCOME_UNCHANGED
REPLACED = document_pb2.PUT_OUTCOME_REPLACED


@dataclass
class Service:
    """The service's stub, and what stands behind it."""

    stub: Any
    store: FakeDocumentStore
    model: FakeServedModel
    purged: list[tuple[str, int]] = field(default_factory=list)

    async def purge(self, namespace: str, epoch: int) -> None:
        self.purged.append((namespace, epoch))

    async def put(self, *documents: Stored, **fields: Any) -> document_pb2.PutDocumentsResponse:
        return await self.stub.PutDocuments(Put(documents=documents, **fields))


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service(None, FakeDocumentStore(max_namespace_bytes=1000), FakeServedModel())
    epochs = NamespaceEpochs(service.store, service.purge, interval_seconds=3600)
    await epochs.start()
    engine = DocumentsEngine(service.store, epochs, b"s" * 32, max_answer_bytes=300)
    server = grpc.aio.server(interceptors=gateway_interceptors(GateInterceptor(10)))
    models = ServedModels([service.model], LIMITS.max_name_bytes)
    document_pb2_grpc.add_DocumentServiceServicer_to_server(
        DocumentServicer(engine, models, LIMITS), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        service.stub = document_pb2_grpc.DocumentServiceStub(channel)
        yield service
    await server.stop(0)
    await epochs.close()


async def test_put_says_what_became_of_each_document(service: Service) -> None:
    await service.put(Stored(id="a", text="1"), Stored(id="b", text="2"))
    answer = await service.put(
        Stored(id="c", text="3"), Stored(id="b", text="4"), Stored(id="a", text="1")
    )
    assert answer.outcomes == [NEW, REPLACED, UNCHANGED]
    assert (answer.documents_new, answer.documents_replaced, answer.documents_unchanged) == (
        1,
        1,
        1,
    )
    assert answer.stats == document_pb2.NamespaceStats(
        documents=3, stored_bytes=3 * 130, max_bytes=1000
    )


async def test_documents_are_embedded_with_the_default_model(service: Service) -> None:
    answer = await service.put(Stored(id="a", text="1", title="t"), namespace="n", priority=3)
    assert answer.embedded == [
        document_pb2.EmbeddedAhead(model="fake-model", documents_cached=1, tokens=5)
    ]
    [request] = service.model.requests
    assert (request.namespace, request.priority) == ("n", 3)
    assert [(each.text, each.title) for each in request.inputs] == [("1", "t")]


async def test_documents_are_embedded_with_the_models_that_are_named(service: Service) -> None:
    answer = await service.put(Stored(id="a", text="1"), models=["fake-model"])
    assert [each.model for each in answer.embedded] == ["fake-model"]
    failure = await failure_of(
        service.stub.PutDocuments(Put(documents=[Stored(id="b", text="2")], models=["other"]))
    )
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL")
    assert await service.store.get("", ["b"]) == [None]


async def test_documents_can_be_stored_alone(service: Service) -> None:
    answer = await service.put(Stored(id="a", text="1"), store_only=True)
    assert answer.outcomes == [NEW]
    assert len(answer.embedded) == 0
    assert service.model.requests == []


async def test_a_failure_to_embed_is_a_warning(service: Service) -> None:
    async def fail() -> None:
        raise OverloadedError("too much waits", 1.0)

    service.model.before_answering = fail
    answer = await service.put(Stored(id="a", text="1"))
    assert answer.outcomes == [NEW]
    assert answer.embedded[0].documents_not_embedded == 1
    [warning] = answer.warnings
    assert warning.code == types_pb2.WARNING_CODE_DOCUMENTS_NOT_EMBEDDED
    assert "too much waits" in warning.message


async def test_documents_come_back_in_the_order_of_their_ids(service: Service) -> None:
    a, b = Stored(id="a", text="1", title="t"), Stored(id="b", text="2")
    await service.put(a, b, namespace="n")
    answer = await service.stub.GetDocuments(Get(namespace="n", ids=["b", "?", "a"]))
    assert [(each.id, each.found) for each in answer.results] == [
        ("b", True),
        ("?", False),
        ("a", True),
    ]
    assert [each.document for each in answer.results if each.HasField("document")] == [b, a]
    assert not answer.results[0].document.HasField("title")


async def test_existence_alone_can_be_asked_for(service: Service) -> None:
    await service.put(Stored(id="a", text="1"))
    answer = await service.stub.GetDocuments(Get(ids=["a", "?"], existence_only=True))
    assert [each.found for each in answer.results] == [True, False]
    assert not any(each.HasField("document") for each in answer.results)


async def test_deleted_documents_are_reported_and_gone(service: Service) -> None:
    await service.put(Stored(id="a", text="1"), Stored(id="b", text="2"))
    answer = await service.stub.DeleteDocuments(Delete(ids=["a", "?"]))
    assert answer.existed == [True, False]
    assert answer.documents_deleted == 1
    answer = await service.stub.GetNamespaceStats(Stats())
    assert answer.stats.documents == 1


async def test_a_deleted_namespace_is_empty_and_purged_and_the_others_are_not(
    service: Service,
) -> None:
    await service.put(Stored(id="a", text="1"), namespace="n")
    await service.put(Stored(id="a", text="1"))
    answer = await service.stub.DeleteNamespace(DeleteNamespace(namespace="n"))
    assert answer.deleted == document_pb2.NamespaceStats(
        documents=1, stored_bytes=130, max_bytes=1000
    )
    assert service.purged == [("n", 0)]
    assert (await service.stub.GetNamespaceStats(Stats(namespace="n"))).stats.documents == 0
    assert (await service.stub.GetNamespaceStats(Stats())).stats.documents == 1


async def test_an_empty_message_deletes_no_namespace(service: Service) -> None:
    await service.put(Stored(id="a", text="1"))
    failure = await failure_of(service.stub.DeleteNamespace(DeleteNamespace()))
    assert failure.violations == {"namespace": 'must be set, be it to ""'}
    assert (
        await service.stub.DeleteNamespace(DeleteNamespace(namespace=""))
    ).deleted.documents == 1


TOO_LONG = "x" * 257


@pytest.mark.parametrize(
    ("request_message", "violations"),
    [
        (Put(), {"documents": "must not be empty"}),
        (
            Put(documents=[Stored(id=f"{number}", text="x") for number in range(11)]),
            {"documents": "has 11 elements, more than the limit of 10"},
        ),
        (
            Put(
                namespace=TOO_LONG,
                documents=[
                    Stored(text="x"),
                    Stored(id=TOO_LONG, text="x"),
                    Stored(id="a", text="x"),
                    Stored(id="b"),
                    Stored(id="a", text=" \n"),
                    Stored(id="c", text="x" * 100, title="y" * 29),
                ],
                models=["fake-model"],
                store_only=True,
            ),
            {
                "namespace": "has 257 bytes, more than the limit of 256",
                "models": "must not be set together with store_only",
                "documents[0].id": "must not be empty",
                "documents[1].id": "has 257 bytes, more than the limit of 256",
                "documents[3].text": "must not be blank",
                "documents[4].id": "'a' is documents[2].id, too",
                "documents[4].text": "must not be blank",
                "documents[5].text": "has 129 bytes with its title, more than the limit of 128",
            },
        ),
        (
            Put(documents=[Stored(id="a", text="x")], models=["fake-model", "fake-model"]),
            {"models": "name a model twice"},
        ),
        (Get(), {"ids": "must not be empty"}),
        (Delete(ids=["x"] * 11), {"ids": "has 11 elements, more than the limit of 10"}),
        (
            Get(namespace=TOO_LONG, ids=["a", "", "a", TOO_LONG]),
            {
                "namespace": "has 257 bytes, more than the limit of 256",
                "ids[1]": "must not be empty",
                "ids[2]": "'a' is ids[0], too",
                "ids[3]": "has 257 bytes, more than the limit of 256",
            },
        ),
        (
            DeleteNamespace(namespace=TOO_LONG),
            {"namespace": "has 257 bytes, more than the limit of 256"},
        ),
        (Stats(namespace=TOO_LONG), {"namespace": "has 257 bytes, more than the limit of 256"}),
    ],
)
async def test_a_bad_request_names_every_field_value_and_limit(
    service: Service, request_message: Any, violations: dict[str, str]
) -> None:
    method = type(request_message).__name__.removesuffix("Request")
    failure = await failure_of(getattr(service.stub, method)(request_message))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.violations == violations
    assert (await service.store.statistics("")).documents == 0


async def test_an_answer_that_would_be_too_large_is_refused(service: Service) -> None:
    documents = [Stored(id=f"{number}", text="x" * 101) for number in range(3)]
    await service.put(*documents)
    failure = await failure_of(service.stub.GetDocuments(Get(ids=["0", "1", "2"])))
    assert failure.violations == {
        "ids": "name documents of more than 300 bytes together, the limit of an answer; "
        "ask for fewer at a time"
    }


async def test_a_full_namespace_is_refused_saying_what_and_how_much(service: Service) -> None:
    await service.put(Stored(id="a", text="x" * 100), namespace="n")
    documents = [Stored(id=f"{number}", text="x" * 100) for number in range(4)]
    call = service.stub.PutDocuments(Put(namespace="n", documents=documents))
    failure = await failure_of(call)
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "QUOTA_EXCEEDED",
    )
    assert failure.message == (
        "namespace 'n' holds 229 bytes and its quota is 1000; 916 more do not fit"
    )
    # Waiting does not help.
    assert failure.retry_seconds is None
    assert "grpc-retry-pushback-ms" not in failure.trailers
    del failure.metadata["request_id"]
    assert failure.metadata == {
        "namespace": "n",
        "stored_bytes": "229",
        "needed_bytes": "916",
        "max_bytes": "1000",
    }
    status = await rpc_status.aio.from_call(call)
    quota = error_details_pb2.QuotaFailure()
    assert any(detail.Unpack(quota) for detail in status.details)
    [violation] = quota.violations
    assert (violation.subject, violation.description) == ("namespace:n", failure.message)


async def test_a_store_that_is_away_is_unavailable_and_may_be_tried_again(
    service: Service,
) -> None:
    service.store.is_available = False
    for call in (
        service.stub.PutDocuments(Put(documents=[Stored(id="a", text="x")])),
        service.stub.GetDocuments(Get(ids=["a"])),
        service.stub.DeleteDocuments(Delete(ids=["a"])),
        service.stub.DeleteNamespace(DeleteNamespace(namespace="n")),
        service.stub.GetNamespaceStats(Stats()),
    ):
        failure = await failure_of(call)
        assert failure.code is grpc.StatusCode.UNAVAILABLE
        assert failure.metadata["backend"] == "document_store"
        assert failure.retry_seconds is not None


async def test_a_damaged_document_is_data_loss_and_named(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def damaged(namespace: str, ids: list[str]) -> None:
        raise DataLossError(namespace, ids[0])

    monkeypatch.setattr(service.store, "get", damaged)
    failure = await failure_of(service.stub.GetDocuments(Get(namespace="n", ids=["a"])))
    assert (failure.code, failure.reason) == (grpc.StatusCode.DATA_LOSS, "DATA_LOSS")
    assert failure.metadata["document_id"] == "a"
    assert failure.retry_seconds is None
