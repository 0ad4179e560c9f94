"""The schedule of windows over a list that is too long for one prompt."""

from __future__ import annotations


def windows(num_documents: int, window_size: int, stride: int) -> list[range]:
    """Return the positions of each window, last documents first (RankGPT, arXiv:2304.09542).

    Positions are those of the order at the time of the call, so that a window
    moves its best documents into the reach of the next one. The first window
    that begins at 0 is the last, smaller than the others if it has to be
    (rank_llm's rule): 100 documents in windows of 20 with stride 10 are 9 calls.

    Raises ValueError unless 2 <= window_size and 1 <= stride <= window_size.
    """
    if window_size < 2:
        raise ValueError(f"window_size: {window_size} is less than 2")
    if not 1 <= stride <= window_size:
        raise ValueError(f"stride: {stride} is not within 1 and window_size, {window_size}")
    schedule: list[range] = []
    end = num_documents
    while end > 0:
        start = max(end - window_size, 0)
        schedule.append(range(start, end))
        if start == 0:
            break
        end -= stride
    return schedule
