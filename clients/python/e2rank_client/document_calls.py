"""The RPCs about stored documents, as values; see `calls`.

What is stored survives a crash of the server. Writes are safe to repeat, and
are repeated like other calls; a repeated one may report what its first attempt
did: UNCHANGED for a document that was new, False for one that it deleted.
"""

from __future__ import annotations

from collections.abc import Sequence

from e2rank.v1 import document_pb2, document_pb2_grpc, embedding_pb2, embedding_pb2_grpc, types_pb2
from e2rank_client import wire
from e2rank_client.calls import Call, UnknownChoice
from e2rank_client.types import (
    EmbedResult,
    NamespaceStats,
    PutResult,
    StoredDocument,
    UnknownDocuments,
)


def put_documents(
    documents: Sequence[StoredDocument],
    *,
    namespace: str = "",
    models: Sequence[str] = (),
    store_only: bool = False,
    priority: int = 0,
    timeout_seconds: float | None = None,
    request_id: str = "",
) -> Call[PutResult]:
    """Store documents in place of those that have their ids, then embed them; all or none.

    It returns once they would survive a loss of power. After UnavailableError
    or DeadlineExceededError they may be stored; repeating it is safe.

    Args:
        documents: At least one, with distinct ids.
        namespace: Ids are unique within it.
        models: Profiles with which to embed them now; none means the server's default.
        store_only: Embed nothing now: the first call that names a document will.
        priority: Of the embedding. Lower runs earlier; 0 is normal, and bulk work is
            better above it.
        timeout_seconds: Deadline of the call; None means the client's default.
        request_id: Names the call in the server's log; empty lets the server choose.

    Raises:
        QuotaExceededError: The namespace has no room for them.
        E2RankError: see `e2rank_client.errors` for the tree.
    """
    request = document_pb2.PutDocumentsRequest(
        namespace=namespace,
        models=_checked("models", models),
        store_only=store_only,
        priority=priority,
    )
    for document in documents:
        request.documents.add(id=document.id, text=document.text, title=document.title)
    number = len(request.documents)
    return Call(
        document_pb2_grpc.DocumentServiceStub,
        "PutDocuments",
        request,
        lambda response: wire.put_result_from_wire(response, number),
        timeout_seconds,
        request_id,
        is_write=True,
    )


def get_documents(
    ids: Sequence[str],
    *,
    namespace: str = "",
    timeout_seconds: float | None = None,
    request_id: str = "",
) -> Call[tuple[StoredDocument | None, ...]]:
    """Return documents in the order of `ids`, None for those that are not stored.

    Args:
        ids: At least one, distinct.
        namespace: Where they are stored.
        timeout_seconds: Deadline of the call; None means the client's default.
        request_id: Names the call in the server's log; empty lets the server choose.

    Raises:
        DataLossError: One of them is damaged.
        E2RankError: see `e2rank_client.errors` for the tree.
    """
    number = len(ids)
    return Call(
        document_pb2_grpc.DocumentServiceStub,
        "GetDocuments",
        document_pb2.GetDocumentsRequest(namespace=namespace, ids=_checked("ids", ids)),
        lambda response: wire.stored_documents_from_wire(response, number),
        timeout_seconds,
        request_id,
    )


def documents_exist(
    ids: Sequence[str],
    *,
    namespace: str = "",
    timeout_seconds: float | None = None,
    request_id: str = "",
) -> Call[tuple[bool, ...]]:
    """Say of each id whether there is such a document, which costs less than to get it.

    The arguments are those of `get_documents`.

    Raises:
        E2RankError: see `e2rank_client.errors` for the tree.
    """
    number = len(ids)
    return Call(
        document_pb2_grpc.DocumentServiceStub,
        "GetDocuments",
        document_pb2.GetDocumentsRequest(
            namespace=namespace, ids=_checked("ids", ids), existence_only=True
        ),
        lambda response: wire.existence_from_wire(response, number),
        timeout_seconds,
        request_id,
    )


