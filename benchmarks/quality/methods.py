"""The ways to rerank that are measured, by their names in the figures."""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path
from typing import TypeAlias

from e2rank_client import (
    CosineOptions,
    E2RankOptions,
    LlmListwiseOptions,
    PromptOrder,
    VectorPrfOptions,
)

MethodOptions: TypeAlias = CosineOptions | VectorPrfOptions | E2RankOptions | LlmListwiseOptions

METHODS: dict[str, MethodOptions] = {
    "cosine": CosineOptions(),
    "vector_prf": VectorPrfOptions(),
    "e2rank_first_stage": E2RankOptions(prompt_order=PromptOrder.FIRST_STAGE),
    "e2rank_cosine": E2RankOptions(prompt_order=PromptOrder.COSINE),
    # A window for which the generator fails is counted as malformed and keeps its order;
    # the alternative would be to lose hours of other windows to it.
    "llm_listwise": LlmListwiseOptions(allow_degraded=True),
}

LLM = "llm_listwise"
"""The one that needs a generator."""

_INSTRUCTIONS = Path(__file__).with_name("instructions.toml")


def instruction_for(collection: str, options: MethodOptions | None = None) -> str:
    """Return what stands before a query that is embedded by itself; empty means the profile's.

    `options` is None for dense retrieval. A listwise prompt has one instruction
    for whatever collection, as in E2Rank's evaluation code.
    """
    if isinstance(options, E2RankOptions | LlmListwiseOptions):
        return ""
    return _instructions().get(collection, "")


@functools.cache
def _instructions() -> dict[str, str]:
    table: dict[str, str] = tomllib.loads(_INSTRUCTIONS.read_text(encoding="utf-8"))
    return table
