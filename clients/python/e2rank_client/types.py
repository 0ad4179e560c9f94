"""What callers give and get, as immutable values. Wire messages stop at `wire.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]
BoolArray: TypeAlias = NDArray[np.bool_]


class Method(StrEnum):
    """How candidates are scored."""

    UNRECOGNISED = "UNRECOGNISED"
    """Of a server newer than this client; so in the other enumerations."""
    E2RANK = "E2RANK"
    """One embedding of a listwise prompt, that is the query with its first candidates."""
    COSINE = "COSINE"
    """The plain query embedding."""
    VECTOR_PRF = "VECTOR_PRF"
    """The query embedding, moved towards those of the first documents."""
    LLM_LISTWISE = "LLM_LISTWISE"
    """An LLM writes out the order, a window at a time."""


class ScoreKind(StrEnum):
    """What the scores of an answer are."""

    UNRECOGNISED = "UNRECOGNISED"
    COSINE = "COSINE"
    """Cosines of embeddings."""
    RECIPROCAL_RANK = "RECIPROCAL_RANK"
    """One over the rank: nothing can be read from it but the order."""


class PromptOrder(StrEnum):
    """The order in which candidates enter the listwise prompt."""

    UNRECOGNISED = "UNRECOGNISED"
    FIRST_STAGE = "FIRST_STAGE"
    """As in the request."""
    COSINE = "COSINE"
    """By cosine with the plain query embedding, at the cost of one short pass."""


class ScoreScaling(StrEnum):
    """How first-stage scores are written into the prompt."""

    RAW = "RAW"
    """As given, three decimals."""
    MIN_MAX = "MIN_MAX"
    """Linear to 0..1."""
    PERCENT = "PERCENT"
    """Linear to 0..100, rounded to integers."""


class ScoreSource(StrEnum):
    """Whose first-stage scores are written into a prompt."""

    CALLER = "CALLER"
    """The documents' `first_stage_score`."""
    CANDIDATE_BM25 = "CANDIDATE_BM25"
    """BM25, computed by the server over the candidates of this request alone."""


class InitialOrder(StrEnum):
    """The order in which an LLM first sees the candidates."""

    FIRST_STAGE = "FIRST_STAGE"
    """As in the request."""
    REVERSED = "REVERSED"
    SHUFFLED = "SHUFFLED"
    """At random, by the options' `shuffle_seed`."""


class InputType(StrEnum):
    """What a text to embed is; the two have different templates in most models."""

    QUERY = "QUERY"
    DOCUMENT = "DOCUMENT"


class UnknownDocuments(StrEnum):
    """What becomes of documents that are named by an id that is not stored."""

    FAIL = "FAIL"
    """The call fails with UnknownDocumentsError."""
    DROP = "DROP"
    """They are left out, and the answer says which."""


class PutOutcome(StrEnum):
    """What putting a document did."""

    UNRECOGNISED = "UNRECOGNISED"
    NEW = "NEW"
    UNCHANGED = "UNCHANGED"
    """It was there with the same text and title."""
    REPLACED = "REPLACED"


class CacheTier(StrEnum):
    """Where a document's vector came from."""

    UNRECOGNISED = "UNRECOGNISED"
    CALLER = "CALLER"
    """The request brought it."""
    MEMORY = "MEMORY"
    """The gateway's memory."""
    DISK = "DISK"
    """The persistent cache on the gateway's machine."""
    SHARED = "SHARED"
    """The cache that all gateways share."""
    COMPUTED = "COMPUTED"
    """No cache had it."""


class TokenizerBackend(StrEnum):
    """What turned text into token ids."""

    UNRECOGNISED = "UNRECOGNISED"
    IN_PROCESS = "IN_PROCESS"
    TRITON = "TRITON"


class EmbedderBackend(StrEnum):
    """What turned token ids into vectors."""

    UNRECOGNISED = "UNRECOGNISED"
    VLLM_IN_PROCESS = "VLLM_IN_PROCESS"
    VLLM_REMOTE = "VLLM_REMOTE"
    FAKE = "FAKE"


