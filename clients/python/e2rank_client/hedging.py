"""When a second attempt of a slow call is sent. How it is run is the clients' business.

gRPC's core has no hedging of its own (gRFC A6, `hedgingPolicy`).
"""

from __future__ import annotations

import time

from e2rank_client.errors import E2RankError, OverloadedError, UnavailableError

_DEFAULT_PAUSE_SECONDS = 1.0


class Hedging:
    """Decides whether a call may be hedged, and when.

    After an OVERLOADED answer there are no second attempts for as long as the
    server asked to be left alone: doubling what is too much helps nobody.

    Args:
        after_seconds: How long to wait for the first attempt; None is never to hedge.

    Raises:
        ValueError: `after_seconds` is not positive.
    """

    def __init__(self, after_seconds: float | None) -> None:
        if after_seconds is not None and not after_seconds > 0:
            raise ValueError(f"hedge_after_seconds is {after_seconds}, not positive")
        self._after_seconds = after_seconds
        self._paused_until = 0.0

    def delay_seconds(self) -> float | None:
        """Return how long a call that starts now waits; None if it is not to be hedged."""
        if self._after_seconds is None or time.monotonic() < self._paused_until:
            return None
        return self._after_seconds

    def learn(self, error: E2RankError) -> None:
        """Take notice of a failed call, hedged or not."""
        if isinstance(error, OverloadedError):
            asked = error.retry_after_seconds
            pause = _DEFAULT_PAUSE_SECONDS if asked is None else asked
            self._paused_until = max(self._paused_until, time.monotonic() + pause)


def decides(error: E2RankError) -> bool:
    """Whether one attempt's error ends the call, whatever another attempt may bring."""
    return not isinstance(error, OverloadedError | UnavailableError)
