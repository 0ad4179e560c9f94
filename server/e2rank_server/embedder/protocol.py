"""The embedder seam: token ids in, vectors out, for one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from e2rank_server.types import EmbedderBackend, FloatArray, TokenIds


@dataclass(frozen=True, slots=True)
class EmbedderPrompt:
    """One sequence to embed.

    `pooling_span` None pools as the model does (LAST or MEAN over all tokens);
    a half-open range of positions pools by the mean of those tokens' own last
    hidden states instead (an encoder's listwise prompt over its query tokens).
    """

    token_ids: TokenIds
    pooling_span: tuple[int, int] | None = None


class Embedder(Protocol):
    """Runs one embedding model.

    Errors: UnavailableError("embedder") when the engine is away or dead.
    Cancelling `embed` aborts whatever of it the engine has not finished, before
    the cancellation reaches the caller.
    """

    backend: EmbedderBackend
    dimension: int
    """Elements of a vector."""
    compute_dtype: str
    """Element type in which the engine computes, say "bfloat16"."""

    async def embed(self, prompts: Sequence[EmbedderPrompt], *, priority: int = 0) -> FloatArray:
        """Embed each prompt: float32 [prompts, dimension], L2-normalised, in order.

        Lower `priority` runs earlier.
        """
        ...

    async def check_health(self) -> None:
        """Raise UnavailableError if the engine is dead. Never waits behind queued work."""
        ...
