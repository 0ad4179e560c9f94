"""Triton model `text_template`: queries or documents in their profile's template."""

from __future__ import annotations

from collections.abc import Sequence

import triton_python_backend_utils as triton

from e2rank_server.errors import InvalidRequestError
from e2rank_server.prompting.prompt import Prompt
from e2rank_server.tokenizer.triton.backend import (
    Inputs,
    Outputs,
    Profiles,
    prompt_outputs,
    respond,
)
from e2rank_server.tokenizer.triton.wire import PromptTensors
from e2rank_server.types import InputType


class TritonPythonModel:
    """Called by Triton's Python backend."""

    def initialize(self, args: dict[str, str]) -> None:  # noqa: ARG002 - Triton's signature
        """Load the manifest's profiles."""
        self._profiles = Profiles()

    def execute(
        self, requests: Sequence[triton.InferenceRequest]
    ) -> list[triton.InferenceResponse]:
        """Render each request's texts."""
        return respond(requests, self._answer)

    def _answer(self, inputs: Inputs) -> Outputs:
        return prompt_outputs(PromptTensors.of(self._render(inputs)))

    def _render(self, inputs: Inputs) -> list[Prompt]:
        prompter = self._profiles.prompter(inputs.text("PROFILE"))
        texts = inputs.texts("TEXTS")
        match inputs.text("INPUT_TYPE"):
            case InputType.QUERY:
                return prompter.render_queries(texts, inputs.optional_text("INSTRUCTION"))
            case InputType.DOCUMENT:
                return prompter.render_documents(texts)
            case other:
                raise InvalidRequestError.of("INPUT_TYPE", f"is {other!r}: QUERY or DOCUMENT")
