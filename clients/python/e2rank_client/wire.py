"""Values to wire messages and back; nothing else in this package touches their fields."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
from google.protobuf.duration_pb2 import Duration

from e2rank.v1 import document_pb2, embedding_pb2, model_pb2, rerank_pb2, types_pb2
from e2rank_client.errors import unreadable_answer
from e2rank_client.types import (
    AnswerWarning,
    CacheStats,
    CacheTier,
    Document,
    EmbeddedAhead,
    EmbedderBackend,
    EmbedResult,
    EmbedTimings,
    EmbedUsage,
    FloatArray,
    Generator,
    GeneratorBackend,
    LlmListwiseReport,
    LlmOutputCounts,
    Method,
    Model,
    ModelIdentity,
    ModelLimits,
    ModelLoad,
    NamespaceStats,
    PromptOrder,
    PutOutcome,
    PutResult,
    RankedDocument,
    RerankResult,
    RerankTimings,
    RerankUsage,
    ScoreKind,
    SecondTierState,
    SecondTierStats,
    SecondTierWrites,
    StoredDocument,
    TokenizerBackend,
    Vector,
    WarningCode,
)

_EnumT = TypeVar("_EnumT", bound=StrEnum)
_ELEMENT_TYPES: dict[int, np.dtype[Any]] = {
    types_pb2.VECTOR_ENCODING_FLOAT32: np.dtype("<f4"),
    types_pb2.VECTOR_ENCODING_FLOAT16: np.dtype("<f2"),
}


def add_document(request: rerank_pb2.RerankRequest, document: Document | str) -> None:
    """Encode a candidate in its place; a string is a document with that text.

    Messages that are made apart are copied into the one that takes them: with
    vectors, that is five times the work.
    """
    if isinstance(document, str):
        request.documents.add(text=document)
        return
    added = request.documents.add(
        id=document.id,
        text=document.text,
        title=document.title,
        first_stage_score=document.first_stage_score,
    )
    if document.vector is not None:
        _set_vector(added.vector, document.vector)


def _set_vector(wire: types_pb2.Vector, vector: Vector) -> None:
    """Encode as little-endian float32."""
    values = np.ascontiguousarray(vector.values, dtype="<f4")
    if values.ndim != 1:
        raise ValueError(f"a vector has one axis, not the shape {values.shape}")
    wire.data = values.tobytes()
    wire.encoding = types_pb2.VECTOR_ENCODING_FLOAT32
    wire.dimension = values.size
    wire.model_fingerprint = vector.model_fingerprint


def vector_from_wire(wire: types_pb2.Vector) -> Vector:
    """Decode; float32 elements are a read-only view of the message's bytes."""
    return Vector(_rows(wire, 1)[0], wire.model_fingerprint)


def _rows(wire: types_pb2.Vector | types_pb2.VectorMatrix, number: int) -> FloatArray:
    """Decode float32 [number, dimension], a read-only view if it was sent as float32."""
    element = _ELEMENT_TYPES.get(wire.encoding)
    if element is None:
        raise unreadable_answer(f"unknown vector encoding {wire.encoding}")
    data = wire.data
    if len(data) != number * wire.dimension * element.itemsize:
        raise unreadable_answer(
            f"{len(data)} bytes cannot be {number} vectors of {wire.dimension} elements "
            f"of {element.itemsize} bytes"
        )
    values = np.frombuffer(data, dtype=element).reshape(number, wire.dimension)
    return values.astype(np.float32, copy=False)


def rerank_result_from_wire(wire: rerank_pb2.RerankResponse) -> RerankResult:
    """Decode the answer of Rerank."""
    return RerankResult(
        results=tuple(_ranked_document(result) for result in wire.results),
        method=_enum(Method, rerank_pb2.RerankMethod, "RERANK_METHOD_", wire.method),
        usage=RerankUsage(**_counts(wire.usage)),
        timings=RerankTimings(**_seconds(wire.timings)),
        model=_identity(wire.model),
        warnings=_warnings(wire.warnings),
        unknown_documents=tuple(wire.unknown_documents),
        score_kind=_enum(ScoreKind, rerank_pb2.ScoreKind, "SCORE_KIND_", wire.score_kind),
        llm_listwise=_llm_report(wire.llm_listwise) if wire.HasField("llm_listwise") else None,
    )


