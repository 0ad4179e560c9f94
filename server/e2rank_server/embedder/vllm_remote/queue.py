"""Prompts that no replica has yet: what a caller gives up while it is here never computes."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field

from e2rank_server.embedder.protocol import EmbedderPrompt
from e2rank_server.types import FloatArray


@dataclass(slots=True, eq=False)
class WaitingPrompt:
    """One prompt on its way to a vector; its caller leaves by cancelling `vector`."""

    prompt: EmbedderPrompt
    priority: int
    vector: asyncio.Future[FloatArray]
    """float32 [dimension]."""
    tried: frozenset[object] = frozenset()
    """Replicas that failed with it."""
    num_attempts: int = 0
    is_alone: bool = False
    """Whether it goes in a request of its own, since one with others was refused."""
    arrival: int = field(default=-1)

    @property
    def num_tokens(self) -> int:
        """Count its tokens."""
        return len(self.prompt.token_ids)

    def may_share(self, other: WaitingPrompt) -> bool:
        """Say whether both may be in one request; a span is a request of its own."""
        return (
            not (self.is_alone or other.is_alone)
            and self.prompt.pooling_span is None
            and other.prompt.pooling_span is None
            and self.priority == other.priority
            and self.tried == other.tried
        )


class PromptQueue:
    """Waiting prompts by priority (lower first), then in order of arrival."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, WaitingPrompt]] = []
        self._arrivals = itertools.count()
        self._num_left = 0

    def __len__(self) -> int:
        """Count the prompts whose callers wait."""
        return len(self._heap) - self._num_left

    def push(self, prompt: WaitingPrompt) -> None:
        """Add a prompt; one that was here before takes its old place."""
        if prompt.arrival < 0:
            prompt.arrival = next(self._arrivals)
        heapq.heappush(self._heap, (prompt.priority, prompt.arrival, prompt))

    def head(self) -> WaitingPrompt | None:
        """Return the next prompt whose caller still waits, and leave it here."""
        while self._heap:
            prompt = self._heap[0][2]
            if not prompt.vector.done():
                return prompt
            heapq.heappop(self._heap)
            self._num_left = max(0, self._num_left - 1)
        return None

    def take(self, max_prompts: int, max_tokens: int) -> list[WaitingPrompt]:
        """Remove the head and those right behind it that may share a request with it.

        The head comes whatever its length.
        """
        batch: list[WaitingPrompt] = []
        num_tokens = 0
        while (prompt := self.head()) is not None and len(batch) < max_prompts:
            num_tokens += prompt.num_tokens
            if batch and (num_tokens > max_tokens or not batch[0].may_share(prompt)):
                break
            heapq.heappop(self._heap)
            batch.append(prompt)
        return batch

    def note_left(self, num_prompts: int) -> None:
        """Learn that callers of so many prompts in here have left, so as not to keep them long."""
        self._num_left += num_prompts
        if self._num_left > len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if not entry[2].vector.done()]
            heapq.heapify(self._heap)
            self._num_left = 0
