"""The options of a rerank method, from the wire."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from e2rank.v1 import rerank_pb2
from e2rank_server.gateway.fields import decode_count, decode_enum
from e2rank_server.gateway.limits import GatewayLimits
from e2rank_server.gateway.violations import Violations, utf8_length
from e2rank_server.types import (
    CosineOptions,
    Document,
    E2RankOptions,
    FirstStageScores,
    InitialOrder,
    LlmListwiseOptions,
    MethodOptions,
    ModelDescription,
    PromptOrder,
    ScoreScaling,
    ScoreSource,
    VectorPrfOptions,
)

MAX_FEEDBACK_WEIGHT = 10.0
MAX_PASSES = 10
MAX_WINDOW_SIZE = 1000
MAX_WORDS_PER_DOCUMENT = 100_000
MAX_REASONING_TOKENS = 131_072

_PROMPT_ORDERS: Mapping[int, PromptOrder | None] = {
    rerank_pb2.PROMPT_ORDER_UNSPECIFIED: None,
    rerank_pb2.PROMPT_ORDER_FIRST_STAGE: PromptOrder.FIRST_STAGE,
    rerank_pb2.PROMPT_ORDER_COSINE: PromptOrder.COSINE,
}
_INITIAL_ORDERS: Mapping[int, InitialOrder] = {
    rerank_pb2.INITIAL_ORDER_UNSPECIFIED: InitialOrder.FIRST_STAGE,
    rerank_pb2.INITIAL_ORDER_FIRST_STAGE: InitialOrder.FIRST_STAGE,
    rerank_pb2.INITIAL_ORDER_REVERSED: InitialOrder.REVERSED,
    rerank_pb2.INITIAL_ORDER_SHUFFLED: InitialOrder.SHUFFLED,
}
_SCORE_SCALINGS: Mapping[int, ScoreScaling] = {
    rerank_pb2.FIRST_STAGE_SCORE_SCALING_UNSPECIFIED: ScoreScaling.RAW,
    rerank_pb2.FIRST_STAGE_SCORE_SCALING_RAW: ScoreScaling.RAW,
    rerank_pb2.FIRST_STAGE_SCORE_SCALING_MIN_MAX: ScoreScaling.MIN_MAX,
    rerank_pb2.FIRST_STAGE_SCORE_SCALING_PERCENT: ScoreScaling.PERCENT,
}
_SCORE_SOURCES: Mapping[int, ScoreSource] = {
    rerank_pb2.FIRST_STAGE_SCORE_SOURCE_UNSPECIFIED: ScoreSource.CALLER,
    rerank_pb2.FIRST_STAGE_SCORE_SOURCE_CALLER: ScoreSource.CALLER,
    rerank_pb2.FIRST_STAGE_SCORE_SOURCE_CANDIDATE_BM25: ScoreSource.CANDIDATE_BM25,
}


def decode_options(
    message: rerank_pb2.RerankRequest,
    documents: Sequence[Document],
    model: ModelDescription,
    limits: GatewayLimits,
    violations: Violations,
) -> MethodOptions | None:
    """Check and convert the options of the method that a request names; None if it names none."""
    match message.WhichOneof("method"):
        case "e2rank":
            return _decode_e2rank(message.e2rank, documents, model, violations)
        case "cosine":
            return CosineOptions()
        case "vector_prf":
            return _decode_vector_prf(message.vector_prf, violations)
        case "llm_listwise":
            return _decode_llm_listwise(message.llm_listwise, documents, limits, violations)
        case _:
            return None


def _decode_e2rank(
    message: rerank_pb2.E2RankOptions,
    documents: Sequence[Document],
    model: ModelDescription,
    violations: Violations,
) -> E2RankOptions:
    within = "e2rank."
    prompt_documents = decode_count(message, "prompt_documents", violations, within=within)
    if prompt_documents is not None and prompt_documents > model.max_prompt_documents:
        violations.add(
            f"{within}prompt_documents",
            f"is {prompt_documents}, more than this model's limit of {model.max_prompt_documents}",
        )
    order = decode_enum(message.prompt_order, _PROMPT_ORDERS, f"{within}prompt_order", violations)
    return E2RankOptions(
        prompt_documents=prompt_documents,
        prompt_order=order,
        first_stage_scores=_decode_scores(message, within, documents, violations),
    )


def _decode_vector_prf(
    message: rerank_pb2.VectorPrfOptions, violations: Violations
) -> VectorPrfOptions:
    within = "vector_prf."
    default = VectorPrfOptions()
    documents = decode_count(message, "feedback_documents", violations, within=within)
    weight = default.feedback_weight
    if message.HasField("feedback_weight"):
        weight = message.feedback_weight
        if not math.isfinite(weight) or not 0.0 <= weight <= MAX_FEEDBACK_WEIGHT:
            violations.add(
                f"{within}feedback_weight", f"is {weight}, not within 0 to {MAX_FEEDBACK_WEIGHT:g}"
            )
    return VectorPrfOptions(documents or default.feedback_documents, weight)


def _decode_llm_listwise(
    message: rerank_pb2.LlmListwiseOptions,
    documents: Sequence[Document],
    limits: GatewayLimits,
    violations: Violations,
) -> LlmListwiseOptions:
    """Read what can be checked without the template; the rest is the engine's to check."""
    within = "llm_listwise."

    def count(name: str, at_most: int, *, at_least: int = 1) -> int | None:
        return decode_count(
            message, name, violations, within=within, at_least=at_least, at_most=at_most
        )

    violations.check_size(f"{within}template", utf8_length(message.template), limits.max_name_bytes)
    order = decode_enum(
        message.initial_order, _INITIAL_ORDERS, f"{within}initial_order", violations
    )
    return LlmListwiseOptions(
        template=message.template or None,
        window_size=count("window_size", MAX_WINDOW_SIZE, at_least=2),
        stride=count("stride", MAX_WINDOW_SIZE),
        num_passes=count("num_passes", MAX_PASSES) or 1,
        initial_order=order or InitialOrder.FIRST_STAGE,
        shuffle_seed=message.shuffle_seed,
        max_words_per_document=count("max_words_per_document", MAX_WORDS_PER_DOCUMENT),
        thinking=message.thinking,
        reasoning_token_budget=count("reasoning_token_budget", MAX_REASONING_TOKENS),
        first_stage_scores=_decode_scores(message, within, documents, violations),
        allow_degraded=message.allow_degraded,
    )


def _decode_scores(
    message: rerank_pb2.E2RankOptions | rerank_pb2.LlmListwiseOptions,
    within: str,
    documents: Sequence[Document],
    violations: Violations,
) -> FirstStageScores | None:
    if not message.HasField("first_stage_scores"):
        return None
    field = f"{within}first_stage_scores"
    options = message.first_stage_scores
    scaling = decode_enum(options.scaling, _SCORE_SCALINGS, f"{field}.scaling", violations)
    source = decode_enum(options.source, _SCORE_SOURCES, f"{field}.source", violations)
    if (
        source is ScoreSource.CALLER
        and documents
        and all(document.first_stage_score is None for document in documents)
    ):
        violations.add(field, "needs first_stage_score on all documents")
    return FirstStageScores(scaling or ScoreScaling.RAW, source or ScoreSource.CALLER)
