"""A method's options as the member of a RerankRequest's `method` that they set."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from e2rank.v1 import rerank_pb2
from e2rank_client.types import (
    CosineOptions,
    E2RankOptions,
    FirstStageScores,
    InitialOrder,
    LlmListwiseOptions,
    Method,
    PromptOrder,
    ScoreScaling,
    ScoreSource,
    VectorPrfOptions,
)

MethodOptions: TypeAlias = E2RankOptions | CosineOptions | VectorPrfOptions | LlmListwiseOptions
MethodChoice: TypeAlias = (
    Literal["E2RANK", "COSINE", "VECTOR_PRF", "LLM_LISTWISE"] | Method | MethodOptions
)

_DEFAULTS: dict[str, MethodOptions] = {
    "E2RANK": E2RankOptions(),
    "COSINE": CosineOptions(),
    "VECTOR_PRF": VectorPrfOptions(),
    "LLM_LISTWISE": LlmListwiseOptions(),
}


def method_to_wire(choice: MethodChoice | None) -> dict[str, Any]:
    """Return the fields of a RerankRequest that choose a method; none for the profile's own.

    Raises:
        ValueError: There is no such method.
    """
    options = _DEFAULTS.get(choice) if isinstance(choice, str) else choice
    match options:
        case E2RankOptions():
            return {"e2rank": _e2rank(options)}
        case CosineOptions():
            return {"cosine": rerank_pb2.CosineOptions()}
        case VectorPrfOptions():
            return {"vector_prf": _vector_prf(options)}
        case LlmListwiseOptions():
            return {"llm_listwise": _llm_listwise(options)}
    if choice is None:
        return {}
    raise ValueError(f"method is {', '.join(_DEFAULTS)}, their options or None, not {choice!r}")


def _e2rank(options: E2RankOptions) -> rerank_pb2.E2RankOptions:
    order = options.prompt_order
    return rerank_pb2.E2RankOptions(
        prompt_documents=options.prompt_documents,
        prompt_order=None if order is None else f"PROMPT_ORDER_{PromptOrder(order)}",
        first_stage_scores=_first_stage_scores(options.first_stage_scores),
    )


def _vector_prf(options: VectorPrfOptions) -> rerank_pb2.VectorPrfOptions:
    return rerank_pb2.VectorPrfOptions(
        feedback_documents=options.feedback_documents, feedback_weight=options.feedback_weight
    )


def _llm_listwise(options: LlmListwiseOptions) -> rerank_pb2.LlmListwiseOptions:
    order = options.initial_order
    return rerank_pb2.LlmListwiseOptions(
        template=options.template,
        window_size=options.window_size,
        stride=options.stride,
        num_passes=options.num_passes,
        initial_order=None if order is None else f"INITIAL_ORDER_{InitialOrder(order)}",
        shuffle_seed=options.shuffle_seed,
        max_words_per_document=options.max_words_per_document,
        thinking=options.thinking,
        reasoning_token_budget=options.reasoning_token_budget,
        first_stage_scores=_first_stage_scores(options.first_stage_scores),
        allow_degraded=options.allow_degraded,
    )


def _first_stage_scores(
    scores: FirstStageScores | None,
) -> rerank_pb2.FirstStageScoreOptions | None:
    if scores is None:
        return None
    return rerank_pb2.FirstStageScoreOptions(
        scaling=f"FIRST_STAGE_SCORE_SCALING_{ScoreScaling(scores.scaling)}",
        source=f"FIRST_STAGE_SCORE_SOURCE_{ScoreSource(scores.source)}",
    )
