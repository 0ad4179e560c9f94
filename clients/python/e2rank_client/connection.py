"""What both clients are made from, checked, and how long they wait."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from e2rank_client import errors
from e2rank_client.addresses import target_of
from e2rank_client.channel import ChannelOptions, channel_options
from e2rank_client.hedging import Hedging
from e2rank_client.metadata import CallMetadata, Token

DEFAULT_TIMEOUT_SECONDS = 60.0
"""Long enough for a cold rerank of many documents on a CPU."""

DEFAULT_ATTEMPTS = 4

_READINESS_PAUSE_SECONDS = 0.1
_SERVER_NAME_OPTION = "grpc.ssl_target_name_override"


class Connection:
    """A client's settings; its repr and errors show no token.

    `options` are those of the channel for requests, which go to healthy servers
    only; `health_options` those of the channel that asks any server how it is.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        timeout_seconds: float,
        token: Token | None,
        metadata: Mapping[str, str] | None,
        max_attempts: int,
        hedge_after_seconds: float | None,
        health_service: str | None,
        own_options: ChannelOptions,
    ) -> None:
        self.target = target_of(address)
        if not isinstance(address, str) and _SERVER_NAME_OPTION not in dict(own_options):
            # A list has no name of its own to send, and to look for in certificates.
            own_options = [("grpc.default_authority", address[0]), *own_options]
        self.timeout_seconds = _checked(timeout_seconds)
        self.metadata = CallMetadata(token, metadata or {})
        self.hedging = Hedging(hedge_after_seconds)
        self.health_service = health_service or ""
        self.options = channel_options(max_attempts, health_service, own_options)
        # What is asked is how things are now, so that is not repeated.
        self.health_options = channel_options(1, None, own_options)

    def deadline(self, timeout_seconds: float | None) -> Deadline:
        """Start the time of a call; None means the client's default.

        Raises:
            ValueError: It is not positive and finite.
        """
        if timeout_seconds is None:
            return Deadline(self.timeout_seconds)
        return Deadline(_checked(timeout_seconds))

    def failed(self, failure: Any) -> errors.E2RankError:  # noqa: ANN401 - grpc's errors have no common type that is a call, too
        """Return the error that a failed RPC stands for."""
        error = errors.from_rpc_failure(failure)
        self.hedging.learn(error)
        return error


class Deadline:
    """When to give up waiting."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._end = time.monotonic() + timeout_seconds

    def remaining_seconds(self) -> float:
        """Return what is left, a millisecond at least."""
        return max(self._end - time.monotonic(), 0.001)

    def pause_seconds(self, last: str) -> float:
        """Return how long to wait before asking again.

        Raises:
            DeadlineExceededError: There is no time for it.
        """
        if self.remaining_seconds() <= _READINESS_PAUSE_SECONDS:
            raise self.exceeded(last)
        return _READINESS_PAUSE_SECONDS

    def exceeded(self, last: str) -> errors.DeadlineExceededError:
        """Return the error for a server that is not ready in time."""
        message = f"not ready within {self._timeout_seconds:g} s; last answer: {last}"
        return errors.DeadlineExceededError(
            errors.FailedCall(grpc.StatusCode.DEADLINE_EXCEEDED, message)
        )


def _checked(timeout_seconds: float) -> float:
    if not 0 < timeout_seconds < math.inf:
        raise ValueError(f"timeout_seconds is {timeout_seconds}, not positive and finite")
    return timeout_seconds
