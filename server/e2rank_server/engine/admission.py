"""The second gate: how much work may be handed to a model at once.

The first one (gateway/interceptors.py) counts requests; this one counts tokens,
since one request can be a hundred times another. A permit is taken after the
cache look-up, when the work is known, and before tokenization.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from e2rank_server.errors import OverloadedError

# English prose has 4 to 5 bytes a token in the vocabularies that are served, so
# this errs on the side of more work.
_BYTES_PER_TOKEN = 3
_SMOOTHING = 0.2
_MIN_RETRY_SECONDS = 0.1


def estimate_tokens(num_bytes: int, max_tokens: int) -> int:
    """Estimate the tokens of so many bytes of UTF-8, cut to `max_tokens`, without tokenizing."""
    return min(num_bytes // _BYTES_PER_TOKEN + 1, max_tokens)


class _Waiting(NamedTuple):
    """Work in the queue, in the order in which it is compared; no two arrivals are equal."""

    priority: int
    arrival: int
    cost: int
    limit: int
    turn: asyncio.Future[None]


class Permit:
    """Leave to have so many tokens of work done; `waited_seconds` is how long it took to get."""

    def __init__(
        self, waited_seconds: float, tokens: int, give_back: Callable[[int], None]
    ) -> None:
        self.waited_seconds = waited_seconds
        self._tokens = tokens
        self._give_back = give_back

    def reduce_to(self, tokens: int) -> None:
        """Give back what turned out not to be needed; without effect if that is nothing."""
        if tokens < self._tokens:
            excess, self._tokens = self._tokens - tokens, tokens
            self._give_back(excess)


class WorkGate:
    """Admits estimated tokens of work up to a bound; the rest waits, up to another.

    Waiting work is admitted by priority (lower first), then in order of arrival.
    Work may be told to leave a part of the bound to others.
    """

    def __init__(self, max_running_tokens: int, max_waiting_tokens: int) -> None:
        self._max_running = max_running_tokens
        self._max_waiting = max_waiting_tokens
        self._running = 0
        self._waiting = 0
        self._queue: list[_Waiting] = []
        self._arrivals = itertools.count()
        self._typical_seconds = _MIN_RETRY_SECONDS

    @property
    def running_tokens(self) -> int:
        """Tokens of admitted work that has not ended."""
        return self._running

    @property
    def waiting_tokens(self) -> int:
        """Tokens of work that waits."""
        return self._waiting

    @asynccontextmanager
    async def admit(
        self, tokens: int, priority: int = 0, *, share: float = 1.0
    ) -> AsyncIterator[Permit]:
        """Hold a permit for the duration of the block.

        It is given while the running tokens stay within `share` of the bound;
        work larger than that counts as that much.

        Raises:
            OverloadedError: too much is waiting already.
        """
        limit = int(self._max_running * share)
        cost = min(tokens, limit)
        arrived = time.monotonic()
        await self._acquire(cost, limit, priority)
        admitted = time.monotonic()
        permit = Permit(admitted - arrived, cost, self._release)
        try:
            yield permit
        finally:
            held = time.monotonic() - admitted
            self._typical_seconds += _SMOOTHING * (held - self._typical_seconds)
            permit.reduce_to(0)

    async def _acquire(self, cost: int, limit: int, priority: int) -> None:
        is_next = not self._queue or priority < self._queue[0].priority
        if is_next and self._running + cost <= limit:
            self._running += cost
            return
        if self._waiting + cost > self._max_waiting:
            raise OverloadedError(
                f"{self._waiting} tokens of work are waiting and {cost} more would exceed the "
                f"limit of {self._max_waiting}",
                retry_after_seconds=max(self._typical_seconds, _MIN_RETRY_SECONDS),
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, _Waiting(priority, next(self._arrivals), cost, limit, turn))
        self._waiting += cost
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting -= cost
                self._admit_waiting()
            else:
                self._release(cost)  # admitted in the moment of leaving
            raise

    def _release(self, cost: int) -> None:
        self._running -= cost
        self._admit_waiting()

    def _admit_waiting(self) -> None:
        while self._queue:
            first = self._queue[0]
            if not first.turn.cancelled():
                if self._running + first.cost > first.limit:
                    return
                self._running += first.cost
                self._waiting -= first.cost
                first.turn.set_result(None)
            heapq.heappop(self._queue)
