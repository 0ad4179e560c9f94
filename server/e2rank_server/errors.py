"""Everything that can go wrong in a request, as one tree that knows nothing of gRPC.

    E2RankError
    ├── InvalidRequestError       the caller must change the request
    │   └── PromptTooLongError    its listwise prompt cannot be made to fit
    ├── UnknownModelError         no profile of that name is served
    ├── UnknownDocumentsError     no documents of those ids are stored
    ├── ModelMismatchError        a vector was made by another model
    ├── GeneratorMissingError     LLM_LISTWISE was asked of a server without an LLM
    ├── GeneratorRefusedError     the LLM's endpoint refuses such calls for good
    ├── QuotaExceededError        a namespace is full
    ├── DataLossError             a stored document is damaged: put it again
    ├── OverloadedError           try again later, not at once
    ├── UnavailableError          a backend is away; safe to retry
    └── ConfigurationError        the server cannot start as it was asked to

`gateway/status.py` maps them to gRPC statuses in one table. Whatever is not in
this tree is a defect and reaches callers as INTERNAL without its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class E2RankError(Exception):
    """Base of all errors that callers may see.

    `reason` is the stable UPPER_SNAKE name that programs branch on
    (google.rpc.ErrorInfo.reason, AIP-193); the message is for people.
    """

    reason = "INTERNAL"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One thing wrong with one field: `field` is a path such as `documents[3].text`."""

    field: str
    description: str


class InvalidRequestError(E2RankError):
    """The request breaks a rule; `violations` has every breach that was found."""

    reason = "INVALID_REQUEST"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        if not violations:
            raise ValueError("an InvalidRequestError needs a violation")
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))

    @classmethod
    def of(cls, field: str, description: str) -> InvalidRequestError:
        """Make the error for a single violation."""
        return cls([FieldViolation(field, description)])


class PromptTooLongError(InvalidRequestError):
    """The listwise prompt does not fit the model, however its documents are cut."""

    reason = "PROMPT_TOO_LONG"


class UnknownModelError(E2RankError):
    """The request names a profile that this server does not serve."""

    reason = "UNKNOWN_MODEL"

    def __init__(self, model: str, served: Sequence[str]) -> None:
        self.model = model
        super().__init__(f"no model {model!r} is served here; served: {', '.join(served)}")


class UnknownDocumentsError(E2RankError):
    """The request names documents by ids that are not stored; `violations` says which."""

    reason = "UNKNOWN_DOCUMENTS"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in self.violations))


class ModelMismatchError(E2RankError):
    """A caller's vector was made by another model than the one asked to use it."""

    reason = "MODEL_MISMATCH"

    def __init__(self, field: str, found: str, expected: str) -> None:
        self.field = field
        super().__init__(
            f"{field}: the vector's model_fingerprint is {found!r}, "
            f"but this model's fingerprint is {expected!r}"
        )


class GeneratorMissingError(E2RankError):
    """The request's method needs an LLM, and this server has none."""

    reason = "GENERATOR_MISSING"

    def __init__(self) -> None:
        super().__init__(
            "the method LLM_LISTWISE needs a generator, and this server was started without one "
            "(--generator-model)"
        )


class GeneratorRefusedError(E2RankError):
    """What runs the LLM refuses a call in a way that repeating it will not change."""

    reason = "GENERATOR_REFUSED"

    def __init__(self, message: str) -> None:
        super().__init__(f"generator: {message}")


class QuotaExceededError(E2RankError):
    """Putting the documents would exceed their namespace's quota."""

    reason = "QUOTA_EXCEEDED"

    def __init__(
        self, namespace: str, stored_bytes: int, needed_bytes: int, max_bytes: int
    ) -> None:
        self.namespace = namespace
        self.stored_bytes = stored_bytes
        self.needed_bytes = needed_bytes
        self.max_bytes = max_bytes
        super().__init__(
            f"namespace {namespace!r} holds {stored_bytes} bytes and its quota is {max_bytes}; "
            f"{needed_bytes} more do not fit"
        )


class DataLossError(E2RankError):
    """Stored bytes fail their checksum; putting the document again repairs it.

    `document_id` is None when it is the namespace's own record.
    """

    reason = "DATA_LOSS"

    def __init__(self, namespace: str, document_id: str | None) -> None:
        self.namespace = namespace
        self.document_id = document_id
        what = "record" if document_id is None else f"document {document_id!r}"
        super().__init__(f"the {what} of namespace {namespace!r} is damaged in the document store")


class OverloadedError(E2RankError):
    """The server has as much work as it accepts; `retry_after_seconds` is its estimate."""

    reason = "OVERLOADED"

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class UnavailableError(E2RankError):
    """A backend (say `embedder` or `document_store`) cannot answer now and is expected back."""

    reason = "BACKEND_UNAVAILABLE"

    def __init__(self, backend: str, message: str) -> None:
        self.backend = backend
        super().__init__(f"{backend}: {message}")


class ConfigurationError(E2RankError):
    """The server cannot start: `problems` lists everything wrong, one line each."""

    reason = "CONFIGURATION"

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))
