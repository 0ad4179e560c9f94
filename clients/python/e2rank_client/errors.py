"""What can go wrong in a call, as one tree.

    E2RankError
    ├── InvalidRequestError       change the request; `violations` says what
    │   └── PromptTooLongError    its listwise prompt cannot be made to fit
    ├── MessageTooLargeError      the request or the answer exceeds a message limit
    ├── UnknownModelError         no profile of that name is served
    ├── UnknownDocumentsError     documents named by id are not stored; `violations` says which
    ├── ModelMismatchError        a vector was made by another model
    ├── GeneratorMissingError     the method LLM_LISTWISE, and the server has no LLM
    ├── GeneratorRefusedError     the LLM's endpoint refuses the server's calls
    ├── QuotaExceededError        a namespace has no room for the documents
    ├── DataLossError             a stored document is damaged; putting it again repairs it
    ├── OverloadedError           try again after `retry_after_seconds`
    ├── UnavailableError          server or backend away; the only one safe to retry blindly
    ├── DeadlineExceededError     no answer within `timeout_seconds`
    └── ServerError               a defect of the server, or an answer this client cannot read

The server's `google.rpc.ErrorInfo.reason` decides; the status code does where
it sent none, as proxies and gRPC itself do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

_MessageT = TypeVar("_MessageT", bound=Message)

STATUS_DETAILS_KEY = "grpc-status-details-bin"
REQUEST_ID_KEY = "x-request-id"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One thing wrong with one field: `field` is a path such as `documents[3].text`."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class FailedCall:
    """What a failed call said, in one form for both kinds of channel.

    `metadata` is what varies in the message, by name. `request_id` is what to
    quote when asking the server's operator; empty if the server sent none.
    """

    code: grpc.StatusCode
    message: str
    reason: str = ""
    violations: tuple[FieldViolation, ...] = ()
    retry_after_seconds: float | None = None
    request_id: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


class E2RankError(Exception):
    """Base of all errors of this package.

    `code` is the gRPC status code, `reason` the server's stable UPPER_SNAKE
    name of the error (empty if it sent none); the message is for people.
    """

    def __init__(self, call: FailedCall) -> None:
        self.call = call
        self.code = call.code
        self.reason = call.reason
        self.request_id = call.request_id
        super().__init__(call.message)


class InvalidRequestError(E2RankError):
    """The request breaks a rule; `violations` has every breach that the server found."""

    def __init__(self, call: FailedCall) -> None:
        super().__init__(call)
        self.violations = call.violations


class PromptTooLongError(InvalidRequestError):
    """The listwise prompt does not fit the model, however its documents are cut."""


class MessageTooLargeError(E2RankError):
    """The request exceeds the server's message limit, or the answer this client's."""


class UnknownModelError(E2RankError):
    """The request names a profile that the server does not serve."""


class ModelMismatchError(E2RankError):
    """A document's vector was made by another model than the one asked to use it."""


class UnknownDocumentsError(E2RankError):
    """Documents are named by ids that are not stored; `violations` names as many as fit."""

    def __init__(self, call: FailedCall) -> None:
        super().__init__(call)
        self.violations = call.violations


class GeneratorMissingError(E2RankError):
    """The method needs an LLM, and the server was started without one."""


class GeneratorRefusedError(E2RankError):
    """What runs the server's LLM refuses its calls; repeating will not change that."""


class QuotaExceededError(E2RankError):
    """The documents exceed their namespace's quota; none of the call's were stored.

    `stored_bytes` is what the namespace holds, `needed_bytes` what they add and
    `max_bytes` the quota; None if the server did not say.
    """

    def __init__(self, call: FailedCall) -> None:
        super().__init__(call)
        self.namespace = call.metadata.get("namespace", "")
        self.stored_bytes = _number(call.metadata, "stored_bytes")
        self.needed_bytes = _number(call.metadata, "needed_bytes")
        self.max_bytes = _number(call.metadata, "max_bytes")


class DataLossError(E2RankError):
    """A stored document is damaged; putting it again repairs it.

    `document_id` is empty if it is the namespace's own record.
    """

    def __init__(self, call: FailedCall) -> None:
        super().__init__(call)
        self.namespace = call.metadata.get("namespace", "")
        self.document_id = call.metadata.get("document_id", "")


