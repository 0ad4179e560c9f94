"""One vLLM server: its connections, what it has to do, and whether it is to be used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum

from e2rank_server.embedder.protocol import EmbedderPrompt
from e2rank_server.embedder.vllm_remote.address import Address
from e2rank_server.embedder.vllm_remote.connection import Connection
from e2rank_server.embedder.vllm_remote.failure import FailureReason, ReplicaError
from e2rank_server.embedder.vllm_remote.lane import Expectation, Lane
from e2rank_server.embedder.vllm_remote.limits import RemoteLimits
from e2rank_server.types import FloatArray

logger = logging.getLogger(__name__)


class ReplicaState(StrEnum):
    """What a replica may be asked."""

    CONNECTING = "CONNECTING"
    """Nothing yet: it has not been reached and checked."""
    READY = "READY"
    PROBATION = "PROBATION"
    """One request at a time: it failed, passed the identity check again, and has answered none."""
    EJECTED = "EJECTED"
    """Nothing, until it has rested and passed the identity check."""
    CLOSED = "CLOSED"
    """Nothing any more: this server is stopping."""


class Replica:
    """Answers requests over a bounded number of lanes; `supervise` decides when it may.

    `on_change` is called, without arguments, whenever it may take more or less.
    """

    def __init__(
        self,
        address: Address,
        api_key: str | None,
        expectation: Expectation,
        limits: RemoteLimits,
        on_change: Callable[[], None],
    ) -> None:
        self.state = ReplicaState.CONNECTING
        self.outstanding_tokens = 0
        self.num_requests = 0
        """Requests sent so far."""
        self._address = address
        self._api_key = api_key
        self._expectation = expectation
        self._limits = limits
        self._on_change = on_change
        self._lanes: list[Lane] = []
        self._free_lanes: list[Lane] = []
        self._num_running = 0
        self._is_on_trial = False
        self._failure: ReplicaError | None = None
        self._num_failures = 0
        self._ejected = asyncio.Event()

    @property
    def is_usable(self) -> bool:
        """Whether it takes requests, now or when those that it has are done."""
        return self.state in (ReplicaState.READY, ReplicaState.PROBATION)

    def room_tokens(self, num_tokens: int) -> int:
        """Return how many tokens it takes now: 0 if not even so many."""
        if not self.is_usable or self._num_running >= self._limits.max_connections:
            return 0
        if self.state is ReplicaState.PROBATION and self._is_on_trial:
            return 0
        if self.outstanding_tokens == 0:
            return max(self._limits.max_outstanding_tokens, num_tokens)
        room = self._limits.max_outstanding_tokens - self.outstanding_tokens
        return room if room >= num_tokens else 0

    def describe(self) -> str:
        """Say in one line how it is."""
        if self._failure is None or self.is_usable:
            return f"{self._address.shown} is {self.state}"
        return f"{self._address.shown} is {self.state} ({self._failure})"

    def reserve(self, num_tokens: int) -> None:
        """Take room for a request, from now until `release`."""
        self._is_on_trial = self.state is ReplicaState.PROBATION
        self._num_running += 1
        self.num_requests += 1
        self.outstanding_tokens += num_tokens

    def release(self, num_tokens: int) -> None:
        """Give back what `reserve` took."""
        self._is_on_trial = False
        self._num_running -= 1
        self.outstanding_tokens -= num_tokens

    async def embed(self, prompts: Sequence[EmbedderPrompt], priority: int) -> FloatArray:
        """See `Lane.embed`. A failure ejects the replica; a success ends its probation."""
        try:
            async with self._lane() as lane:
                vectors = await lane.embed(prompts, priority)
        except ReplicaError as error:
            self._eject(error)
            raise
        if self.state is ReplicaState.PROBATION:
            self._num_failures = 0
            self._change(ReplicaState.READY)
        return vectors

    async def supervise(self) -> None:
        """Connect, watch, and bring back after failures; runs until it is cancelled."""
        while True:
            try:
                async with self._lane() as lane:
                    lane.forget()
                    await lane.verify()
            except ReplicaError as error:
                self._note_failed_check(error)
            except Exception as error:
                # A defect must not leave a replica that nobody looks after.
                logger.exception("checking %s failed", self._address.shown)
                self._note_failed_check(ReplicaError(FailureReason.NONSENSE, repr(error)))
            else:
                is_new = self.state is ReplicaState.CONNECTING
                self._ejected.clear()
                self._change(ReplicaState.READY if is_new else ReplicaState.PROBATION)
                await self._watch()
            await asyncio.sleep(self._limits.rest_seconds(self._num_failures))

    async def close(self) -> None:
        """Close all connections."""
        for lane in tuple(self._lanes):
            await lane.close()

    async def _watch(self) -> None:
        """Return when it is ejected: by a request, or because its engine does not live."""
        while not self._ejected.is_set():
            try:
                async with asyncio.timeout(self._limits.health_interval_seconds):
                    await self._ejected.wait()
            except TimeoutError:
                await self._check_health()

    async def _check_health(self) -> None:
        if not self._free_lanes:
            return  # all are busy, and will answer or time out
        try:
            async with self._lane() as lane:
                await lane.check_health()
        except ReplicaError as error:
            self._eject(error)

    def _eject(self, error: ReplicaError) -> None:
        """Give it no more; what else it is doing ends or fails by itself."""
        if not self.is_usable:
            return
        self._failure = error
        self._num_failures += 1
        for lane in self._lanes:
            lane.forget()
        self._ejected.set()
        self._change(ReplicaState.EJECTED)

    def _note_failed_check(self, error: ReplicaError) -> None:
        """Keep it from use; the log has what is new."""
        is_new = self._failure is None or self._failure.reason is not error.reason
        self._failure = error
        self._num_failures += 1
        if is_new:
            self._change(self.state)

    def _change(self, state: ReplicaState) -> None:
        self.state = state
        level = logging.INFO if self.is_usable else logging.WARNING
        logger.log(level, "vLLM for %s: %s", self._expectation.profile.name, self.describe())
        self._on_change()

    @asynccontextmanager
    async def _lane(self) -> AsyncIterator[Lane]:
        """Borrow a lane: the one used last, whose connection is the least likely to be gone.

        One that failed is closed: behind a load balancer, it leads to a server
        that another connection may not lead to.
        """
        lane = self._free_lanes.pop() if self._free_lanes else self._new_lane()
        try:
            yield lane
        except ReplicaError:
            self._lanes.remove(lane)
            await lane.close()
            raise
        except BaseException:
            self._free_lanes.append(lane)
            raise
        self._free_lanes.append(lane)

    def _new_lane(self) -> Lane:
        seconds = self._limits.request_timeout_seconds
        lane = Lane(Connection(self._address, self._api_key, seconds), self._expectation)
        self._lanes.append(lane)
        return lane