def _llm_report(wire: rerank_pb2.LlmListwiseReport) -> LlmListwiseReport:
    return LlmListwiseReport(
        generator_model=wire.generator_model,
        template=wire.template,
        template_version=wire.template_version,
        windows=wire.windows,
        outputs=LlmOutputCounts(**_counts(wire.outputs)),
        prompt_tokens=wire.prompt_tokens,
        generated_tokens=wire.generated_tokens,
        identifiers_absent=wire.identifiers_absent,
    )


def embed_result_from_wire(wire: embedding_pb2.EmbedResponse) -> EmbedResult:
    """Decode the answer of Embed."""
    return EmbedResult(
        vectors=_matrix(wire),
        truncated=tuple(wire.truncated),
        cache_tiers=tuple(map(_cache_tier, wire.cache_tiers)),
        usage=EmbedUsage(**_counts(wire.usage)),
        timings=EmbedTimings(**_seconds(wire.timings)),
        model=_identity(wire.model),
        warnings=_warnings(wire.warnings),
        unknown_inputs=tuple(wire.unknown_inputs),
    )


def _matrix(wire: embedding_pb2.EmbedResponse) -> FloatArray:
    if len(wire.truncated) != len(wire.cache_tiers):
        raise unreadable_answer(
            f"{len(wire.truncated)} cut marks and {len(wire.cache_tiers)} cache tiers "
            "cannot be of the same texts"
        )
    return _rows(wire.vectors, len(wire.truncated))


def put_result_from_wire(wire: document_pb2.PutDocumentsResponse, number: int) -> PutResult:
    """Decode the answer of PutDocuments, of so many documents."""
    _check_number("outcomes", len(wire.outcomes), number)
    return PutResult(
        outcomes=tuple(
            _enum(PutOutcome, document_pb2.PutOutcome, "PUT_OUTCOME_", outcome)
            for outcome in wire.outcomes
        ),
        documents_new=wire.documents_new,
        documents_unchanged=wire.documents_unchanged,
        documents_replaced=wire.documents_replaced,
        stats=namespace_stats_from_wire(wire.stats) if wire.HasField("stats") else None,
        embedded=tuple(EmbeddedAhead(**_counts(ahead)) for ahead in wire.embedded),
        warnings=_warnings(wire.warnings),
    )


def stored_documents_from_wire(
    wire: document_pb2.GetDocumentsResponse, number: int
) -> tuple[StoredDocument | None, ...]:
    """Decode the answer of GetDocuments, of so many ids; None for one that was not found."""
    _check_number("results", len(wire.results), number)
    return tuple(
        _stored_document(result.document) if result.found else None for result in wire.results
    )


def existence_from_wire(wire: document_pb2.GetDocumentsResponse, number: int) -> tuple[bool, ...]:
    """Decode the answer of GetDocuments about existence, of so many ids."""
    _check_number("results", len(wire.results), number)
    return tuple(result.found for result in wire.results)


def deletions_from_wire(
    wire: document_pb2.DeleteDocumentsResponse, number: int
) -> tuple[bool, ...]:
    """Decode the answer of DeleteDocuments, of so many ids."""
    _check_number("results", len(wire.existed), number)
    return tuple(wire.existed)


def namespace_stats_from_wire(wire: document_pb2.NamespaceStats) -> NamespaceStats:
    """Decode how full a namespace is."""
    return NamespaceStats(**_counts(wire))


def _stored_document(wire: document_pb2.StoredDocument) -> StoredDocument:
    return StoredDocument(wire.id, wire.text, wire.title if wire.HasField("title") else None)


def _check_number(what: str, found: int, expected: int) -> None:
    if found != expected:
        raise unreadable_answer(f"{found} {what} cannot be of {expected} documents")


def model_from_wire(wire: model_pb2.Model) -> Model:
    """Decode what the server says of a profile."""
    order = wire.default_prompt_order
    return Model(
        identity=_identity(wire.identity),
        dimension=wire.dimension,
        trained_for_listwise=wire.trained_for_listwise,
        default_method=_enum(
            Method, rerank_pb2.RerankMethod, "RERANK_METHOD_", wire.default_method
        ),
        default_prompt_order=_enum(PromptOrder, rerank_pb2.PromptOrder, "PROMPT_ORDER_", order),
        compute_dtype=wire.compute_dtype,
        limits=ModelLimits(**_counts(wire.limits)),
        load=_load(wire.load),
        cache=_cache_stats(wire.cache),
        generator=_generator(wire.generator) if wire.HasField("generator") else None,
    )


