"""Stops asking what keeps failing, and finds out by itself when it is back."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum

logger = logging.getLogger(__name__)


class BreakerState(StrEnum):
    """Whether calls are made."""

    CLOSED = "CLOSED"
    """All are."""
    OPEN = "OPEN"
    """None is until the pause is over."""
    HALF_OPEN = "HALF_OPEN"
    """The pause is over: one call has been let through, and its outcome decides."""


class CircuitBreaker:
    """Opens after `max_failures` in a row within `window_seconds`.

    In a row, because a rate would have a busy replica open on the slowest
    thousandth of its calls. While open it lets one call through at the end of
    each pause; that one's success closes it, its failure doubles the pause. An
    outcome that nobody reports (a caller that left) only costs another pause.
    Outcomes of calls made before it opened say nothing new and are ignored.
    The clock is monotonic: setting the time of day changes nothing.
    """

    def __init__(
        self,
        name: str,
        *,
        max_failures: int = 5,
        window_seconds: float = 10.0,
        pause_seconds: float = 0.25,
        max_pause_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._window_seconds = window_seconds
        self._first_pause_seconds = self._pause_seconds = pause_seconds
        self._max_pause_seconds = max_pause_seconds
        self._clock = clock
        self._failures: deque[float] = deque(maxlen=max_failures)
        self._state = BreakerState.CLOSED
        self._pause_ends = 0.0

    @property
    def state(self) -> BreakerState:
        """Whether calls are made now."""
        return self._state

    @property
    def remaining_seconds(self) -> float:
        """How long no call is made from now on; 0 if the next one may be."""
        if self._state is BreakerState.CLOSED:
            return 0.0
        return max(0.0, self._pause_ends - self._clock())

    def allows(self) -> bool:
        """Return whether to make a call now; its outcome is to be reported."""
        if self._state is BreakerState.CLOSED:
            return True
        now = self._clock()
        if now < self._pause_ends:
            return False
        self._state = BreakerState.HALF_OPEN
        self._pause_ends = now + self._pause_seconds
        return True

    def succeeded(self) -> None:
        """Report a call that went well."""
        if self._state is BreakerState.OPEN:
            return
        self._failures.clear()
        if self._state is BreakerState.HALF_OPEN:
            self._state = BreakerState.CLOSED
            self._pause_seconds = self._first_pause_seconds
            logger.warning("%s is back", self._name)

    def failed(self, reason: str) -> None:
        """Report a call that did not, and why."""
        now = self._clock()
        if self._state is BreakerState.CLOSED:
            self._failures.append(now)
            is_full = len(self._failures) == self._failures.maxlen
            if is_full and now - self._failures[0] <= self._window_seconds:
                self._open(now)
                logger.warning(
                    "%s is away (%s), not asking for %g s", self._name, reason, self._pause_seconds
                )
        elif self._state is BreakerState.HALF_OPEN:
            self._pause_seconds = min(2 * self._pause_seconds, self._max_pause_seconds)
            self._open(now)
            logger.info("%s is still away (%s)", self._name, reason)

    def _open(self, now: float) -> None:
        self._state = BreakerState.OPEN
        self._pause_ends = now + self._pause_seconds
