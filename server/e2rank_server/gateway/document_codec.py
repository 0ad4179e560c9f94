"""DocumentService between wire messages and the domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from e2rank.v1 import document_pb2, types_pb2
from e2rank_server.document_store.protocol import (
    NamespaceStatistics,
    PutOutcome,
    StoredDocument,
)
from e2rank_server.engine.documents import PutReport, PutRequest
from e2rank_server.gateway.limits import GatewayLimits
from e2rank_server.gateway.violations import Violations, utf8_length
from e2rank_server.types import Document

# Any: the stubs let Value return an int, which repeated fields then refuse.
_OUTCOMES: Mapping[PutOutcome, Any] = {
    outcome: document_pb2.PutOutcome.Value(f"PUT_OUTCOME_{outcome}") for outcome in PutOutcome
}


def decode_put_request(
    message: document_pb2.PutDocumentsRequest, limits: GatewayLimits
) -> PutRequest:
    """Check and convert a request.

    Raises:
        InvalidRequestError: with every breach that was found.
    """
    violations = Violations()
    violations.check_size("namespace", utf8_length(message.namespace), limits.max_name_bytes)
    if message.store_only and message.models:
        violations.add("models", "must not be set together with store_only")
    elif len(set(message.models)) < len(message.models):
        violations.add("models", "name a model twice")
    documents = _decode_documents(message.documents, limits, violations)
    violations.raise_if_any()
    return PutRequest(documents, message.namespace, message.priority)


def decode_ids(
    message: document_pb2.GetDocumentsRequest | document_pb2.DeleteDocumentsRequest,
    limits: GatewayLimits,
) -> list[str]:
    """Check a request that names documents, and return their ids.

    Raises:
        InvalidRequestError: with every breach that was found.
    """
    violations = Violations()
    violations.check_size("namespace", utf8_length(message.namespace), limits.max_name_bytes)
    ids = list(message.ids)
    if _is_number_right("ids", len(ids), limits, violations):
        _check_ids([(f"ids[{index}]", each) for index, each in enumerate(ids)], limits, violations)
    violations.raise_if_any()
    return ids


def decode_namespace(
    message: document_pb2.DeleteNamespaceRequest | document_pb2.GetNamespaceStatsRequest,
    limits: GatewayLimits,
) -> str:
    """Check a request about a namespace, and return its name.

    Raises:
        InvalidRequestError: it is too long, or not set where it has to be.
    """
    violations = Violations()
    if isinstance(message, document_pb2.DeleteNamespaceRequest) and not message.HasField(
        "namespace"
    ):
        violations.add("namespace", 'must be set, be it to ""')
    violations.check_size("namespace", utf8_length(message.namespace), limits.max_name_bytes)
    violations.raise_if_any()
    return message.namespace


def encode_put_response(report: PutReport) -> document_pb2.PutDocumentsResponse:
    """Convert what became of a put."""
    outcomes = list(report.outcomes)
    response = document_pb2.PutDocumentsResponse(
        outcomes=[_OUTCOMES[outcome] for outcome in outcomes],
        documents_new=outcomes.count(PutOutcome.NEW),
        documents_unchanged=outcomes.count(PutOutcome.UNCHANGED),
        documents_replaced=outcomes.count(PutOutcome.REPLACED),
        embedded=[
            document_pb2.EmbeddedAhead(
                model=each.model,
                documents_cached=each.documents_cached,
                documents_embedded=each.documents_embedded,
                documents_not_embedded=each.documents_not_embedded,
                documents_truncated=each.documents_truncated,
                tokens=each.tokens,
            )
            for each in report.embedded
        ],
        warnings=[
            types_pb2.Warning(code=f"WARNING_CODE_{warning.code}", message=warning.message)
            for warning in report.warnings
        ],
    )
    if report.statistics is not None:
        response.stats.CopyFrom(encode_statistics(report.statistics))
    return response


def encode_documents(
    ids: Sequence[str], documents: Sequence[StoredDocument | None]
) -> document_pb2.GetDocumentsResponse:
    """Convert the documents of `ids`, None for those that were not found."""
    response = document_pb2.GetDocumentsResponse()
    for document_id, document in zip(ids, documents, strict=True):
        result = response.results.add(id=document_id, found=document is not None)
        if document is not None:
            result.document.id = document.id
            result.document.text = document.text
            if document.title is not None:
                result.document.title = document.title
    return response


def encode_existence(
    ids: Sequence[str], found: Sequence[bool]
) -> document_pb2.GetDocumentsResponse:
    """Convert which of `ids` were found."""
    results = [
        document_pb2.DocumentResult(id=document_id, found=is_found)
        for document_id, is_found in zip(ids, found, strict=True)
    ]
    return document_pb2.GetDocumentsResponse(results=results)


def encode_statistics(statistics: NamespaceStatistics) -> document_pb2.NamespaceStats:
    """Convert how full a namespace is."""
    return document_pb2.NamespaceStats(
        documents=statistics.documents,
        stored_bytes=statistics.stored_bytes,
        max_bytes=statistics.max_bytes,
    )


def _decode_documents(
    messages: Sequence[document_pb2.StoredDocument], limits: GatewayLimits, violations: Violations
) -> list[Document]:
    if not _is_number_right("documents", len(messages), limits, violations):
        return []
    _check_ids(
        [(f"documents[{index}].id", each.id) for index, each in enumerate(messages)],
        limits,
        violations,
    )
    documents = []
    for index, message in enumerate(messages):
        text = message.text
        title = message.title
        field = f"documents[{index}].text"
        if not text or text.isspace():
            violations.add(field, "must not be blank")
        num_bytes = utf8_length(text) + utf8_length(title)
        if num_bytes > limits.max_document_bytes:
            violations.add(
                field,
                f"has {num_bytes} bytes with its title, more than the limit of "
                f"{limits.max_document_bytes}",
            )
        documents.append(Document(message.id, text, title or None))
    return documents


def _is_number_right(
    field: str, number: int, limits: GatewayLimits, violations: Violations
) -> bool:
    """Note none or too many; their elements are then not looked into, which bounds the work."""
    if number == 0:
        violations.add(field, "must not be empty")
    elif number > limits.max_documents:
        violations.add(
            field, f"has {number} elements, more than the limit of {limits.max_documents}"
        )
    return 0 < number <= limits.max_documents


def _check_ids(
    ids: Sequence[tuple[str, str]], limits: GatewayLimits, violations: Violations
) -> None:
    """Note ids, each with the name of its field, that are empty, too long or there already."""
    first_fields: dict[str, str] = {}
    for field, document_id in ids:
        if not document_id:
            violations.add(field, "must not be empty")
        elif utf8_length(document_id) > limits.max_name_bytes:
            violations.check_size(field, utf8_length(document_id), limits.max_name_bytes)
        elif document_id in first_fields:
            violations.add(field, f"{document_id!r} is {first_fields[document_id]}, too")
        else:
            first_fields[document_id] = field
