"""What can be wrong with a replica, and with a request."""

from __future__ import annotations

from enum import StrEnum


class FailureReason(StrEnum):
    """Why a replica is not used."""

    UNREACHABLE = "UNREACHABLE"
    """No connection: refused, no such host, a certificate that is not accepted."""
    DISCONNECTED = "DISCONNECTED"
    """The connection broke before the answer was complete."""
    TIMED_OUT = "TIMED_OUT"
    SERVER_ERROR = "SERVER_ERROR"
    """HTTP 5xx, 408 or 429."""
    UNAUTHORIZED = "UNAUTHORIZED"
    """HTTP 401 or 403: the API key is wrong or missing."""
    NONSENSE = "NONSENSE"
    """An answer of the wrong size or kind, or with vectors that are zero or not finite."""
    WRONG_MODEL = "WRONG_MODEL"
    """It serves no model of the profile's name, or cannot do with it what the profile needs."""
    TOO_SHORT = "TOO_SHORT"
    """It takes fewer tokens than the profile says."""
    WRONG_VECTORS = "WRONG_VECTORS"
    """Its vectors of the probes are not those of the fingerprint."""
    UNSTEADY = "UNSTEADY"
    """It closes its connections too soon for an answer to be attributed to a checked one."""


class ReplicaError(Exception):
    """A replica cannot be used; another may answer the same request."""

    def __init__(self, reason: FailureReason, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


class RefusedError(Exception):
    """A healthy replica refuses a request (HTTP 4xx): a defect of this program."""