class GeneratorBackend(StrEnum):
    """What runs an LLM."""

    UNRECOGNISED = "UNRECOGNISED"
    VLLM_IN_PROCESS = "VLLM_IN_PROCESS"
    OPENAI_ENDPOINT = "OPENAI_ENDPOINT"


class WarningCode(StrEnum):
    """Why a valid answer carries a warning."""

    UNRECOGNISED = "UNRECOGNISED"
    PROFILE_NOT_TRAINED_FOR_LISTWISE = "PROFILE_NOT_TRAINED_FOR_LISTWISE"
    QUERY_TRUNCATED = "QUERY_TRUNCATED"
    INSTRUCTION_IGNORED = "INSTRUCTION_IGNORED"
    PROMPT_DOCUMENTS_SHRUNK = "PROMPT_DOCUMENTS_SHRUNK"
    FIRST_STAGE_SCORES_EXPERIMENTAL = "FIRST_STAGE_SCORES_EXPERIMENTAL"
    DOCUMENTS_NOT_EMBEDDED = "DOCUMENTS_NOT_EMBEDDED"
    CANDIDATE_BM25 = "CANDIDATE_BM25"
    GENERATOR_FAILED = "GENERATOR_FAILED"
    LLM_OUTPUT_REPAIRED = "LLM_OUTPUT_REPAIRED"


class SecondTierState(StrEnum):
    """Whether calls are made to a second tier of the cache."""

    UNRECOGNISED = "UNRECOGNISED"
    AVAILABLE = "AVAILABLE"
    AWAY = "AWAY"
    """It failed; it is tried again after a pause."""
    PROBING = "PROBING"
    """One call tries whether it is back."""


class HealthStatus(StrEnum):
    """What a server says of itself (grpc.health.v1)."""

    UNRECOGNISED = "UNRECOGNISED"
    SERVING = "SERVING"
    NOT_SERVING = "NOT_SERVING"


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    """An embedding: `values` is float32, shape [dimension], read-only if it came from a server.

    `model_fingerprint` names the model that made it, which the server demands
    of every vector that it is given.
    """

    values: FloatArray
    model_fingerprint: str


@dataclass(frozen=True, slots=True)
class Document:
    """A candidate: a text, a vector or both; or an id alone, that of a stored document.

    One shown in the prompt needs its text, given here or stored.
    """

    text: str | None = None
    id: str = ""
    title: str | None = None
    vector: Vector | None = None
    first_stage_score: float | None = None


@dataclass(frozen=True, slots=True)
class FirstStageScores:
    """How first-stage scores are written into a prompt, and whose (InsertRank)."""

    scaling: ScoreScaling = ScoreScaling.RAW
    source: ScoreSource = ScoreSource.CALLER


@dataclass(frozen=True, slots=True)
class E2RankOptions:
    """Options of the method E2RANK; None means the profile's value."""

    prompt_documents: int | None = None
    """How many documents the prompt shows."""
    prompt_order: PromptOrder | None = None
    first_stage_scores: FirstStageScores | None = None
    """If set, first-stage scores stand in the prompt (an experiment)."""


@dataclass(frozen=True, slots=True)
class CosineOptions:
    """Options of the method COSINE, which has none."""


@dataclass(frozen=True, slots=True)
class VectorPrfOptions:
    """Options of the method VECTOR_PRF; None means the server's value."""

    feedback_documents: int | None = None
    """How many documents, in the request's order, are taken to be relevant (5)."""
    feedback_weight: float | None = None
    """Weight of their mean against the query's 1 (0.6)."""


@dataclass(frozen=True, slots=True)
class LlmListwiseOptions:
    """Options of the method LLM_LISTWISE; None means the template's value, or the server's."""

    template: str | None = None
    """Name of a prompt template; `Model.generator` lists them."""
    window_size: int | None = None
    """Candidates in one prompt (20)."""
    stride: int | None = None
    """How far the next window begins before the last (half a window)."""
    num_passes: int | None = None
    """How often the windows slide over all candidates (once)."""
    initial_order: InitialOrder | None = None
    shuffle_seed: int = 0
    max_words_per_document: int | None = None
    thinking: bool = False
    """Whether a template that can do both asks the model to think first."""
    reasoning_token_budget: int | None = None
    first_stage_scores: FirstStageScores | None = None
    """If set, each candidate's own first-stage score stands beside it (InsertRank)."""
    allow_degraded: bool = False
    """If the generator fails for a window, keep its order and warn instead of failing."""


