"""Triton model `listwise_prompt`: a query and documents in one prompt that fits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import triton_python_backend_utils as triton

from e2rank_server.errors import InvalidRequestError
from e2rank_server.prompting.prompt import ListwiseTexts
from e2rank_server.tokenizer.triton.backend import (
    Inputs,
    Outputs,
    Profiles,
    prompt_outputs,
    respond,
)
from e2rank_server.tokenizer.triton.wire import PromptTensors


class TritonPythonModel:
    """Called by Triton's Python backend."""

    def initialize(self, args: dict[str, str]) -> None:  # noqa: ARG002 - Triton's signature
        """Load the manifest's profiles."""
        self._profiles = Profiles()

    def execute(
        self, requests: Sequence[triton.InferenceRequest]
    ) -> list[triton.InferenceResponse]:
        """Assemble each request's prompt."""
        return respond(requests, self._answer)

    def _answer(self, inputs: Inputs) -> Outputs:
        prompter = self._profiles.prompter(inputs.text("PROFILE"))
        listwise = prompter.assemble_listwise(_listwise_texts(inputs))
        return prompt_outputs(PromptTensors.of([listwise.prompt])) | {
            "TRUNCATED": np.array(listwise.truncated, dtype=np.bool_),
            "IS_SHRUNK": np.array([listwise.is_shrunk]),
        }


def _listwise_texts(inputs: Inputs) -> ListwiseTexts:
    documents = inputs.texts("DOCUMENTS")
    scores = inputs.texts("SCORES") if inputs.has("SCORES") else None
    if scores is not None and len(scores) != len(documents):
        raise InvalidRequestError.of(
            "SCORES", f"there are {len(scores)} for {len(documents)} documents"
        )
    limit = "MAX_TOKENS_PER_DOCUMENT"
    return ListwiseTexts(
        query=inputs.text("QUERY"),
        documents=documents,
        instruction=inputs.optional_text("INSTRUCTION"),
        scores=scores,
        max_tokens_per_document=int(inputs.array(limit)[0]) if inputs.has(limit) else None,
    )
