"""The model of a shape, as the server and the bare engines take it: one for both methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.latency.random_model import make_model
from benchmarks.latency.shapes import Shape
from benchmarks.server_flags import MEMORY_ONLY
from e2rank_server.app import Prepared, prepare
from e2rank_server.embedder import vllm_arguments as embedder_arguments
from e2rank_server.generator import vllm_arguments as generator_arguments
from e2rank_server.model_folder import prepare_model_folder
from e2rank_server.profiles.loading import load_profile
from e2rank_server.settings import read_settings
from e2rank_server.vllm_process.hardware import Dtype, choose_dtype
from e2rank_server.vllm_process.start import MakeArguments

_SMOLLM2 = "smollm2-135m"


@dataclass(frozen=True, slots=True)
class Backbone:
    """A model that is in place; `flags` let the server embed and generate with it."""

    prepared: Prepared
    dtype: Dtype
    flags: Sequence[str]

    @property
    def folder(self) -> Path:
        """Its files; the generator's are the embedder's."""
        return self.prepared.folder.path

    @property
    def max_words(self) -> int:
        """The cut of a document in E2RANK's prompt, which is to be the LLM's, too."""
        prompts = self.prepared.profile.prompts
        limits = (prompts.max_document_words, prompts.max_prompt_document_words)
        return min(limit for limit in limits if limit is not None)

    @property
    def embedder_arguments(self) -> MakeArguments:
        """What a bare engine embeds with: the server's own arguments."""
        return partial(
            embedder_arguments.engine_arguments,
            self.prepared.profile,
            self.folder,
            dtype=self.dtype,
            prefix_caching=False,
        )

    @property
    def generator_arguments(self) -> MakeArguments:
        """What a bare engine generates with."""
        return partial(
            generator_arguments.engine_arguments,
            self.folder,
            dtype=self.dtype,
            max_model_tokens=self.prepared.profile.max_model_tokens,
            prefix_caching=False,
        )


def prepare_backbone(shape: Shape, directory: Path) -> Backbone:
    """Find the shape's model, or make it in `directory`; blocks, up to a minute.

    Raises ConfigurationError when SmolLM2's package is not installed.
    """
    profile, generator = _SMOLLM2, _SMOLLM2
    if shape.made_of is not None:
        models = read_settings((), {}).data_directory / "models"
        smollm2 = prepare_model_folder(load_profile(_SMOLLM2), models).path
        generator = str(directory)
        profile = str(
            make_model(directory, shape.name, shape.made_of, smollm2, shape.max_model_tokens)
        )
    flags = [
        *("--profile", profile, "--tokenizer", "triton", "--prefix-caching", "off"),
        *("--generator-model", generator),
        *("--generator-max-tokens", str(shape.max_model_tokens)),
        *MEMORY_ONLY,
    ]
    [prepared] = prepare(read_settings(flags, {}))
    return Backbone(prepared, choose_dtype("auto"), flags)
