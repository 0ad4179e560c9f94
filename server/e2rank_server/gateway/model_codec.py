"""What ModelService says of a model, as wire messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from e2rank.v1 import model_pb2, types_pb2
from e2rank_server.embedding_cache.circuit_breaker import BreakerState
from e2rank_server.embedding_cache.protocol import (
    CacheStatistics,
    Place,
    SecondTierStatistics,
    WriteStatistics,
)
from e2rank_server.gateway.codec import encode_identity, encode_outputs
from e2rank_server.gateway.limits import GatewayLimits
from e2rank_server.types import (
    GeneratorDescription,
    LlmOutputCounts,
    ModelDescription,
    ModelLoad,
)

# Any: the stubs let Value return an int, which fields then refuse.
_TIERS: Mapping[Place, Any] = {
    Place.DISK: types_pb2.CACHE_TIER_DISK,
    Place.SHARED: types_pb2.CACHE_TIER_SHARED,
}
_STATES: Mapping[BreakerState, Any] = {
    BreakerState.CLOSED: model_pb2.SECOND_TIER_STATE_AVAILABLE,
    BreakerState.OPEN: model_pb2.SECOND_TIER_STATE_AWAY,
    BreakerState.HALF_OPEN: model_pb2.SECOND_TIER_STATE_PROBING,
}


def encode_model(
    model: ModelDescription,
    limits: GatewayLimits,
    *,
    load: model_pb2.ModelLoad,
    cache: model_pb2.CacheStats,
    generator: model_pb2.Generator | None,
) -> model_pb2.Model:
    """Convert what GetModel says of `model`, whose changing parts are encoded apart."""
    return model_pb2.Model(
        identity=encode_identity(model),
        dimension=model.dimension,
        trained_for_listwise=model.trained_for_listwise,
        default_method=f"RERANK_METHOD_{model.default_method}",
        default_prompt_order=f"PROMPT_ORDER_{model.default_prompt_order}",
        compute_dtype=model.compute_dtype,
        limits=model_pb2.ModelLimits(
            max_documents_per_request=limits.max_documents,
            max_inputs_per_request=limits.max_inputs,
            max_query_bytes=limits.max_query_bytes,
            max_document_bytes=limits.max_document_bytes,
            max_request_bytes=limits.max_request_bytes,
            max_query_tokens=model.max_query_tokens,
            max_document_tokens=model.max_document_tokens,
            max_prompt_tokens=model.max_prompt_tokens,
            default_prompt_documents=model.default_prompt_documents,
            max_prompt_documents=model.max_prompt_documents,
        ),
        load=load,
        cache=cache,
        generator=generator,
    )


def encode_generator(
    generator: GeneratorDescription, outputs: LlmOutputCounts
) -> model_pb2.Generator:
    """Convert what generates for LLM_LISTWISE, and how it has answered."""
    return model_pb2.Generator(
        model=generator.model,
        backend=f"GENERATOR_BACKEND_{generator.backend}",
        max_model_tokens=generator.max_model_tokens or 0,
        templates=generator.templates,
        default_template=generator.default_template,
        default_score_template=generator.default_score_template,
        outputs=encode_outputs(outputs),
    )


def encode_load(load: ModelLoad, *, is_serving: bool) -> model_pb2.ModelLoad:
    """Convert how much work a model has."""
    return model_pb2.ModelLoad(
        is_serving=is_serving,
        running_tokens=load.running_tokens,
        waiting_tokens=load.waiting_tokens,
    )


def encode_cache(
    cache: CacheStatistics, second_tier: SecondTierStatistics | None
) -> model_pb2.CacheStats:
    """Convert how a model's cache is doing."""
    return model_pb2.CacheStats(
        hits=cache.hits,
        misses=cache.misses,
        evictions=cache.evictions,
        rejected=cache.rejected,
        entries=cache.entries,
        resident_bytes=cache.resident_bytes,
        max_bytes=cache.max_bytes,
        second_tier=None if second_tier is None else _encode_second_tier(second_tier),
    )


def _encode_second_tier(tier: SecondTierStatistics) -> model_pb2.SecondTierStats:
    return model_pb2.SecondTierStats(
        tier=_TIERS[tier.place],
        state=_STATES[tier.breaker],
        hits=tier.hits,
        misses=tier.misses,
        rejected=tier.rejected,
        timeouts=tier.timeouts,
        errors=tier.errors,
        skipped=tier.skipped,
        writes=_encode_writes(tier.writes),
    )


def _encode_writes(writes: WriteStatistics) -> model_pb2.SecondTierWrites:
    return model_pb2.SecondTierWrites(
        state=_STATES[writes.breaker],
        written=writes.written,
        dropped=writes.dropped,
        errors=writes.errors,
        pending=writes.waiting,
        pending_bytes=writes.waiting_bytes,
        pending_purges=writes.waiting_purges,
    )
