"""The words of the domain, as values: what the engine takes and returns.

Wire messages stop at `gateway/codec.py`; everything below it speaks these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]
"""Vectors: float32, C-contiguous, one row a vector, rows L2-normalised unless said otherwise."""

TokenIds: TypeAlias = NDArray[np.int32]
"""Token ids of one prompt: int32, shape [tokens]."""


class Method(StrEnum):
    """How a rerank request is scored."""

    E2RANK = "E2RANK"
    COSINE = "COSINE"
    VECTOR_PRF = "VECTOR_PRF"
    LLM_LISTWISE = "LLM_LISTWISE"


class ScoreKind(StrEnum):
    """What the scores of an answer are."""

    COSINE = "COSINE"
    RECIPROCAL_RANK = "RECIPROCAL_RANK"


class PromptOrder(StrEnum):
    """The order in which candidates enter the listwise prompt."""

    FIRST_STAGE = "FIRST_STAGE"
    COSINE = "COSINE"


class ScoreScaling(StrEnum):
    """How first-stage scores are written into the prompt (InsertRank, arXiv:2506.14086)."""

    RAW = "RAW"
    MIN_MAX = "MIN_MAX"
    PERCENT = "PERCENT"


class ScoreSource(StrEnum):
    """Whose first-stage scores stand in a prompt."""

    CALLER = "CALLER"
    CANDIDATE_BM25 = "CANDIDATE_BM25"
    """Computed here, over the candidates of one request alone."""


class InitialOrder(StrEnum):
    """The order in which an LLM first sees the candidates."""

    FIRST_STAGE = "FIRST_STAGE"
    REVERSED = "REVERSED"
    SHUFFLED = "SHUFFLED"


class InputType(StrEnum):
    """What a text to embed is; the two have different templates in most models."""

    QUERY = "QUERY"
    DOCUMENT = "DOCUMENT"


class CacheTier(StrEnum):
    """Where a document's vector came from."""

    # Enum's own hash is Python code, and every result's tier is looked up.
    __hash__ = str.__hash__

    CALLER = "CALLER"
    MEMORY = "MEMORY"
    DISK = "DISK"
    SHARED = "SHARED"
    COMPUTED = "COMPUTED"


class TokenizerBackend(StrEnum):
    """What turns text into token ids."""

    IN_PROCESS = "IN_PROCESS"
    TRITON = "TRITON"


class EmbedderBackend(StrEnum):
    """What turns token ids into vectors."""

    VLLM_IN_PROCESS = "VLLM_IN_PROCESS"
    VLLM_REMOTE = "VLLM_REMOTE"
    FAKE = "FAKE"


class GeneratorBackend(StrEnum):
    """What runs an LLM."""

    VLLM_IN_PROCESS = "VLLM_IN_PROCESS"
    OPENAI_ENDPOINT = "OPENAI_ENDPOINT"


class WarningCode(StrEnum):
    """Why a caller is warned about an answer that is valid all the same."""

    PROFILE_NOT_TRAINED_FOR_LISTWISE = "PROFILE_NOT_TRAINED_FOR_LISTWISE"
    QUERY_TRUNCATED = "QUERY_TRUNCATED"
    INSTRUCTION_IGNORED = "INSTRUCTION_IGNORED"
    PROMPT_DOCUMENTS_SHRUNK = "PROMPT_DOCUMENTS_SHRUNK"
    FIRST_STAGE_SCORES_EXPERIMENTAL = "FIRST_STAGE_SCORES_EXPERIMENTAL"
    DOCUMENTS_NOT_EMBEDDED = "DOCUMENTS_NOT_EMBEDDED"
    CANDIDATE_BM25 = "CANDIDATE_BM25"
    GENERATOR_FAILED = "GENERATOR_FAILED"
    LLM_OUTPUT_REPAIRED = "LLM_OUTPUT_REPAIRED"


@dataclass(frozen=True, slots=True)
class AnswerWarning:
    """A code for programs and a sentence for people."""

    code: WarningCode
    message: str


# Not frozen, nor RankedDocument: a frozen object takes three times as long to make, and a
# request has hundreds. Nothing changes them.
@dataclass(slots=True)
class Document:
    """A candidate. It has a text, a vector, or both; or else its id is that of a stored one.

    `vector` is float32, shape [dimension], L2-normalised, of the model that
    will use it: the codec has checked all that. `digest` names the text of a
    stored document, whether or not that has been read yet.
    """

    id: str = ""
    text: str | None = None
    title: str | None = None
    vector: FloatArray | None = None
    first_stage_score: float | None = None
    digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation with an LLM."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class FirstStageScores:
    """How first-stage scores are written into a prompt, and whose (InsertRank)."""

    scaling: ScoreScaling = ScoreScaling.RAW
    source: ScoreSource = ScoreSource.CALLER


@dataclass(frozen=True, slots=True)
class E2RankOptions:
    """Options of Method.E2RANK; None means the profile's value."""

    prompt_documents: int | None = None
    prompt_order: PromptOrder | None = None
    first_stage_scores: FirstStageScores | None = None
    """If set, first-stage scores stand in the prompt. None leaves them out."""


@dataclass(frozen=True, slots=True)
class CosineOptions:
    """Options of Method.COSINE, which has none yet."""


@dataclass(frozen=True, slots=True)
class VectorPrfOptions:
    """Options of Method.VECTOR_PRF: how many documents speak for the query, and how loudly."""

    feedback_documents: int = 5
    feedback_weight: float = 0.6


