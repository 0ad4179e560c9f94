"""Triton model `tokenizer`: prompts, as segments, to token ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import triton_python_backend_utils as triton

from e2rank_server.prompting.prompt import Prompt, PromptTokens
from e2rank_server.tokenizer.triton.backend import (
    Inputs,
    Outputs,
    Profiles,
    prompt_inputs,
    respond_together,
)


class TritonPythonModel:
    """Called by Triton's Python backend."""

    def initialize(self, args: dict[str, str]) -> None:  # noqa: ARG002 - Triton's signature
        """Load the manifest's profiles."""
        self._profiles = Profiles()

    def execute(
        self, requests: Sequence[triton.InferenceRequest]
    ) -> list[triton.InferenceResponse]:
        """Tokenize a dynamic batch, the prompts of each profile all at once."""
        return respond_together(requests, self._read, self._tokenize)

    def _read(self, inputs: Inputs) -> tuple[str, list[Prompt]]:
        key = inputs.text("PROFILE")
        self._profiles.prompter(key)
        return key, prompt_inputs(inputs).prompts()

    def _tokenize(self, key: str, batches: Sequence[list[Prompt]]) -> list[Outputs]:
        prompts = [prompt for batch in batches for prompt in batch]
        tokens = iter(self._profiles.prompter(key).tokenize(prompts))
        return [_outputs([next(tokens) for _ in batch]) for batch in batches]


def _outputs(prompts: Sequence[PromptTokens]) -> Outputs:
    token_ids = [token_id for prompt in prompts for token_id in prompt.token_ids]
    spans = [position for prompt in prompts for position in prompt.own_span]
    return {
        "TOKEN_IDS": np.array(token_ids, dtype=np.int32),
        "LENGTHS": np.array([len(prompt.token_ids) for prompt in prompts], dtype=np.int32),
        "OWN_SPANS": np.array(spans, dtype=np.int32),
        "IS_TRUNCATED": np.array([prompt.is_truncated for prompt in prompts], dtype=np.bool_),
    }
