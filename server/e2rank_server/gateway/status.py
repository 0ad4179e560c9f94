"""Errors to gRPC statuses: one table, and the details of google.rpc that go with each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from e2rank_server.errors import (
    DataLossError,
    E2RankError,
    GeneratorMissingError,
    GeneratorRefusedError,
    InvalidRequestError,
    ModelMismatchError,
    OverloadedError,
    QuotaExceededError,
    UnavailableError,
    UnknownDocumentsError,
    UnknownModelError,
)

ERROR_DOMAIN = "e2rank.v1"
PUSHBACK_KEY = "grpc-retry-pushback-ms"

_CODES: tuple[tuple[type[E2RankError], grpc.StatusCode], ...] = (
    (InvalidRequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (UnknownModelError, grpc.StatusCode.NOT_FOUND),
    (UnknownDocumentsError, grpc.StatusCode.NOT_FOUND),
    (ModelMismatchError, grpc.StatusCode.FAILED_PRECONDITION),
    (GeneratorMissingError, grpc.StatusCode.FAILED_PRECONDITION),
    (GeneratorRefusedError, grpc.StatusCode.FAILED_PRECONDITION),
    (QuotaExceededError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (DataLossError, grpc.StatusCode.DATA_LOSS),
    (OverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
)

_UNAVAILABLE_RETRY_SECONDS = 1.0

# A status travels in HTTP/2 trailers, of which peers refuse more than 8 KiB
# (grpc.max_metadata_size): the message percent-encoded, the details in base64.
_MAX_MESSAGE_BYTES = 512
_MAX_METADATA_VALUE_BYTES = 256
_MAX_VIOLATIONS_BYTES = 2048


@dataclass(frozen=True, slots=True)
class ErrorStatus:
    """What a failed call ends with."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def status_of(error: BaseException, request_id: str) -> ErrorStatus | None:
    """Return the status for an error that callers may see, None for any other."""
    failure = _unwrap(error)
    for kind, code in _CODES:
        if isinstance(failure, kind):
            return _pack(code, str(failure), failure.reason, failure, request_id)
    return None


def internal_status(request_id: str) -> ErrorStatus:
    """Return the status for a defect: a fixed text and where to look for the cause."""
    message = f"internal error; the server's log has it under request id {request_id}"
    return _pack(grpc.StatusCode.INTERNAL, message, E2RankError.reason, None, request_id)


def _unwrap(error: BaseException) -> BaseException:
    """Return the one kind of error in a group; the group itself if there are several."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [_unwrap(each) for each in error.exceptions]
    return leaves[0] if len({type(leaf) for leaf in leaves}) == 1 else error


def _pack(
    code: grpc.StatusCode,
    message: str,
    reason: str,
    error: BaseException | None,
    request_id: str,
) -> ErrorStatus:
    text = _cut(message, _MAX_MESSAGE_BYTES)
    metadata = {"request_id": request_id, **_dynamic_parts(error)}
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN, metadata=metadata)
    ]
    retry_seconds = _retry_seconds(error)
    trailing: list[tuple[str, str | bytes]] = []
    if isinstance(error, InvalidRequestError | UnknownDocumentsError):
        details.append(_bad_request(error))
    if isinstance(error, QuotaExceededError):
        details.append(_quota_failure(error))
    if retry_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(math.ceil(retry_seconds * 1000))
        details.append(retry)
    if isinstance(error, OverloadedError):
        trailing.append((PUSHBACK_KEY, str(math.ceil(error.retry_after_seconds * 1000))))
    status = status_pb2.Status(code=code.value[0], message=text)
    for detail in details:
        status.details.add().Pack(detail)
    trailing.extend(rpc_status.to_status(status).trailing_metadata)
    return ErrorStatus(code, text, tuple(trailing))


def _dynamic_parts(error: BaseException | None) -> dict[str, str]:
    """Return what varies in the message, for programs (AIP-193)."""
    match error:
        case InvalidRequestError() | UnknownDocumentsError():
            parts = {"num_violations": str(len(error.violations))}
        case UnknownModelError():
            parts = {"model": error.model}
        case ModelMismatchError():
            parts = {"field": error.field}
        case UnavailableError():
            parts = {"backend": error.backend}
        case QuotaExceededError():
            parts = {
                "namespace": error.namespace,
                "stored_bytes": str(error.stored_bytes),
                "needed_bytes": str(error.needed_bytes),
                "max_bytes": str(error.max_bytes),
            }
        case DataLossError():
            parts = {"namespace": error.namespace, "document_id": error.document_id or ""}
        case _:
            parts = {}
    return {name: _cut(value, _MAX_METADATA_VALUE_BYTES) for name, value in parts.items()}


def _retry_seconds(error: BaseException | None) -> float | None:
    match error:
        case OverloadedError():
            return error.retry_after_seconds
        case UnavailableError():
            return _UNAVAILABLE_RETRY_SECONDS
        case _:
            return None


def _bad_request(
    error: InvalidRequestError | UnknownDocumentsError,
) -> error_details_pb2.BadRequest:
    """List violations for as long as the trailers have room; ErrorInfo has their number."""
    bad_request = error_details_pb2.BadRequest()
    for violation in error.violations:
        bad_request.field_violations.add(
            field=_cut(violation.field, _MAX_METADATA_VALUE_BYTES),
            description=_cut(violation.description, _MAX_MESSAGE_BYTES),
        )
        if bad_request.ByteSize() > _MAX_VIOLATIONS_BYTES:
            break
    return bad_request


def _quota_failure(error: QuotaExceededError) -> error_details_pb2.QuotaFailure:
    quota = error_details_pb2.QuotaFailure()
    quota.violations.add(
        subject=_cut(f"namespace:{error.namespace}", _MAX_METADATA_VALUE_BYTES),
        description=_cut(str(error), _MAX_MESSAGE_BYTES),
    )
    return quota


def _cut(text: str, max_bytes: int) -> str:
    """Return at most `max_bytes` of UTF-8 of `text`, with dots where it was cut."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= max_bytes:
        return text
    return encoded[: max_bytes - 3].decode(errors="ignore") + "..."
