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

class InputType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INPUT_TYPE_UNSPECIFIED: _ClassVar[InputType]
    INPUT_TYPE_QUERY: _ClassVar[InputType]
    INPUT_TYPE_DOCUMENT: _ClassVar[InputType]
INPUT_TYPE_UNSPECIFIED: InputType
INPUT_TYPE_QUERY: InputType
INPUT_TYPE_DOCUMENT: InputType

class EmbedRequest(_message.Message):
    __slots__ = ("model", "namespace", "input_type", "instruction", "inputs", "encoding", "priority", "unknown_documents")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    INPUT_TYPE_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    model: str
    namespace: str
    input_type: InputType
    instruction: str
    inputs: _containers.RepeatedCompositeFieldContainer[TextInput]
    encoding: _types_pb2.VectorEncoding
    priority: int
    unknown_documents: _types_pb2.UnknownDocuments
    def __init__(self, model: _Optional[str] = ..., namespace: _Optional[str] = ..., input_type: _Optional[_Union[InputType, str]] = ..., instruction: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[TextInput, _Mapping]]] = ..., encoding: _Optional[_Union[_types_pb2.VectorEncoding, str]] = ..., priority: _Optional[int] = ..., unknown_documents: _Optional[_Union[_types_pb2.UnknownDocuments, str]] = ...) -> None: ...

class TextInput(_message.Message):
    __slots__ = ("text", "title", "id")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    text: str
    title: str
    id: str
    def __init__(self, text: _Optional[str] = ..., title: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("vectors", "truncated", "cache_tiers", "usage", "timings", "model", "warnings", "unknown_inputs")
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    CACHE_TIERS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_INPUTS_FIELD_NUMBER: _ClassVar[int]
    vectors: _types_pb2.VectorMatrix
    truncated: _containers.RepeatedScalarFieldContainer[bool]
    cache_tiers: _containers.RepeatedScalarFieldContainer[_types_pb2.CacheTier]
    usage: EmbedUsage
    timings: EmbedTimings
    model: _types_pb2.ModelIdentity
    warnings: _containers.RepeatedCompositeFieldContainer[_types_pb2.Warning]
    unknown_inputs: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, vectors: _Optional[_Union[_types_pb2.VectorMatrix, _Mapping]] = ..., truncated: _Optional[_Iterable[bool]] = ..., cache_tiers: _Optional[_Iterable[_Union[_types_pb2.CacheTier, str]]] = ..., usage: _Optional[_Union[EmbedUsage, _Mapping]] = ..., timings: _Optional[_Union[EmbedTimings, _Mapping]] = ..., model: _Optional[_Union[_types_pb2.ModelIdentity, _Mapping]] = ..., warnings: _Optional[_Iterable[_Union[_types_pb2.Warning, _Mapping]]] = ..., unknown_inputs: _Optional[_Iterable[int]] = ...) -> None: ...

class EmbedUsage(_message.Message):
    __slots__ = ("tokens", "inputs_cached", "inputs_embedded", "inputs_truncated")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_CACHED_FIELD_NUMBER: _ClassVar[int]
    INPUTS_EMBEDDED_FIELD_NUMBER: _ClassVar[int]
    INPUTS_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    inputs_cached: int
    inputs_embedded: int
    inputs_truncated: int
    def __init__(self, tokens: _Optional[int] = ..., inputs_cached: _Optional[int] = ..., inputs_embedded: _Optional[int] = ..., inputs_truncated: _Optional[int] = ...) -> None: ...

class EmbedTimings(_message.Message):
    __slots__ = ("total", "queue", "lookup", "tokenize", "embed", "store")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    LOOKUP_FIELD_NUMBER: _ClassVar[int]
    TOKENIZE_FIELD_NUMBER: _ClassVar[int]
    EMBED_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    total: _duration_pb2.Duration
    queue: _duration_pb2.Duration
    lookup: _duration_pb2.Duration
    tokenize: _duration_pb2.Duration
    embed: _duration_pb2.Duration
    store: _duration_pb2.Duration
    def __init__(self, total: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., queue: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., lookup: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., tokenize: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., embed: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., store: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...
