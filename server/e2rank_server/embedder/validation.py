"""Refuses prompts that break the embedder's contract: a defect of the caller, not of a request."""

from __future__ import annotations

from collections.abc import Sequence

from e2rank_server.embedder.protocol import EmbedderPrompt


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
