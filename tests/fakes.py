"""Stand-ins that several test suites share: a tokenizer and a served model."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from e2rank_server.embedding_cache.protocol import CacheStatistics, SecondTierStatistics
from e2rank_server.engine.llm_rerank import LlmRerankEngine
from e2rank_server.errors import GeneratorMissingError, PromptTooLongError, UnavailableError
from e2rank_server.tokenizer.protocol import (
    ListwisePromptInput,
    TokenizedPrompt,
    TokenizedText,
)
from e2rank_server.types import (
    CacheTier,
    EmbedderBackend,
    EmbedOutcome,
    EmbedRequest,
    EmbedUsage,
    InputType,
    LlmListwiseOptions,
    Method,
    ModelDescription,
    ModelLoad,
    PromptOrder,
    RankedDocument,
    RerankOutcome,
    RerankRequest,
    RerankUsage,
    TextInput,
    Timings,
    TokenIds,
    TokenizerBackend,
)

_START, _SEPARATOR, _END = 1, 2, 3
_FIRST_WORD_ID = 10


class FakeTokenizer:
    """Makes one token of each whitespace-separated word: the same word, the same id.

    Prompts are START text END; a listwise one is START, each document with
    SEPARATOR behind it, the query, END. It records the texts it was given, and
    is unavailable while `is_available` is False.
    """

    backend = TokenizerBackend.IN_PROCESS

    def __init__(
        self,
        *,
        max_query_tokens: int = 16,
        max_document_tokens: int = 32,
        max_prompt_tokens: int = 128,
    ) -> None:
        self.max_query_tokens = max_query_tokens
        self.max_document_tokens = max_document_tokens
        self.max_prompt_tokens = max_prompt_tokens
        self.is_available = True
        self.queries: list[str] = []
        self.documents: list[str] = []
        self.prompts: list[ListwisePromptInput] = []

    async def tokenize_texts(
        self, input_type: InputType, texts: Sequence[TextInput], instruction: str | None = None
    ) -> list[TokenizedText]:
        self._require_available()
        is_query = input_type is InputType.QUERY
        (self.queries if is_query else self.documents).extend(text.text for text in texts)
        limit = self.max_query_tokens if is_query else self.max_document_tokens
        prefix = _words(instruction or "") if is_query else []
        return [_tokenized([*prefix, *_words(_joined(text))], limit) for text in texts]

    async def tokenize_listwise_prompt(self, prompt: ListwisePromptInput) -> TokenizedPrompt:
        self._require_available()
        self.prompts.append(prompt)
        query = _words(prompt.query)
        scores = prompt.scores or [""] * len(prompt.documents)
        marks = [_words(score) for score in scores]
        whole = [_words(_joined(document)) for document in prompt.documents]
        limit = min(
            prompt.max_tokens_per_document or self.max_document_tokens, self.max_document_tokens
        )
        fixed = 2 + len(query) + sum(1 + len(mark) for mark in marks)
        room = (self.max_prompt_tokens - fixed) // max(len(whole), 1)
        if room < 1 and whole:
            raise PromptTooLongError.of(
                "documents", f"{fixed} tokens leave no room of {self.max_prompt_tokens}"
            )
        fitting = [words[: min(limit, room)] for words in whole]
        body = [
            token
            for words, mark in zip(fitting, marks, strict=True)
            for token in (*words, *mark, _SEPARATOR)
        ]
        start = 1 + len(body)
        return TokenizedPrompt(
            token_ids=_ids([_START, *body, *query, _END]),
            query_span=(start, start + len(query)),
            truncated=[len(cut) < len(words) for cut, words in zip(fitting, whole, strict=True)],
            is_shrunk=any(len(words[:limit]) > room for words in whole),
        )

    async def check_health(self) -> None:
        self._require_available()

    def _require_available(self) -> None:
        if not self.is_available:
            raise UnavailableError("tokenizer", "is away")


def _joined(text: TextInput) -> str:
    return f"{text.title} {text.text}" if text.title else text.text


def _words(text: str) -> list[int]:
    return [_FIRST_WORD_ID + zlib.crc32(word.encode()) % 30_000 for word in text.split()]


def _ids(tokens: Sequence[int]) -> TokenIds:
    return np.array(tokens, dtype=np.int32)


def _tokenized(words: Sequence[int], max_tokens: int) -> TokenizedText:
    room = max_tokens - 2
    return TokenizedText(_ids([_START, *words[:room], _END]), len(words) > room)


DESCRIPTION = ModelDescription(
    profile="fake-model",
    revision="revision-1",
    fingerprint="fingerprint-1",
    template_version="plain/1",
    tokenizer_backend=TokenizerBackend.IN_PROCESS,
    embedder_backend=EmbedderBackend.FAKE,
    dimension=4,
    compute_dtype="float32",
    trained_for_listwise=False,
    default_method=Method.COSINE,
    default_prompt_order=PromptOrder.COSINE,
    max_query_tokens=16,
    max_document_tokens=32,
    max_prompt_tokens=128,
    default_prompt_documents=3,
    max_prompt_documents=5,
)


class FakeServedModel:
    """A model that reverses the candidates and embeds everything to the same vector.

    `before_answering`, if set, is awaited in each call: to fail, or to wait.
    """

    def __init__(self, description: ModelDescription = DESCRIPTION) -> None:
        self.description = description
        self.is_healthy = True
        self.cache_statistics = CacheStatistics(
            hits=8,
            misses=5,
            evictions=2,
            rejected=1,
            entries=3,
            resident_bytes=2304,
            max_bytes=4096,
        )
        self.second_tier_statistics: SecondTierStatistics | None = None
        self.llm: LlmRerankEngine | None = None
        self.answers_llm_listwise = False
        """Whether it answers that method as it does any other."""
        self.requests: list[RerankRequest | EmbedRequest] = []
        self.before_answering: Callable[[], Awaitable[None]] | None = None
        self.entered = asyncio.Event()
        """Set once a call has arrived."""
        self.cancelled = asyncio.Event()
        """Set once a call has been cancelled."""

    @property
    def load(self) -> ModelLoad:
        return ModelLoad(running_tokens=12, waiting_tokens=3)

    async def rerank(self, request: RerankRequest) -> RerankOutcome:
        if isinstance(request.options, LlmListwiseOptions) and not self.answers_llm_listwise:
            raise GeneratorMissingError
        await self._enter(request)
        count = len(request.documents)
        results = [
            RankedDocument(index, index / count, CacheTier.COMPUTED, request.documents[index])
            for index in range(count)
        ][::-1]
        return RerankOutcome(
            results=results[: request.top_n],
            method=Method.COSINE,
            usage=RerankUsage(prompt_tokens=7, document_tokens=11, documents_embedded=count),
            timings=Timings(total_seconds=1.5, prompt_seconds=0.25),
        )

    async def embed(self, request: EmbedRequest) -> EmbedOutcome:
        await self._enter(request)
        count = len(request.inputs)
        vectors = np.zeros((count, self.description.dimension), np.float32)
        vectors[:, 0] = 1.0
        return EmbedOutcome(
            vectors=vectors,
            truncated=[False] * count,
            cache_tiers=[CacheTier.MEMORY] * count,
            usage=EmbedUsage(tokens=5, inputs_cached=count),
            timings=Timings(total_seconds=0.5),
        )

    async def check_health(self) -> None:
        if not self.is_healthy:
            raise UnavailableError("embedder", "is away")

    async def _enter(self, request: RerankRequest | EmbedRequest) -> None:
        self.requests.append(request)
        self.entered.set()
        try:
            if self.before_answering is not None:
                await self.before_answering()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
