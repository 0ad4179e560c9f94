"""Refuses what breaks the embedder's contract: a caller's prompts and a model's vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from e2rank_server.embedder.protocol import EmbedderPrompt
from e2rank_server.types import FloatArray


def check_prompts(prompts: Sequence[EmbedderPrompt], max_tokens: int | None = None) -> None:
    """Raise ValueError if a prompt is empty, too long, or has a span outside its tokens."""
    for index, prompt in enumerate(prompts):
        num_tokens = len(prompt.token_ids)
        if num_tokens == 0:
            raise ValueError(f"prompt {index} has no tokens")
        if max_tokens is not None and num_tokens > max_tokens:
            raise ValueError(
                f"prompt {index} has {num_tokens} tokens, but the model takes {max_tokens}"
            )
        if prompt.pooling_span is not None:
            start, stop = prompt.pooling_span
            if not 0 <= start < stop <= num_tokens:
                raise ValueError(
                    f"prompt {index} has the span {start}:{stop}, but {num_tokens} tokens"
                )


def scale_to_unit(vectors: FloatArray) -> None:
    """Scale the rows of float32 [n, dimension] to length 1, in place.

    Raises:
        ArithmeticError: a row is zero or not finite.
    """
    with np.errstate(all="ignore"):
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise ArithmeticError("a vector that is zero or not finite")
    vectors /= norms
