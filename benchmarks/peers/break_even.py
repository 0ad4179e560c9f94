"""The hit rate from which on a rerank is as fast as a cross-encoder."""

from __future__ import annotations

from collections.abc import Mapping


def break_even_hit_rate(seconds: Mapping[float, float], other_seconds: float) -> float | None:
    """Return the lowest hit rate at which a rerank takes no longer than `other_seconds`.

    Args:
        seconds: What a rerank takes at some hit rates, those between which it is
            taken to be linear: a miss costs the pass of one document.
        other_seconds: What the cross-encoder takes at every hit rate.

    Returns:
        0.0 if it is as fast without any hit; None if it is not even at the highest rate.
    """
    points = sorted(seconds.items())
    rate, above = points[0]
    if above <= other_seconds:
        return rate
    for next_rate, below in points[1:]:
        if below <= other_seconds:
            return rate + (next_rate - rate) * (above - other_seconds) / (above - below)
        rate, above = next_rate, below
    return None
