import datetime

from e2rank.v1 import types_pb2 as _types_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PromptOrder(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROMPT_ORDER_UNSPECIFIED: _ClassVar[PromptOrder]
    PROMPT_ORDER_FIRST_STAGE: _ClassVar[PromptOrder]
    PROMPT_ORDER_COSINE: _ClassVar[PromptOrder]

class FirstStageScoreSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FIRST_STAGE_SCORE_SOURCE_UNSPECIFIED: _ClassVar[FirstStageScoreSource]
    FIRST_STAGE_SCORE_SOURCE_CALLER: _ClassVar[FirstStageScoreSource]
    FIRST_STAGE_SCORE_SOURCE_CANDIDATE_BM25: _ClassVar[FirstStageScoreSource]

class FirstStageScoreScaling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FIRST_STAGE_SCORE_SCALING_UNSPECIFIED: _ClassVar[FirstStageScoreScaling]
    FIRST_STAGE_SCORE_SCALING_RAW: _ClassVar[FirstStageScoreScaling]
    FIRST_STAGE_SCORE_SCALING_MIN_MAX: _ClassVar[FirstStageScoreScaling]
    FIRST_STAGE_SCORE_SCALING_PERCENT: _ClassVar[FirstStageScoreScaling]

class InitialOrder(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INITIAL_ORDER_UNSPECIFIED: _ClassVar[InitialOrder]
    INITIAL_ORDER_FIRST_STAGE: _ClassVar[InitialOrder]
    INITIAL_ORDER_REVERSED: _ClassVar[InitialOrder]
    INITIAL_ORDER_SHUFFLED: _ClassVar[InitialOrder]

class RerankMethod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RERANK_METHOD_UNSPECIFIED: _ClassVar[RerankMethod]
    RERANK_METHOD_E2RANK: _ClassVar[RerankMethod]
    RERANK_METHOD_COSINE: _ClassVar[RerankMethod]
    RERANK_METHOD_VECTOR_PRF: _ClassVar[RerankMethod]
    RERANK_METHOD_LLM_LISTWISE: _ClassVar[RerankMethod]

class ScoreKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCORE_KIND_UNSPECIFIED: _ClassVar[ScoreKind]
    SCORE_KIND_COSINE: _ClassVar[ScoreKind]
    SCORE_KIND_RECIPROCAL_RANK: _ClassVar[ScoreKind]
PROMPT_ORDER_UNSPECIFIED: PromptOrder
PROMPT_ORDER_FIRST_STAGE: PromptOrder
PROMPT_ORDER_COSINE: PromptOrder
FIRST_STAGE_SCORE_SOURCE_UNSPECIFIED: FirstStageScoreSource
FIRST_STAGE_SCORE_SOURCE_CALLER: FirstStageScoreSource
FIRST_STAGE_SCORE_SOURCE_CANDIDATE_BM25: FirstStageScoreSource
FIRST_STAGE_SCORE_SCALING_UNSPECIFIED: FirstStageScoreScaling
FIRST_STAGE_SCORE_SCALING_RAW: FirstStageScoreScaling
FIRST_STAGE_SCORE_SCALING_MIN_MAX: FirstStageScoreScaling
FIRST_STAGE_SCORE_SCALING_PERCENT: FirstStageScoreScaling
INITIAL_ORDER_UNSPECIFIED: InitialOrder
INITIAL_ORDER_FIRST_STAGE: InitialOrder
INITIAL_ORDER_REVERSED: InitialOrder
INITIAL_ORDER_SHUFFLED: InitialOrder
RERANK_METHOD_UNSPECIFIED: RerankMethod
RERANK_METHOD_E2RANK: RerankMethod
RERANK_METHOD_COSINE: RerankMethod
RERANK_METHOD_VECTOR_PRF: RerankMethod
RERANK_METHOD_LLM_LISTWISE: RerankMethod
SCORE_KIND_UNSPECIFIED: ScoreKind
SCORE_KIND_COSINE: ScoreKind
SCORE_KIND_RECIPROCAL_RANK: ScoreKind

class RerankRequest(_message.Message):
    __slots__ = ("model", "namespace", "query", "instruction", "documents", "top_n", "return_documents", "max_tokens_per_document", "priority", "e2rank", "cosine", "vector_prf", "llm_listwise", "unknown_documents")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    TOP_N_FIELD_NUMBER: _ClassVar[int]
    RETURN_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_PER_DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    E2RANK_FIELD_NUMBER: _ClassVar[int]
    COSINE_FIELD_NUMBER: _ClassVar[int]
    VECTOR_PRF_FIELD_NUMBER: _ClassVar[int]
    LLM_LISTWISE_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    model: str
    namespace: str
    query: str
    instruction: str
    documents: _containers.RepeatedCompositeFieldContainer[Document]
    top_n: int
    return_documents: bool
    max_tokens_per_document: int
    priority: int
    e2rank: E2RankOptions
    cosine: CosineOptions
    vector_prf: VectorPrfOptions
    llm_listwise: LlmListwiseOptions
    unknown_documents: _types_pb2.UnknownDocuments
    def __init__(self, model: _Optional[str] = ..., namespace: _Optional[str] = ..., query: _Optional[str] = ..., instruction: _Optional[str] = ..., documents: _Optional[_Iterable[_Union[Document, _Mapping]]] = ..., top_n: _Optional[int] = ..., return_documents: bool = ..., max_tokens_per_document: _Optional[int] = ..., priority: _Optional[int] = ..., e2rank: _Optional[_Union[E2RankOptions, _Mapping]] = ..., cosine: _Optional[_Union[CosineOptions, _Mapping]] = ..., vector_prf: _Optional[_Union[VectorPrfOptions, _Mapping]] = ..., llm_listwise: _Optional[_Union[LlmListwiseOptions, _Mapping]] = ..., unknown_documents: _Optional[_Union[_types_pb2.UnknownDocuments, str]] = ...) -> None: ...

class Document(_message.Message):
    __slots__ = ("id", "text", "title", "vector", "first_stage_score")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    FIRST_STAGE_SCORE_FIELD_NUMBER: _ClassVar[int]
    id: str
    text: str
    title: str
    vector: _types_pb2.Vector
    first_stage_score: float
    def __init__(self, id: _Optional[str] = ..., text: _Optional[str] = ..., title: _Optional[str] = ..., vector: _Optional[_Union[_types_pb2.Vector, _Mapping]] = ..., first_stage_score: _Optional[float] = ...) -> None: ...

class E2RankOptions(_message.Message):
    __slots__ = ("prompt_documents", "prompt_order", "first_stage_scores")
    PROMPT_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_ORDER_FIELD_NUMBER: _ClassVar[int]
    FIRST_STAGE_SCORES_FIELD_NUMBER: _ClassVar[int]
    prompt_documents: int
    prompt_order: PromptOrder
    first_stage_scores: FirstStageScoreOptions
    def __init__(self, prompt_documents: _Optional[int] = ..., prompt_order: _Optional[_Union[PromptOrder, str]] = ..., first_stage_scores: _Optional[_Union[FirstStageScoreOptions, _Mapping]] = ...) -> None: ...

class FirstStageScoreOptions(_message.Message):
    __slots__ = ("scaling", "source")
    SCALING_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    scaling: FirstStageScoreScaling
    source: FirstStageScoreSource
    def __init__(self, scaling: _Optional[_Union[FirstStageScoreScaling, str]] = ..., source: _Optional[_Union[FirstStageScoreSource, str]] = ...) -> None: ...

class CosineOptions(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class VectorPrfOptions(_message.Message):
    __slots__ = ("feedback_documents", "feedback_weight")
    FEEDBACK_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    FEEDBACK_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    feedback_documents: int
    feedback_weight: float
    def __init__(self, feedback_documents: _Optional[int] = ..., feedback_weight: _Optional[float] = ...) -> None: ...

class LlmListwiseOptions(_message.Message):
    __slots__ = ("template", "window_size", "stride", "num_passes", "initial_order", "shuffle_seed", "max_words_per_document", "thinking", "reasoning_token_budget", "first_stage_scores", "allow_degraded")
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_SIZE_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    NUM_PASSES_FIELD_NUMBER: _ClassVar[int]
    INITIAL_ORDER_FIELD_NUMBER: _ClassVar[int]
    SHUFFLE_SEED_FIELD_NUMBER: _ClassVar[int]
    MAX_WORDS_PER_DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    THINKING_FIELD_NUMBER: _ClassVar[int]
    REASONING_TOKEN_BUDGET_FIELD_NUMBER: _ClassVar[int]
    FIRST_STAGE_SCORES_FIELD_NUMBER: _ClassVar[int]
    ALLOW_DEGRADED_FIELD_NUMBER: _ClassVar[int]
    template: str
    window_size: int
    stride: int
    num_passes: int
    initial_order: InitialOrder
    shuffle_seed: int
    max_words_per_document: int
    thinking: bool
    reasoning_token_budget: int
    first_stage_scores: FirstStageScoreOptions
    allow_degraded: bool
    def __init__(self, template: _Optional[str] = ..., window_size: _Optional[int] = ..., stride: _Optional[int] = ..., num_passes: _Optional[int] = ..., initial_order: _Optional[_Union[InitialOrder, str]] = ..., shuffle_seed: _Optional[int] = ..., max_words_per_document: _Optional[int] = ..., thinking: bool = ..., reasoning_token_budget: _Optional[int] = ..., first_stage_scores: _Optional[_Union[FirstStageScoreOptions, _Mapping]] = ..., allow_degraded: bool = ...) -> None: ...

class RerankResponse(_message.Message):
    __slots__ = ("results", "usage", "timings", "model", "method", "warnings", "unknown_documents", "score_kind", "llm_listwise")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    SCORE_KIND_FIELD_NUMBER: _ClassVar[int]
    LLM_LISTWISE_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[RerankResult]
    usage: RerankUsage
    timings: RerankTimings
    model: _types_pb2.ModelIdentity
    method: RerankMethod
    warnings: _containers.RepeatedCompositeFieldContainer[_types_pb2.Warning]
    unknown_documents: _containers.RepeatedScalarFieldContainer[int]
    score_kind: ScoreKind
    llm_listwise: LlmListwiseReport
    def __init__(self, results: _Optional[_Iterable[_Union[RerankResult, _Mapping]]] = ..., usage: _Optional[_Union[RerankUsage, _Mapping]] = ..., timings: _Optional[_Union[RerankTimings, _Mapping]] = ..., model: _Optional[_Union[_types_pb2.ModelIdentity, _Mapping]] = ..., method: _Optional[_Union[RerankMethod, str]] = ..., warnings: _Optional[_Iterable[_Union[_types_pb2.Warning, _Mapping]]] = ..., unknown_documents: _Optional[_Iterable[int]] = ..., score_kind: _Optional[_Union[ScoreKind, str]] = ..., llm_listwise: _Optional[_Union[LlmListwiseReport, _Mapping]] = ...) -> None: ...

class LlmListwiseReport(_message.Message):
    __slots__ = ("generator_model", "template", "template_version", "windows", "outputs", "prompt_tokens", "generated_tokens", "identifiers_absent")
    GENERATOR_MODEL_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    IDENTIFIERS_ABSENT_FIELD_NUMBER: _ClassVar[int]
    generator_model: str
    template: str
    template_version: str
    windows: int
    outputs: LlmOutputCounts
    prompt_tokens: int
    generated_tokens: int
    identifiers_absent: int
    def __init__(self, generator_model: _Optional[str] = ..., template: _Optional[str] = ..., template_version: _Optional[str] = ..., windows: _Optional[int] = ..., outputs: _Optional[_Union[LlmOutputCounts, _Mapping]] = ..., prompt_tokens: _Optional[int] = ..., generated_tokens: _Optional[int] = ..., identifiers_absent: _Optional[int] = ...) -> None: ...

class LlmOutputCounts(_message.Message):
    __slots__ = ("ok", "malformed", "repetition", "missing", "refused", "failed")
    OK_FIELD_NUMBER: _ClassVar[int]
    MALFORMED_FIELD_NUMBER: _ClassVar[int]
    REPETITION_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    ok: int
    malformed: int
    repetition: int
    missing: int
    refused: int
    failed: int
    def __init__(self, ok: _Optional[int] = ..., malformed: _Optional[int] = ..., repetition: _Optional[int] = ..., missing: _Optional[int] = ..., refused: _Optional[int] = ..., failed: _Optional[int] = ...) -> None: ...

class RerankResult(_message.Message):
    __slots__ = ("index", "id", "relevance_score", "document", "cache_tier")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    RELEVANCE_SCORE_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    CACHE_TIER_FIELD_NUMBER: _ClassVar[int]
    index: int
    id: str
    relevance_score: float
    document: Document
    cache_tier: _types_pb2.CacheTier
    def __init__(self, index: _Optional[int] = ..., id: _Optional[str] = ..., relevance_score: _Optional[float] = ..., document: _Optional[_Union[Document, _Mapping]] = ..., cache_tier: _Optional[_Union[_types_pb2.CacheTier, str]] = ...) -> None: ...

class RerankUsage(_message.Message):
    __slots__ = ("prompt_tokens", "document_tokens", "documents_from_caller", "documents_cached", "documents_embedded", "documents_truncated", "prompt_documents", "prompt_documents_truncated", "documents_stored")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FROM_CALLER_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_CACHED_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_EMBEDDED_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    PROMPT_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_DOCUMENTS_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_STORED_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    document_tokens: int
    documents_from_caller: int
    documents_cached: int
    documents_embedded: int
    documents_truncated: int
    prompt_documents: int
    prompt_documents_truncated: int
    documents_stored: int
    def __init__(self, prompt_tokens: _Optional[int] = ..., document_tokens: _Optional[int] = ..., documents_from_caller: _Optional[int] = ..., documents_cached: _Optional[int] = ..., documents_embedded: _Optional[int] = ..., documents_truncated: _Optional[int] = ..., prompt_documents: _Optional[int] = ..., prompt_documents_truncated: _Optional[int] = ..., documents_stored: _Optional[int] = ...) -> None: ...

class RerankTimings(_message.Message):
    __slots__ = ("total", "queue", "tokenize", "prompt", "lookup", "documents", "score", "store", "generate")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    TOKENIZE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    GENERATE_FIELD_NUMBER: _ClassVar[int]
    total: _duration_pb2.Duration
    queue: _duration_pb2.Duration
    tokenize: _duration_pb2.Duration
    prompt: _duration_pb2.Duration
    lookup: _duration_pb2.Duration
    documents: _duration_pb2.Duration
    score: _duration_pb2.Duration
    store: _duration_pb2.Duration
    generate: _duration_pb2.Duration
    def __init__(self, total: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., queue: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., tokenize: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., prompt: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., lookup: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., documents: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., score: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., store: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., generate: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...