@dataclass(frozen=True, slots=True)
class AnswerWarning:
    """A code for programs and a sentence for people."""

    code: WarningCode
    message: str


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model answered, precisely enough to reproduce the answer."""

    profile: str
    revision: str
    fingerprint: str
    template_version: str
    tokenizer_backend: TokenizerBackend
    embedder_backend: EmbedderBackend


@dataclass(frozen=True, slots=True)
class RankedDocument:
    """One result: `index` is the document's position in the request.

    `relevance_score` is of the answer's `score_kind`, comparable within one answer only;
    `document` is None unless documents were asked for.
    """

    index: int
    id: str
    relevance_score: float
    document: Document | None
    cache_tier: CacheTier


@dataclass(frozen=True, slots=True)
class RerankUsage:
    """What the answer cost; RerankUsage in protos/e2rank/v1/rerank.proto explains each count."""

    prompt_tokens: int
    document_tokens: int
    documents_from_caller: int
    documents_cached: int
    documents_embedded: int
    documents_truncated: int
    prompt_documents: int
    prompt_documents_truncated: int
    documents_stored: int = 0


@dataclass(frozen=True, slots=True)
class RerankTimings:
    """Wall-clock seconds in the server by stage; stages overlap."""

    total_seconds: float
    queue_seconds: float
    tokenize_seconds: float
    prompt_seconds: float
    lookup_seconds: float
    documents_seconds: float
    score_seconds: float
    store_seconds: float = 0.0
    generate_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LlmOutputCounts:
    """Outputs of an LLM by what was wrong with them; see rerank.proto for each."""

    ok: int
    malformed: int
    repetition: int
    missing: int
    refused: int
    failed: int


@dataclass(frozen=True, slots=True)
class LlmListwiseReport:
    """What an LLM was asked and how well it answered; see rerank.proto for each count."""

    generator_model: str
    template: str
    template_version: str
    windows: int
    outputs: LlmOutputCounts
    prompt_tokens: int
    generated_tokens: int
    identifiers_absent: int


@dataclass(frozen=True, slots=True)
class RerankResult:
    """The answer to `rerank`: `results` are best first, equal scores in request order.

    `unknown_documents` has the positions of those that were dropped.
    """

    results: Sequence[RankedDocument]
    method: Method
    usage: RerankUsage
    timings: RerankTimings
    model: ModelIdentity
    warnings: Sequence[AnswerWarning]
    unknown_documents: Sequence[int] = ()
    score_kind: ScoreKind = ScoreKind.COSINE
    llm_listwise: LlmListwiseReport | None = None
    """Set if the method was LLM_LISTWISE."""


@dataclass(frozen=True, slots=True)
class EmbedUsage:
    """What the answer cost; EmbedUsage in protos/e2rank/v1/embedding.proto explains each count."""

    tokens: int
    inputs_cached: int
    inputs_embedded: int
    inputs_truncated: int


@dataclass(frozen=True, slots=True)
class EmbedTimings:
    """Wall-clock seconds in the server by stage."""

    total_seconds: float
    queue_seconds: float
    lookup_seconds: float
    tokenize_seconds: float
    embed_seconds: float
    store_seconds: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class EmbedResult:
    """The answer to `embed` and `embed_stored`.

    `vectors` is float32 [texts, dimension], a row a text in its order,
    L2-normalised; it views the answer's bytes and is read-only. `truncated`
    says of each text whether it exceeded the model's limit and was cut at its
    end; it is False for a vector from the cache. `unknown_inputs` has the
    positions of the ids that were dropped, which have no row.
    """

    vectors: FloatArray
    truncated: Sequence[bool]
    cache_tiers: Sequence[CacheTier]
    usage: EmbedUsage
    timings: EmbedTimings
    model: ModelIdentity
    warnings: Sequence[AnswerWarning]
    unknown_inputs: Sequence[int] = ()

    def vector(self, index: int) -> Vector:
        """Return one row as a document brings it to `rerank`."""
        return Vector(self.vectors[index], self.model.fingerprint)


@dataclass(frozen=True, slots=True, eq=False)
class EmbedManyResult:
    """The answer to `embed_many`; its arrays are the caller's own.

    `vectors` is float32 [texts, dimension] and `truncated` bool [texts], both
    in the texts' order and as in `EmbedResult`. `usage` is the batches' sum, and
    `warnings` has each of theirs once.
    """

    vectors: FloatArray
    truncated: BoolArray
    usage: EmbedUsage
    model: ModelIdentity
    warnings: Sequence[AnswerWarning]

    def vector(self, index: int) -> Vector:
        """Return one text's embedding as a document brings it to `rerank`."""
        return Vector(self.vectors[index], self.model.fingerprint)


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document that is kept under its id, which is unique within its namespace."""

    id: str
    text: str
    title: str | None = None


@dataclass(frozen=True, slots=True)
class EmbeddedAhead:
    """What embedding put documents with one model took.

    EmbeddedAhead in protos/e2rank/v1/document.proto explains each count.
    """

    model: str
    documents_cached: int
    documents_embedded: int
    documents_not_embedded: int
    documents_truncated: int
    tokens: int


@dataclass(frozen=True, slots=True)
class NamespaceStats:
    """How full a namespace is: `max_bytes` is its quota."""

    documents: int
    stored_bytes: int
    """Ids, titles and texts in UTF-8, and 128 bytes a document."""
    max_bytes: int


@dataclass(frozen=True, slots=True)
class PutResult:
    """The answer to `put_documents`, once the documents would survive a loss of power.

    `outcomes` are in the documents' order, the counts say how many had each.
    `stats` is the namespace afterwards, None if it could not be read any more.
    `embedded` has each model that was to embed the documents; a failure of it
    is a warning.
    """

    outcomes: Sequence[PutOutcome]
    documents_new: int
    documents_unchanged: int
    documents_replaced: int
    stats: NamespaceStats | None
    embedded: Sequence[EmbeddedAhead]
    warnings: Sequence[AnswerWarning]


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What a request may contain; ModelLimits in protos/e2rank/v1/model.proto explains each."""

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


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """How a model is doing in the gateway process that answered, in estimated tokens of work."""

    is_serving: bool
    running_tokens: int
    waiting_tokens: int


