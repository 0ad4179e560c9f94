from e2rank.v1 import rerank_pb2 as _rerank_pb2
from e2rank.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

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
    __slots__ = ("identity", "dimension", "trained_for_listwise", "default_method", "default_prompt_order", "compute_dtype", "limits", "load")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FOR_LISTWISE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_METHOD_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_PROMPT_ORDER_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_DTYPE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    identity: _types_pb2.ModelIdentity
    dimension: int
    trained_for_listwise: bool
    default_method: _rerank_pb2.RerankMethod
    default_prompt_order: _rerank_pb2.PromptOrder
    compute_dtype: str
    limits: ModelLimits
    load: ModelLoad
    def __init__(self, identity: _Optional[_Union[_types_pb2.ModelIdentity, _Mapping]] = ..., dimension: _Optional[int] = ..., trained_for_listwise: bool = ..., default_method: _Optional[_Union[_rerank_pb2.RerankMethod, str]] = ..., default_prompt_order: _Optional[_Union[_rerank_pb2.PromptOrder, str]] = ..., compute_dtype: _Optional[str] = ..., limits: _Optional[_Union[ModelLimits, _Mapping]] = ..., load: _Optional[_Union[ModelLoad, _Mapping]] = ...) -> None: ...

class ModelLoad(_message.Message):
    __slots__ = ("is_serving", "running_tokens", "waiting_tokens")
    IS_SERVING_FIELD_NUMBER: _ClassVar[int]
    RUNNING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WAITING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    is_serving: bool
    running_tokens: int
    waiting_tokens: int
    def __init__(self, is_serving: bool = ..., running_tokens: _Optional[int] = ..., waiting_tokens: _Optional[int] = ...) -> None: ...

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
