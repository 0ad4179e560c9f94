from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VectorEncoding(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VECTOR_ENCODING_UNSPECIFIED: _ClassVar[VectorEncoding]
    VECTOR_ENCODING_FLOAT32: _ClassVar[VectorEncoding]
    VECTOR_ENCODING_FLOAT16: _ClassVar[VectorEncoding]

class TokenizerBackend(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TOKENIZER_BACKEND_UNSPECIFIED: _ClassVar[TokenizerBackend]
    TOKENIZER_BACKEND_IN_PROCESS: _ClassVar[TokenizerBackend]
    TOKENIZER_BACKEND_TRITON: _ClassVar[TokenizerBackend]

class EmbedderBackend(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EMBEDDER_BACKEND_UNSPECIFIED: _ClassVar[EmbedderBackend]
    EMBEDDER_BACKEND_VLLM_IN_PROCESS: _ClassVar[EmbedderBackend]
    EMBEDDER_BACKEND_FAKE: _ClassVar[EmbedderBackend]
    EMBEDDER_BACKEND_VLLM_REMOTE: _ClassVar[EmbedderBackend]

class UnknownDocuments(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNKNOWN_DOCUMENTS_UNSPECIFIED: _ClassVar[UnknownDocuments]
    UNKNOWN_DOCUMENTS_FAIL: _ClassVar[UnknownDocuments]
    UNKNOWN_DOCUMENTS_DROP: _ClassVar[UnknownDocuments]

class WarningCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WARNING_CODE_UNSPECIFIED: _ClassVar[WarningCode]
    WARNING_CODE_PROFILE_NOT_TRAINED_FOR_LISTWISE: _ClassVar[WarningCode]
    WARNING_CODE_QUERY_TRUNCATED: _ClassVar[WarningCode]
    WARNING_CODE_INSTRUCTION_IGNORED: _ClassVar[WarningCode]
    WARNING_CODE_PROMPT_DOCUMENTS_SHRUNK: _ClassVar[WarningCode]
    WARNING_CODE_FIRST_STAGE_SCORES_EXPERIMENTAL: _ClassVar[WarningCode]
    WARNING_CODE_DOCUMENTS_NOT_EMBEDDED: _ClassVar[WarningCode]
    WARNING_CODE_CANDIDATE_BM25: _ClassVar[WarningCode]
    WARNING_CODE_GENERATOR_FAILED: _ClassVar[WarningCode]
    WARNING_CODE_LLM_OUTPUT_REPAIRED: _ClassVar[WarningCode]

class CacheTier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE_TIER_UNSPECIFIED: _ClassVar[CacheTier]
    CACHE_TIER_CALLER: _ClassVar[CacheTier]
    CACHE_TIER_MEMORY: _ClassVar[CacheTier]
    CACHE_TIER_COMPUTED: _ClassVar[CacheTier]
    CACHE_TIER_DISK: _ClassVar[CacheTier]
    CACHE_TIER_SHARED: _ClassVar[CacheTier]
VECTOR_ENCODING_UNSPECIFIED: VectorEncoding
VECTOR_ENCODING_FLOAT32: VectorEncoding
VECTOR_ENCODING_FLOAT16: VectorEncoding
TOKENIZER_BACKEND_UNSPECIFIED: TokenizerBackend
TOKENIZER_BACKEND_IN_PROCESS: TokenizerBackend
TOKENIZER_BACKEND_TRITON: TokenizerBackend
EMBEDDER_BACKEND_UNSPECIFIED: EmbedderBackend
EMBEDDER_BACKEND_VLLM_IN_PROCESS: EmbedderBackend
EMBEDDER_BACKEND_FAKE: EmbedderBackend
EMBEDDER_BACKEND_VLLM_REMOTE: EmbedderBackend
UNKNOWN_DOCUMENTS_UNSPECIFIED: UnknownDocuments
UNKNOWN_DOCUMENTS_FAIL: UnknownDocuments
UNKNOWN_DOCUMENTS_DROP: UnknownDocuments
WARNING_CODE_UNSPECIFIED: WarningCode
WARNING_CODE_PROFILE_NOT_TRAINED_FOR_LISTWISE: WarningCode
WARNING_CODE_QUERY_TRUNCATED: WarningCode
WARNING_CODE_INSTRUCTION_IGNORED: WarningCode
WARNING_CODE_PROMPT_DOCUMENTS_SHRUNK: WarningCode
WARNING_CODE_FIRST_STAGE_SCORES_EXPERIMENTAL: WarningCode
WARNING_CODE_DOCUMENTS_NOT_EMBEDDED: WarningCode
WARNING_CODE_CANDIDATE_BM25: WarningCode
WARNING_CODE_GENERATOR_FAILED: WarningCode
WARNING_CODE_LLM_OUTPUT_REPAIRED: WarningCode
CACHE_TIER_UNSPECIFIED: CacheTier
CACHE_TIER_CALLER: CacheTier
CACHE_TIER_MEMORY: CacheTier
CACHE_TIER_COMPUTED: CacheTier
CACHE_TIER_DISK: CacheTier
CACHE_TIER_SHARED: CacheTier

class Vector(_message.Message):
    __slots__ = ("data", "encoding", "dimension", "model_fingerprint")
    DATA_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    encoding: VectorEncoding
    dimension: int
    model_fingerprint: str
    def __init__(self, data: _Optional[bytes] = ..., encoding: _Optional[_Union[VectorEncoding, str]] = ..., dimension: _Optional[int] = ..., model_fingerprint: _Optional[str] = ...) -> None: ...

class VectorMatrix(_message.Message):
    __slots__ = ("data", "encoding", "dimension", "model_fingerprint")
    DATA_FIELD_NUMBER: _ClassVar[int]
    ENCODING_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    encoding: VectorEncoding
    dimension: int
    model_fingerprint: str
    def __init__(self, data: _Optional[bytes] = ..., encoding: _Optional[_Union[VectorEncoding, str]] = ..., dimension: _Optional[int] = ..., model_fingerprint: _Optional[str] = ...) -> None: ...

class ModelIdentity(_message.Message):
    __slots__ = ("profile", "revision", "fingerprint", "template_version", "tokenizer_backend", "embedder_backend")
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_VERSION_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_BACKEND_FIELD_NUMBER: _ClassVar[int]
    EMBEDDER_BACKEND_FIELD_NUMBER: _ClassVar[int]
    profile: str
    revision: str
    fingerprint: str
    template_version: str
    tokenizer_backend: TokenizerBackend
    embedder_backend: EmbedderBackend
    def __init__(self, profile: _Optional[str] = ..., revision: _Optional[str] = ..., fingerprint: _Optional[str] = ..., template_version: _Optional[str] = ..., tokenizer_backend: _Optional[_Union[TokenizerBackend, str]] = ..., embedder_backend: _Optional[_Union[EmbedderBackend, str]] = ...) -> None: ...

class Warning(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: WarningCode
    message: str
    def __init__(self, code: _Optional[_Union[WarningCode, str]] = ..., message: _Optional[str] = ...) -> None: ...
