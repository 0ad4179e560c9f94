"""Keys and vectors for as many entries as wanted, made from their numbers when they are needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from e2rank_server.embedding_cache.keys import KEY_BYTES
from e2rank_server.types import FloatArray

_WORDS = KEY_BYTES // 8


def keys_of(numbers: NDArray[np.int64]) -> list[bytes]:
    """Return a key for each number, as evenly spread as a hash: splitmix64 of it, word by word."""
    state = numbers.astype(np.uint64)[:, np.newaxis] * np.uint64(_WORDS)
    state = (state + np.arange(1, _WORDS + 1, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return [row.tobytes() for row in state ^ (state >> np.uint64(31))]


def unit_vectors(count: int, dimension: int) -> FloatArray:
    """Return random directions, float32 [count, dimension]; always the same."""
    vectors = np.random.default_rng(0).standard_normal((count, dimension), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