def _generator(wire: model_pb2.Generator) -> Generator:
    return Generator(
        model=wire.model,
        backend=_enum(
            GeneratorBackend, model_pb2.GeneratorBackend, "GENERATOR_BACKEND_", wire.backend
        ),
        max_model_tokens=wire.max_model_tokens,
        templates=tuple(wire.templates),
        default_template=wire.default_template,
        default_score_template=wire.default_score_template,
        outputs=LlmOutputCounts(**_counts(wire.outputs)),
    )


def _load(wire: model_pb2.ModelLoad) -> ModelLoad:
    return ModelLoad(wire.is_serving, wire.running_tokens, wire.waiting_tokens)


def _cache_stats(wire: model_pb2.CacheStats) -> CacheStats:
    return CacheStats(
        hits=wire.hits,
        misses=wire.misses,
        evictions=wire.evictions,
        rejected=wire.rejected,
        entries=wire.entries,
        resident_bytes=wire.resident_bytes,
        max_bytes=wire.max_bytes,
        second_tier=_second_tier(wire.second_tier) if wire.HasField("second_tier") else None,
    )


def _second_tier(wire: model_pb2.SecondTierStats) -> SecondTierStats:
    writes = wire.writes
    return SecondTierStats(
        tier=_cache_tier(wire.tier),
        state=_second_tier_state(wire.state),
        hits=wire.hits,
        misses=wire.misses,
        rejected=wire.rejected,
        timeouts=wire.timeouts,
        errors=wire.errors,
        skipped=wire.skipped,
        writes=SecondTierWrites(
            state=_second_tier_state(writes.state),
            written=writes.written,
            dropped=writes.dropped,
            errors=writes.errors,
            pending=writes.pending,
            pending_bytes=writes.pending_bytes,
            pending_purges=writes.pending_purges,
        ),
    )


def _second_tier_state(number: int) -> SecondTierState:
    return _enum(SecondTierState, model_pb2.SecondTierState, "SECOND_TIER_STATE_", number)


def _ranked_document(wire: rerank_pb2.RerankResult) -> RankedDocument:
    return RankedDocument(
        index=wire.index,
        id=wire.id,
        relevance_score=wire.relevance_score,
        document=_document(wire.document) if wire.HasField("document") else None,
        cache_tier=_cache_tier(wire.cache_tier),
    )


def _document(wire: rerank_pb2.Document) -> Document:
    return Document(
        id=wire.id,
        text=wire.text if wire.HasField("text") else None,
        title=wire.title if wire.HasField("title") else None,
        vector=vector_from_wire(wire.vector) if wire.HasField("vector") else None,
        first_stage_score=wire.first_stage_score if wire.HasField("first_stage_score") else None,
    )


def _identity(wire: types_pb2.ModelIdentity) -> ModelIdentity:
    tokenizer, embedder = wire.tokenizer_backend, wire.embedder_backend
    return ModelIdentity(
        profile=wire.profile,
        revision=wire.revision,
        fingerprint=wire.fingerprint,
        template_version=wire.template_version,
        tokenizer_backend=_enum(
            TokenizerBackend, types_pb2.TokenizerBackend, "TOKENIZER_BACKEND_", tokenizer
        ),
        embedder_backend=_enum(
            EmbedderBackend, types_pb2.EmbedderBackend, "EMBEDDER_BACKEND_", embedder
        ),
    )


def _warnings(wire: Iterable[types_pb2.Warning]) -> tuple[AnswerWarning, ...]:
    return tuple(
        AnswerWarning(_enum(WarningCode, types_pb2.WarningCode, "WARNING_CODE_", w.code), w.message)
        for w in wire
    )


def _cache_tier(number: int) -> CacheTier:
    return _enum(CacheTier, types_pb2.CacheTier, "CACHE_TIER_", number)


def _enum(kind: type[_EnumT], wire: Any, prefix: str, number: int) -> _EnumT:  # noqa: ANN401 - generated enumerations have no common type
    """Decode a number; one that is unset or newer than this client is UNRECOGNISED."""
    try:
        return kind(wire.Name(number).removeprefix(prefix))
    except ValueError:
        return kind("UNRECOGNISED")


def _counts(wire: Any) -> dict[str, Any]:  # noqa: ANN401 - any message of integers and names
    """Read all fields of a message whose fields are the dataclass's."""
    return {field.name: getattr(wire, field.name) for field in wire.DESCRIPTOR.fields}


def _seconds(wire: Any) -> dict[str, float]:  # noqa: ANN401 - any message of durations
    return {
        f"{field.name}_seconds": _duration_seconds(getattr(wire, field.name))
        for field in wire.DESCRIPTOR.fields
    }


def _duration_seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
