"""What runs first among passes of requests that have the same priority."""

from __future__ import annotations

from enum import IntEnum


class Urgency(IntEnum):
    """Who waits for a pass, the most urgent first.

    Without it a prompt would stand in the model's queue behind every document
    of a bulk Embed that came a moment before.
    """

    PROMPT = 0
    """A query or listwise prompt: one pass, and a caller who can do nothing without it."""
    CANDIDATES = 1
    """Documents that a rerank needs, or a few texts."""
    BATCH = 2
    """Texts by the hundred: throughput is what counts."""


def pass_priority(priority: int, urgency: Urgency) -> int:
    """Return the priority of a pass within a request of `priority`; lower runs earlier."""
    return priority * len(Urgency) + urgency