@dataclass(frozen=True, slots=True)
class LlmListwiseOptions:
    """Options of Method.LLM_LISTWISE; None means the template's value, or the server's."""

    template: str | None = None
    window_size: int | None = None
    stride: int | None = None
    num_passes: int = 1
    initial_order: InitialOrder = InitialOrder.FIRST_STAGE
    shuffle_seed: int = 0
    max_words_per_document: int | None = None
    thinking: bool = False
    reasoning_token_budget: int | None = None
    first_stage_scores: FirstStageScores | None = None
    allow_degraded: bool = False


MethodOptions: TypeAlias = E2RankOptions | CosineOptions | VectorPrfOptions | LlmListwiseOptions


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """One query and its candidates, in first-stage order; valid in shape and size."""

    query: str
    documents: Sequence[Document]
    namespace: str = ""
    instruction: str | None = None
    top_n: int | None = None
    max_tokens_per_document: int | None = None
    priority: int = 0
    options: MethodOptions | None = None
    """None means the profile's default method with its default options."""
    return_documents: bool = False
    drop_unknown: bool = False
    """Leave out documents whose id is not stored, which else fail the request."""


@dataclass(slots=True)
class RankedDocument:
    """`index` is the document's position in the request; see the answer's `score_kind`.

    `document` has its text if the request asked for documents.
    """

    index: int
    relevance_score: float
    cache_tier: CacheTier | None
    """None if the method compares no vectors."""
    document: Document


@dataclass(frozen=True, slots=True)
class RerankUsage:
    """What an answer cost; see RerankUsage in protos/e2rank/v1/rerank.proto for each count."""

    prompt_tokens: int = 0
    document_tokens: int = 0
    documents_from_caller: int = 0
    documents_cached: int = 0
    documents_embedded: int = 0
    documents_truncated: int = 0
    prompt_documents: int = 0
    prompt_documents_truncated: int = 0
    documents_stored: int = 0


@dataclass(slots=True)
class Timings:
    """Wall-clock seconds by stage. Stages overlap, so they need not add up to the total."""

    total_seconds: float = 0.0
    queue_seconds: float = 0.0
    tokenize_seconds: float = 0.0
    prompt_seconds: float = 0.0
    lookup_seconds: float = 0.0
    documents_seconds: float = 0.0
    score_seconds: float = 0.0
    store_seconds: float = 0.0
    generate_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class LlmOutputCounts:
    """Outputs of an LLM by what was wrong; LlmOutputCounts in rerank.proto explains each."""

    ok: int = 0
    malformed: int = 0
    repetition: int = 0
    missing: int = 0
    refused: int = 0
    failed: int = 0


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
    identifiers_absent: int = 0


@dataclass(frozen=True, slots=True)
class RerankOutcome:
    """The answer to a RerankRequest: results best first, equal scores in request order.

    `unknown` has the positions of the documents that were dropped.
    """

    results: Sequence[RankedDocument]
    method: Method
    usage: RerankUsage
    timings: Timings
    warnings: Sequence[AnswerWarning] = ()
    unknown: Sequence[int] = ()
    score_kind: ScoreKind = ScoreKind.COSINE
    llm_listwise: LlmListwiseReport | None = None


@dataclass(frozen=True, slots=True)
class TextInput:
    """A text to embed. `title` is for documents only.

    `id`, in an EmbedRequest for documents, names a stored one instead.
    """

    text: str
    title: str | None = None
    id: str = ""


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Texts of one type to embed; valid in shape and size."""

    input_type: InputType
    inputs: Sequence[TextInput]
    namespace: str = ""
    instruction: str | None = None
    priority: int = 0
    drop_unknown: bool = False
    """Leave out inputs whose id is not stored, which else fail the request."""


@dataclass(frozen=True, slots=True)
class EmbedUsage:
    """What an Embed cost; see EmbedUsage in protos/e2rank/v1/embedding.proto."""

    tokens: int = 0
    inputs_cached: int = 0
    inputs_embedded: int = 0
    inputs_truncated: int = 0


@dataclass(frozen=True, slots=True)
class EmbedOutcome:
    """The answer to an EmbedRequest: `vectors` is float32 [inputs, dimension], L2-normalised.

    `unknown` has the positions of the inputs that were dropped and have no row.
    """

    vectors: FloatArray
    truncated: Sequence[bool]
    cache_tiers: Sequence[CacheTier]
    usage: EmbedUsage
    timings: Timings
    warnings: Sequence[AnswerWarning] = field(default=())
    unknown: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What GetModel says of a profile that is being served."""

    profile: str
    revision: str
    fingerprint: str
    template_version: str
    tokenizer_backend: TokenizerBackend
    embedder_backend: EmbedderBackend
    dimension: int
    compute_dtype: str
    trained_for_listwise: bool
    default_method: Method
    default_prompt_order: PromptOrder
    max_query_tokens: int
    max_document_tokens: int
    max_prompt_tokens: int
    default_prompt_documents: int
    max_prompt_documents: int


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """How much work a model has: estimated tokens that run, and that wait to."""

    running_tokens: int
    waiting_tokens: int


@dataclass(frozen=True, slots=True)
class GeneratorDescription:
    """What GetModel says of what generates; `max_model_tokens` is None if it is not known."""

    model: str
    backend: GeneratorBackend
    max_model_tokens: int | None
    templates: Sequence[str]
    default_template: str
    default_score_template: str