@dataclass(frozen=True, slots=True)
class SecondTierWrites:
    """How writing to a second tier goes; see SecondTierWrites in protos/e2rank/v1/model.proto."""

    state: SecondTierState
    written: int
    dropped: int
    errors: int
    pending: int
    pending_bytes: int
    pending_purges: int


@dataclass(frozen=True, slots=True)
class SecondTierStats:
    """How a cache's second tier does; see SecondTierStats in protos/e2rank/v1/model.proto."""

    tier: CacheTier
    state: SecondTierState
    hits: int
    misses: int
    rejected: int
    timeouts: int
    errors: int
    skipped: int
    writes: SecondTierWrites


@dataclass(frozen=True, slots=True)
class CacheStats:
    """How a model's cache does in the gateway process that answered.

    Counts are documents since that process began; CacheStats in
    protos/e2rank/v1/model.proto explains each. `second_tier` is None if there
    is memory alone.
    """

    hits: int
    misses: int
    evictions: int
    rejected: int
    entries: int
    resident_bytes: int
    max_bytes: int
    second_tier: SecondTierStats | None


@dataclass(frozen=True, slots=True)
class Generator:
    """What generates for LLM_LISTWISE; `max_model_tokens` is 0 if that is not known."""

    model: str
    backend: GeneratorBackend
    max_model_tokens: int
    templates: Sequence[str]
    default_template: str
    default_score_template: str
    outputs: LlmOutputCounts
    """Since the process that answered began."""


@dataclass(frozen=True, slots=True)
class Model:
    """A profile that the server serves."""

    identity: ModelIdentity
    dimension: int
    trained_for_listwise: bool
    default_method: Method
    default_prompt_order: PromptOrder
    compute_dtype: str
    limits: ModelLimits
    load: ModelLoad
    cache: CacheStats
    generator: Generator | None = None
    """None if the server has nothing that generates."""
