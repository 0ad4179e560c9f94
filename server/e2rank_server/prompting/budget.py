"""Where to cut: pure functions on lengths, words and token offsets."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import itemgetter
from typing import TypeAlias

Offsets: TypeAlias = Sequence[tuple[int, int]]
"""Of each token, the half-open range of characters that it came from."""


def water_level(lengths: Sequence[int], available: int) -> int:
    """Return the largest level for which sum(min(length, level)) <= available.

    At most the largest length; 0 or less than one each does not fit. Short
    documents stay whole, and long ones share what they leave.
    """
    remaining = available
    ascending = sorted(length for length in lengths if length > 0)
    for position, length in enumerate(ascending):
        sharers = len(ascending) - position
        if length * sharers > remaining:
            return max(remaining // sharers, 0)
        remaining -= length
    return ascending[-1] if ascending else 0


def cut_words(text: str, max_words: int | None) -> tuple[str, bool]:
    """Keep the first words, joined by single spaces, and say whether any were dropped.

    The rule of E2Rank's evaluation code, `" ".join(text.split()[:n])`: white
    space collapses even where nothing is dropped. None leaves the text alone.
    """
    if max_words is None:
        return text, False
    words = text.split(None, max_words)
    if len(words) > max_words:
        return " ".join(words[:max_words]), True
    return " ".join(words), False


def cut_position(offsets: Offsets, keep: int) -> int:
    """Return where to cut a text so that the first `keep` of its tokens remain, or a bit less.

    A character whose bytes lie in several tokens (an emoji in byte-level BPE)
    is dropped if not all of them are kept. `keep` is less than the number of tokens.
    """
    next_start = offsets[keep][0]
    return min(offsets[keep - 1][1], next_start) if keep > 0 else next_start


def overlapping(offsets: Offsets, start: int, end: int) -> tuple[int, int]:
    """Return the half-open range of tokens that came from the characters `start` to `end`."""
    first = bisect_right(offsets, start, key=itemgetter(1))
    if start == end:
        return first, first
    return first, max(first, bisect_left(offsets, end, key=itemgetter(0)))
