"""An embedder without a model: a signed hash of the tokens, the same everywhere.

Serves `--embedder fake`, for tests of clients, and the project's own fast tests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2rank_server.embedder.protocol import EmbedderPrompt
from e2rank_server.embedder.validation import check_prompts
from e2rank_server.errors import UnavailableError
from e2rank_server.types import EmbedderBackend, FloatArray, TokenIds

# Each token marks this many elements of its vector, each with a sign.
_MARKS = 8
_MAX_RECORDED_CALLS = 1000


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """What one call of `FakeEmbedder.embed` was given."""

    prompts: tuple[EmbedderPrompt, ...]
    priority: int


class FakeEmbedder:
    """Embeds a prompt as the normalised sum of its tokens' hashed vectors.

    Prompts that share tokens have a higher cosine than prompts that do not.
    Token order does not matter; a `pooling_span` leaves out the tokens outside
    it. Tests steer it: `is_available` False makes every call raise
    UnavailableError, `error` makes `embed` raise it, and between `hold()` and
    `release()` calls of `embed` wait.
    """

    backend = EmbedderBackend.FAKE
    compute_dtype = "float32"

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.is_available = True
        self.error: Exception | None = None
        self.calls: deque[RecordedCall] = deque(maxlen=_MAX_RECORDED_CALLS)
        """The latest calls of `embed`, oldest first."""
        self.num_running_prompts = 0
        self.num_aborted_prompts = 0
        self._open = asyncio.Event()
        self._open.set()

    def hold(self) -> None:
        """Let calls of `embed` wait until `release`."""
        self._open.clear()

    def release(self) -> None:
        """Let waiting and later calls of `embed` go on."""
        self._open.set()

    async def embed(self, prompts: Sequence[EmbedderPrompt], *, priority: int = 0) -> FloatArray:
        """See `Embedder.embed`. All prompts run at once, whatever their priority."""
        check_prompts(prompts)
        self.calls.append(RecordedCall(tuple(prompts), priority))
        self.num_running_prompts += len(prompts)
        try:
            await self._open.wait()
        except asyncio.CancelledError:
            self.num_aborted_prompts += len(prompts)
            raise
        finally:
            self.num_running_prompts -= len(prompts)
        await self.check_health()
        if self.error is not None:
            raise self.error
        vectors = np.empty((len(prompts), self.dimension), np.float32)
        for row, prompt in enumerate(prompts):
            vectors[row] = self._vector(prompt)
        return vectors

    async def check_health(self) -> None:
        """See `Embedder.check_health`."""
        if not self.is_available:
            raise UnavailableError("embedder", "the fake was told to be away")

    def _vector(self, prompt: EmbedderPrompt) -> FloatArray:
        start, stop = prompt.pooling_span or (0, len(prompt.token_ids))
        hashes = _hash_marks(prompt.token_ids[start:stop])
        signs = np.where(hashes & np.uint64(1), 1.0, -1.0)
        positions = (hashes >> np.uint64(1)) % np.uint64(self.dimension)
        vector = np.bincount(positions.astype(np.intp), signs, self.dimension)
        if not vector.any():  # every mark met its opposite
            vector[0] = 1.0
        return (vector / np.linalg.norm(vector)).astype(np.float32)


def _hash_marks(token_ids: TokenIds) -> NDArray[np.uint64]:
    """Hash each token id `_MARKS` times: uint64 [tokens * _MARKS] (splitmix64's finaliser)."""
    numbers = token_ids.astype(np.uint64)[:, None] * np.uint64(_MARKS) + np.arange(
        1, _MARKS + 1, dtype=np.uint64
    )
    hashes = numbers.ravel() * np.uint64(0x9E3779B97F4A7C15)
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: NDArray[np.uint64] = hashes ^ (hashes >> np.uint64(31))
    return result
