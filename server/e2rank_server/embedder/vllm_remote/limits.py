"""How much is asked of a replica at once, and how long it is left alone after a failure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteLimits:
    """Small requests: what is cancelled while it waits here costs the replicas nothing.

    A replica gets no more than `max_outstanding_tokens` and `max_connections`
    requests at once, each of at most `max_request_prompts` prompts and
    `max_request_tokens` tokens; a single prompt may exceed the tokens. That is
    enough to keep vLLM's batches full. One more connection watches it. After
    its n-th failure in a row it rests for `first_rest_seconds` x 2^(n-1), at
    most `max_rest_seconds`.

    What was sent and is cancelled goes on for the step that the engine is
    computing. Measured with 60,000 tokens of all-MiniLM-L6-v2 cancelled after
    .3 to 1.1 s (vLLM 0.32, two cores, steps of 2,048 tokens): 3,000 to 3,600
    tokens' worth of processor time went on, and a new prompt was answered after
    .26 to .44 s. A check of a new connection took .06 s there.
    """

    max_outstanding_tokens: int = 16384
    max_connections: int = 8
    max_request_prompts: int = 16
    max_request_tokens: int = 2048
    request_timeout_seconds: float = 120.0
    health_interval_seconds: float = 2.0
    first_rest_seconds: float = 0.5
    max_rest_seconds: float = 10.0

    def rest_seconds(self, num_failures: int) -> float:
        """Return how long to rest after so many failures in a row, at least one."""
        doublings = min(num_failures - 1, 32)
        return min(self.max_rest_seconds, self.first_rest_seconds * 2.0**doublings)
