from e2rank.v1 import rerank_pb2 as _rerank_pb2
from e2rank.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GeneratorBackend(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GENERATOR_BACKEND_UNSPECIFIED: _ClassVar[GeneratorBackend]
    GENERATOR_BACKEND_VLLM_IN_PROCESS: _ClassVar[GeneratorBackend]
    GENERATOR_BACKEND_OPENAI_ENDPOINT: _ClassVar[GeneratorBackend]

class SecondTierState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SECOND_TIER_STATE_UNSPECIFIED: _ClassVar[SecondTierState]
    SECOND_TIER_STATE_AVAILABLE: _ClassVar[SecondTierState]
    SECOND_TIER_STATE_AWAY: _ClassVar[SecondTierState]
    SECOND_TIER_STATE_PROBING: _ClassVar[SecondTierState]
GENERATOR_BACKEND_UNSPECIFIED: GeneratorBackend
GENERATOR_BACKEND_VLLM_IN_PROCESS: GeneratorBackend
GENERATOR_BACKEND_OPENAI_ENDPOINT: GeneratorBackend
SECOND_TIER_STATE_UNSPECIFIED: SecondTierState
SECOND_TIER_STATE_AVAILABLE: SecondTierState
SECOND_TIER_STATE_AWAY: SecondTierState
SECOND_TIER_STATE_PROBING: SecondTierState

class GetModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("identity", "dimension", "trained_for_listwise", "default_method", "default_prompt_order", "compute_dtype", "limits", "load", "cache", "generator")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FOR_LISTWISE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_METHOD_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_PROMPT_ORDER_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    GENERATOR_FIELD_NUMBER: _ClassVar[int]
    identity: _types_pb2.ModelIdentity
    dimension: int
    trained_for_listwise: bool
    default_method: _rerank_pb2.RerankMethod
    default_prompt_order: _rerank_pb2.PromptOrder
    compute_dtype: str
    limits: ModelLimits
    load: ModelLoad
    cache: CacheStats
    generator: Generator
    def __init__(self, identity: _Optional[_Union[_types_pb2.ModelIdentity, _Mapping]] = ..., dimension: _Optional[int] = ..., trained_for_listwise: bool = ..., default_method: _Optional[_Union[_rerank_pb2.RerankMethod, str]] = ..., default_prompt_order: _Optional[_Union[_rerank_pb2.PromptOrder, str]] = ..., compute_dtype: _Optional[str] = ..., limits: _Optional[_Union[ModelLimits, _Mapping]] = ..., load: _Optional[_Union[ModelLoad, _Mapping]] = ..., cache: _Optional[_Union[CacheStats, _Mapping]] = ..., generator: _Optional[_Union[Generator, _Mapping]] = ...) -> None: ...

class Generator(_message.Message):
    __slots__ = ("model", "backend", "max_model_tokens", "templates", "default_template", "default_score_template", "outputs")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_SCORE_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    model: str
    backend: GeneratorBackend
    max_model_tokens: int
    templates: _containers.RepeatedScalarFieldContainer[str]
    default_template: str
    default_score_template: str
    outputs: _rerank_pb2.LlmOutputCounts
    def __init__(self, model: _Optional[str] = ..., backend: _Optional[_Union[GeneratorBackend, str]] = ..., max_model_tokens: _Optional[int] = ..., templates: _Optional[_Iterable[str]] = ..., default_template: _Optional[str] = ..., default_score_template: _Optional[str] = ..., outputs: _Optional[_Union[_rerank_pb2.LlmOutputCounts, _Mapping]] = ...) -> None: ...

class ModelLoad(_message.Message):
    __slots__ = ("is_serving", "running_tokens", "waiting_tokens")
    IS_SERVING_FIELD_NUMBER: _ClassVar[int]
    RUNNING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WAITING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    is_serving: bool
    running_tokens: int
    waiting_tokens: int
    def __init__(self, is_serving: bool = ..., running_tokens: _Optional[int] = ..., waiting_tokens: _Optional[int] = ...) -> None: ...

class CacheStats(_message.Message):
    __slots__ = ("hits", "misses", "evictions", "rejected", "entries", "resident_bytes", "max_bytes", "second_tier")
    HITS_FIELD_NUMBER: _ClassVar[int]
    MISSES_FIELD_NUMBER: _ClassVar[int]
    EVICTIONS_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    SECOND_TIER_FIELD_NUMBER: _ClassVar[int]
    hits: int
    misses: int
    evictions: int
    rejected: int
    entries: int
    resident_bytes: int
    max_bytes: int
    second_tier: SecondTierStats
    def __init__(self, hits: _Optional[int] = ..., misses: _Optional[int] = ..., evictions: _Optional[int] = ..., rejected: _Optional[int] = ..., entries: _Optional[int] = ..., resident_bytes: _Optional[int] = ..., max_bytes: _Optional[int] = ..., second_tier: _Optional[_Union[SecondTierStats, _Mapping]] = ...) -> None: ...

class SecondTierStats(_message.Message):
    __slots__ = ("tier", "state", "hits", "misses", "rejected", "timeouts", "errors", "skipped", "writes")
    TIER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    MISSES_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    TIMEOUTS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    WRITES_FIELD_NUMBER: _ClassVar[int]
    tier: _types_pb2.CacheTier
    state: SecondTierState
    hits: int
    misses: int
    rejected: int
    timeouts: int
    errors: int
    skipped: int
    writes: SecondTierWrites
    def __init__(self, tier: _Optional[_Union[_types_pb2.CacheTier, str]] = ..., state: _Optional[_Union[SecondTierState, str]] = ..., hits: _Optional[int] = ..., misses: _Optional[int] = ..., rejected: _Optional[int] = ..., timeouts: _Optional[int] = ..., errors: _Optional[int] = ..., skipped: _Optional[int] = ..., writes: _Optional[_Union[SecondTierWrites, _Mapping]] = ...) -> None: ...

class SecondTierWrites(_message.Message):
    __slots__ = ("state", "written", "dropped", "errors", "pending", "pending_bytes", "pending_purges")
    STATE_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    PENDING_BYTES_FIELD_NUMBER: _ClassVar[int]
    PENDING_PURGES_FIELD_NUMBER: _ClassVar[int]
    state: SecondTierState
    written: int
    dropped: int
    errors: int
    pending: int
    pending_bytes: int
    pending_purges: int
    def __init__(self, state: _Optional[_Union[SecondTierState, str]] = ..., written: _Optional[int] = ..., dropped: _Optional[int] = ..., errors: _Optional[int] = ..., pending: _Optional[int] = ..., pending_bytes: _Optional[int] = ..., pending_purges: _Optional[int] = ...) -> None: ...

class ModelLimits(_message.Message):
    __slots__ = ("max_documents_per_request", "max_inputs_per_request", "max_query_bytes", "max_document_bytes", "max_request_bytes", "max_query_tokens", "max_document_tokens", "max_prompt_tokens", "default_prompt_documents", "max_prompt_documents")
    MAX_DOCUMENTS_PER_REQUEST_FIELD_NUMBER: _ClassVar[int]
    MAX_INPUTS_PER_REQUEST_FIELD_NUMBER: _ClassVar[int]
    MAX_QUERY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_DOCUMENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_QUERY_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_DOCUMENT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_PROMPT_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPT_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    max_documents_per_request: int
    max_inputs_per_request: int
    max_query_bytes: int
    max_document_bytes: int
    max_request_bytes: int
    max_query_tokens: int
    max_document_tokens: int
    max_prompt_tokens: int
    default_prompt_documents: int
    max_prompt_documents: int
    def __init__(self, max_documents_per_request: _Optional[int] = ..., max_inputs_per_request: _Optional[int] = ..., max_query_bytes: _Optional[int] = ..., max_document_bytes: _Optional[int] = ..., max_request_bytes: _Optional[int] = ..., max_query_tokens: _Optional[int] = ..., max_document_tokens: _Optional[int] = ..., max_prompt_tokens: _Optional[int] = ..., default_prompt_documents: _Optional[int] = ..., max_prompt_documents: _Optional[int] = ...) -> None: ...