class OverloadedError(E2RankError):
    """The server has as much work as it accepts.

    `retry_after_seconds` is its estimate; None if it gave none.
    """

    def __init__(self, call: FailedCall) -> None:
        super().__init__(call)
        self.retry_after_seconds = call.retry_after_seconds


class UnavailableError(E2RankError):
    """The server or one of its backends cannot be reached now; repeating is safe."""


class DeadlineExceededError(E2RankError):
    """No answer came within the call's timeout."""


class ServerError(E2RankError):
    """A defect of the server, or an answer that this client cannot read."""


_BY_REASON: dict[str, type[E2RankError]] = {
    "INVALID_REQUEST": InvalidRequestError,
    "PROMPT_TOO_LONG": PromptTooLongError,
    "UNKNOWN_MODEL": UnknownModelError,
    "UNKNOWN_DOCUMENTS": UnknownDocumentsError,
    "MODEL_MISMATCH": ModelMismatchError,
    "GENERATOR_MISSING": GeneratorMissingError,
    "GENERATOR_REFUSED": GeneratorRefusedError,
    "QUOTA_EXCEEDED": QuotaExceededError,
    "DATA_LOSS": DataLossError,
    "OVERLOADED": OverloadedError,
    "BACKEND_UNAVAILABLE": UnavailableError,
}
_BY_CODE: dict[grpc.StatusCode, type[E2RankError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.DATA_LOSS: DataLossError,
}


class RpcFailure(Protocol):
    """What `grpc.RpcError` of a sync call and `grpc.aio.AioRpcError` have in common."""

    def code(self) -> grpc.StatusCode:
        """Return the status code."""
        ...

    def details(self) -> str | None:
        """Return the status message."""
        ...

    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """Return the trailers."""
        ...


def from_rpc_failure(failure: RpcFailure) -> E2RankError:
    """Make the error of this tree that a failed RPC stands for."""
    call = _read(failure)
    kind = _BY_REASON.get(call.reason) or _BY_CODE.get(call.code, ServerError)
    # gRPC itself refuses a message that exceeds either side's limit, without details.
    if not call.reason and "larger than max" in call.message:
        kind = MessageTooLargeError
    return kind(call)


def unreadable_answer(problem: str) -> ServerError:
    """Make the error for an answer that breaks the contract."""
    return ServerError(FailedCall(grpc.StatusCode.INTERNAL, f"unreadable answer: {problem}"))


def _read(failure: RpcFailure) -> FailedCall:
    trailers = list(failure.trailing_metadata() or ())
    details = _details(trailers)
    info = _find(details, error_details_pb2.ErrorInfo)
    bad_request = _find(details, error_details_pb2.BadRequest)
    retry = _find(details, error_details_pb2.RetryInfo)
    found = bad_request.field_violations if bad_request else ()
    delay = retry.retry_delay if retry else None
    return FailedCall(
        code=failure.code(),
        message=failure.details() or failure.code().name,
        reason=info.reason if info else "",
        violations=tuple(FieldViolation(v.field, v.description) for v in found),
        retry_after_seconds=delay.seconds + delay.nanos / 1e9 if delay else None,
        request_id=next((str(value) for key, value in trailers if key == REQUEST_ID_KEY), ""),
        metadata=dict(info.metadata) if info else {},
    )


def _number(metadata: Mapping[str, str], name: str) -> int | None:
    value = metadata.get(name, "")
    return int(value) if re.fullmatch("[0-9]{1,20}", value) else None


def _details(trailers: Sequence[tuple[str, str | bytes]]) -> Sequence[Any]:
    """Return the packed details of the richer error model; none if absent or garbled."""
    data = next((value for key, value in trailers if key == STATUS_DETAILS_KEY), b"")
    try:
        status = status_pb2.Status.FromString(data)
    except (DecodeError, TypeError):
        return ()
    return list(status.details)


def _find(details: Sequence[Any], kind: type[_MessageT]) -> _MessageT | None:
    for packed in details:
        message = kind()
        if packed.Is(kind.DESCRIPTOR):
            try:
                packed.Unpack(message)
            except DecodeError:
                return None
            return message
    return None
