from e2rank.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PutOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PUT_OUTCOME_UNSPECIFIED: _ClassVar[PutOutcome]
    PUT_OUTCOME_NEW: _ClassVar[PutOutcome]
    PUT_OUTCOME_UNCHANGED: _ClassVar[PutOutcome]
    PUT_OUTCOME_REPLACED: _ClassVar[PutOutcome]
PUT_OUTCOME_UNSPECIFIED: PutOutcome
PUT_OUTCOME_NEW: PutOutcome
PUT_OUTCOME_UNCHANGED: PutOutcome
PUT_OUTCOME_REPLACED: PutOutcome

class PutDocumentsRequest(_message.Message):
    __slots__ = ("namespace", "documents", "models", "store_only", "priority")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    STORE_ONLY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    documents: _containers.RepeatedCompositeFieldContainer[StoredDocument]
    models: _containers.RepeatedScalarFieldContainer[str]
    store_only: bool
    priority: int
    def __init__(self, namespace: _Optional[str] = ..., documents: _Optional[_Iterable[_Union[StoredDocument, _Mapping]]] = ..., models: _Optional[_Iterable[str]] = ..., store_only: bool = ..., priority: _Optional[int] = ...) -> None: ...

class StoredDocument(_message.Message):
    __slots__ = ("id", "text", "title")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    id: str
    text: str
    title: str
    def __init__(self, id: _Optional[str] = ..., text: _Optional[str] = ..., title: _Optional[str] = ...) -> None: ...

class PutDocumentsResponse(_message.Message):
    __slots__ = ("outcomes", "documents_new", "documents_unchanged", "documents_replaced", "stats", "embedded", "warnings")
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_NEW_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_REPLACED_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDED_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedScalarFieldContainer[PutOutcome]
    documents_new: int
    documents_unchanged: int
    documents_replaced: int
    stats: NamespaceStats
    embedded: _containers.RepeatedCompositeFieldContainer[EmbeddedAhead]
    warnings: _containers.RepeatedCompositeFieldContainer[_types_pb2.Warning]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[PutOutcome, str]]] = ..., documents_new: _Optional[int] = ..., documents_unchanged: _Optional[int] = ..., documents_replaced: _Optional[int] = ..., stats: _Optional[_Union[NamespaceStats, _Mapping]] = ..., embedded: _Optional[_Iterable[_Union[EmbeddedAhead, _Mapping]]] = ..., warnings: _Optional[_Iterable[_Union[_types_pb2.Warning, _Mapping]]] = ...) -> None: ...

class EmbeddedAhead(_message.Message):
    __slots__ = ("model", "documents_cached", "documents_embedded", "documents_not_embedded", "documents_truncated", "tokens")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_CACHED_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_EMBEDDED_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_NOT_EMBEDDED_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    model: str
    documents_cached: int
    documents_embedded: int
    documents_not_embedded: int
    documents_truncated: int
    tokens: int
    def __init__(self, model: _Optional[str] = ..., documents_cached: _Optional[int] = ..., documents_embedded: _Optional[int] = ..., documents_not_embedded: _Optional[int] = ..., documents_truncated: _Optional[int] = ..., tokens: _Optional[int] = ...) -> None: ...

class GetDocumentsRequest(_message.Message):
    __slots__ = ("namespace", "ids", "existence_only")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    EXISTENCE_ONLY_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    existence_only: bool
    def __init__(self, namespace: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ..., existence_only: bool = ...) -> None: ...

class GetDocumentsResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[DocumentResult]
    def __init__(self, results: _Optional[_Iterable[_Union[DocumentResult, _Mapping]]] = ...) -> None: ...

class DocumentResult(_message.Message):
    __slots__ = ("id", "found", "document")
    ID_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    id: str
    found: bool
    document: StoredDocument
    def __init__(self, id: _Optional[str] = ..., found: bool = ..., document: _Optional[_Union[StoredDocument, _Mapping]] = ...) -> None: ...

class DeleteDocumentsRequest(_message.Message):
    __slots__ = ("namespace", "ids")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, namespace: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteDocumentsResponse(_message.Message):
    __slots__ = ("existed", "documents_deleted")
    EXISTED_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_DELETED_FIELD_NUMBER: _ClassVar[int]
    existed: _containers.RepeatedScalarFieldContainer[bool]
    documents_deleted: int
    def __init__(self, existed: _Optional[_Iterable[bool]] = ..., documents_deleted: _Optional[int] = ...) -> None: ...

class DeleteNamespaceRequest(_message.Message):
    __slots__ = ("namespace",)
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    def __init__(self, namespace: _Optional[str] = ...) -> None: ...

class DeleteNamespaceResponse(_message.Message):
    __slots__ = ("deleted",)
    DELETED_FIELD_NUMBER: _ClassVar[int]
    deleted: NamespaceStats
    def __init__(self, deleted: _Optional[_Union[NamespaceStats, _Mapping]] = ...) -> None: ...

class GetNamespaceStatsRequest(_message.Message):
    __slots__ = ("namespace",)
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    def __init__(self, namespace: _Optional[str] = ...) -> None: ...

class GetNamespaceStatsResponse(_message.Message):
    __slots__ = ("stats",)
    STATS_FIELD_NUMBER: _ClassVar[int]
    stats: NamespaceStats
    def __init__(self, stats: _Optional[_Union[NamespaceStats, _Mapping]] = ...) -> None: ...

class NamespaceStats(_message.Message):
    __slots__ = ("documents", "stored_bytes", "max_bytes")
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    documents: int
    stored_bytes: int
    max_bytes: int
    def __init__(self, documents: _Optional[int] = ..., stored_bytes: _Optional[int] = ..., max_bytes: _Optional[int] = ...) -> None: ...
