"""A model profile: everything that differs between models, as data read from TOML."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from e2rank_server.prompting.specification import PromptSpecification
from e2rank_server.types import Method, PromptOrder


class SourceKind(StrEnum):
    """Where a model's files come from."""

    HUB = "hub"
    """A Hugging Face repository at a pinned revision."""
    PACKAGE = "package"
    """A folder inside an installed Python package."""
    GGUF_PACKAGE = "gguf-package"
    """A GGUF file inside an installed Python package, converted once to safetensors."""
    PATH = "path"
    """A local folder."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """`location` is a repository id, a package name or a folder; `file` a path inside a package."""

    kind: SourceKind
    location: str
    revision: str = ""
    file: str = ""


class Pooling(StrEnum):
    """How the model turns its last hidden states into one vector."""

    LAST = "LAST"
    MEAN = "MEAN"
    QUERY_TOKENS = "QUERY_TOKENS"
    """For listwise prompts of encoders only: the mean over the query's own tokens."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One model and how to use it."""

    name: str
    source: ModelSource
    prompts: PromptSpecification
    template_version: str
    """Name of the listwise template in use, with the profile's version: `eval/1`."""
    dimension: int
    max_model_tokens: int
    """The model's positions: what the engine is started with."""
    pooling: Pooling
    """Of queries and documents: LAST or MEAN."""
    listwise_pooling: Pooling
    trained_for_listwise: bool
    default_method: Method
    prompt_order: PromptOrder
    prompt_documents: int
    """Documents shown in a listwise prompt unless a request says otherwise."""
    max_prompt_documents: int