def delete_documents(
    ids: Sequence[str],
    *,
    namespace: str = "",
    timeout_seconds: float | None = None,
    request_id: str = "",
) -> Call[tuple[bool, ...]]:
    """Delete documents; True for each that existed.

    The arguments are those of `get_documents`.

    Raises:
        E2RankError: see `e2rank_client.errors` for the tree.
    """
    number = len(ids)
    return Call(
        document_pb2_grpc.DocumentServiceStub,
        "DeleteDocuments",
        document_pb2.DeleteDocumentsRequest(namespace=namespace, ids=_checked("ids", ids)),
        lambda response: wire.deletions_from_wire(response, number),
        timeout_seconds,
        request_id,
        is_write=True,
    )


def delete_namespace(
    namespace: str, *, timeout_seconds: float | None = None, request_id: str = ""
) -> Call[NamespaceStats]:
    """Delete all documents of a namespace and what is cached of it; returns what it held.

    Args:
        namespace: The empty one is a namespace like any other.
        timeout_seconds: Deadline of the call; None means the client's default.
        request_id: Names the call in the server's log; empty lets the server choose.

    Raises:
        E2RankError: see `e2rank_client.errors` for the tree.
    """
    return Call(
        document_pb2_grpc.DocumentServiceStub,
        "DeleteNamespace",
        document_pb2.DeleteNamespaceRequest(namespace=namespace),
        lambda response: wire.namespace_stats_from_wire(response.deleted),
        timeout_seconds,
        request_id,
        is_write=True,
    )


def get_namespace_stats(
    namespace: str = "", *, timeout_seconds: float | None = None, request_id: str = ""
) -> Call[NamespaceStats]:
    """Say how full a namespace is; one that was never written to is empty.

    Raises:
        E2RankError: see `e2rank_client.errors` for the tree.
    """
    return Call(
        document_pb2_grpc.DocumentServiceStub,
        "GetNamespaceStats",
        document_pb2.GetNamespaceStatsRequest(namespace=namespace),
        lambda response: wire.namespace_stats_from_wire(response.stats),
        timeout_seconds,
        request_id,
    )


def embed_stored(
    ids: Sequence[str],
    *,
    model: str = "",
    namespace: str = "",
    unknown_documents: UnknownChoice = "FAIL",
    priority: int = 0,
    timeout_seconds: float | None = None,
    request_id: str = "",
) -> Call[EmbedResult]:
    """Return the embeddings of stored documents; see `embed`.

    Args:
        ids: At least one.
        model: Profile to use; empty means the server's default.
        namespace: Where they are stored.
        unknown_documents: Of ids that are not stored: FAIL, or DROP them.
        priority: Lower runs earlier; 0 is normal.
        timeout_seconds: Deadline of the call; None means the client's default.
        request_id: Names the call in the server's log; empty lets the server choose.

    Raises:
        UnknownDocumentsError: Some are not stored, and were not to be dropped.
        E2RankError: see `e2rank_client.errors` for the tree.
    """
    request = embedding_pb2.EmbedRequest(
        model=model,
        namespace=namespace,
        input_type=embedding_pb2.INPUT_TYPE_DOCUMENT,
        encoding=types_pb2.VECTOR_ENCODING_FLOAT32,
        priority=priority,
        unknown_documents=f"UNKNOWN_DOCUMENTS_{UnknownDocuments(unknown_documents)}",
    )
    for document_id in _checked("ids", ids):
        request.inputs.add(id=document_id)
    return Call(
        embedding_pb2_grpc.EmbeddingServiceStub,
        "Embed",
        request,
        wire.embed_result_from_wire,
        timeout_seconds,
        request_id,
    )


def _checked(name: str, strings: Sequence[str]) -> Sequence[str]:
    if isinstance(strings, str):
        raise TypeError(f"{name} is a sequence of strings, not a string")
    return strings
