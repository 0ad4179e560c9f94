"""Document vectors: brought by the caller, cached, or made once however many wait."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from e2rank_server.embedder.protocol import Embedder, EmbedderPrompt
from e2rank_server.embedding_cache.keys import cache_keys
from e2rank_server.embedding_cache.protocol import EmbeddingCache
from e2rank_server.engine.admission import estimate_tokens
from e2rank_server.engine.concurrency import SharedTask, run_all
from e2rank_server.profiles.profile import Profile
from e2rank_server.prompting.prompt import with_title
from e2rank_server.tokenizer.protocol import TokenizedText, Tokenizer
from e2rank_server.types import CacheTier, Document, FloatArray, InputType, TextInput

# Until namespaces can be deleted, each is in its first epoch.
_EPOCH = 0


@dataclass(frozen=True, slots=True)
class _Embedded:
    vector: FloatArray
    num_tokens: int
    is_truncated: bool


@dataclass(slots=True)
class Sought:
    """Documents after the look-up.

    `vectors` [documents, dimension] has the rows of those that are `known`.
    `missing` maps the key of each distinct unknown text to the rows that need it.
    """

    documents: Sequence[Document]
    vectors: FloatArray
    tiers: list[CacheTier]
    missing: dict[bytes, list[int]]
    lookup_seconds: float

    def estimated_tokens(self, max_document_tokens: int) -> int:
        """Estimate the tokens that embedding the missing ones takes."""
        return sum(
            estimate_tokens(num_bytes(self.documents[rows[0]]), max_document_tokens)
            for rows in self.missing.values()
        )


@dataclass(frozen=True, slots=True)
class Found:
    """Vectors of all documents, in order, and what it took.

    `truncated` says of each document whether its text was cut to be embedded
    now. `num_tokens` counts the tokens embedded for this request, of which
    another that ran beside it may have been the first to ask.
    """

    vectors: FloatArray
    tiers: Sequence[CacheTier]
    truncated: Sequence[bool]
    num_truncated_texts: int
    num_tokens: int
    seconds: float


class DocumentVectors:
    """Finds or makes the document vectors of one model."""

    def __init__(
        self,
        profile: Profile,
        fingerprint: str,
        tokenizer: Tokenizer,
        embedder: Embedder,
        cache: EmbeddingCache,
        secret: bytes,
    ) -> None:
        self._profile = profile
        self._fingerprint = fingerprint
        self._tokenizer = tokenizer
        self._embedder = embedder
        self._cache = cache
        self._secret = secret
        self._in_flight: dict[bytes, SharedTask[_Embedded]] = {}

    async def look_up(self, namespace: str, documents: Sequence[Document]) -> Sought:
        """Take the callers' vectors and those in the cache; costs no tokenization."""
        started = time.monotonic()
        vectors = np.empty((len(documents), self._profile.dimension), dtype=np.float32)
        tiers = [CacheTier.MEMORY] * len(documents)
        by_text = []
        for row, document in enumerate(documents):
            if document.vector is None:
                by_text.append(row)
            else:
                vectors[row] = document.vector
                tiers[row] = CacheTier.CALLER
        missing = await self._look_up_texts(namespace, documents, by_text, vectors, tiers)
        return Sought(documents, vectors, tiers, missing, time.monotonic() - started)

    async def _look_up_texts(
        self,
        namespace: str,
        documents: Sequence[Document],
        rows: Sequence[int],
        vectors: FloatArray,
        tiers: list[CacheTier],
    ) -> dict[bytes, list[int]]:
        separator = self._profile.prompts.title_separator
        texts = (
            with_title(documents[row].title, documents[row].text or "", separator) for row in rows
        )
        keys = cache_keys(self._secret, self._fingerprint, namespace, _EPOCH, texts)
        # With no vector from the caller, `rows` are all rows and need no gather.
        out = vectors if len(rows) == len(documents) else vectors[rows]
        is_hit = await self._cache.lookup(keys, out)
        if out is not vectors:
            vectors[rows] = out
        missing: dict[bytes, list[int]] = {}
        for position in np.flatnonzero(~is_hit).tolist():
            row = rows[position]
            tiers[row] = CacheTier.COMPUTED
            missing.setdefault(keys[position], []).append(row)
        return missing

    async def complete(self, sought: Sought, priority: int = 0) -> Found:
        """Make the missing vectors; a text that is being embedded already is joined."""
        started = time.monotonic()
        self._start_embedding(sought, priority)
        tasks = [self._in_flight[key] for key in sought.missing]
        made = await run_all(task.wait() for task in tasks)
        truncated = [False] * len(sought.documents)
        for rows, embedded in zip(sought.missing.values(), made, strict=True):
            sought.vectors[rows] = embedded.vector
            for row in rows:
                truncated[row] = embedded.is_truncated
        return Found(
            vectors=sought.vectors,
            tiers=sought.tiers,
            truncated=truncated,
            num_truncated_texts=sum(embedded.is_truncated for embedded in made),
            num_tokens=sum(embedded.num_tokens for embedded in made),
            seconds=time.monotonic() - started,
        )

    def _start_embedding(self, sought: Sought, priority: int) -> None:
        """Start a task for each missing text that no other request has started."""
        new = []
        for key, rows in sought.missing.items():
            running = self._in_flight.get(key)
            if running is None or running.is_done:
                new.append((key, sought.documents[rows[0]]))
        if not new:
            return
        texts = [TextInput(document.text or "", document.title) for _, document in new]
        tokenized = SharedTask(self._tokenizer.tokenize_texts(InputType.DOCUMENT, texts))
        for position, (key, _) in enumerate(new):
            self._in_flight[key] = SharedTask(self._embed(key, tokenized, position, priority))

    async def _embed(
        self,
        key: bytes,
        tokenized: SharedTask[list[TokenizedText]],
        position: int,
        priority: int,
    ) -> _Embedded:
        mine = self._in_flight[key]
        try:
            text = (await tokenized.wait())[position]
            prompt = EmbedderPrompt(text.token_ids)
            vectors = await self._embedder.embed([prompt], priority=priority)
            if not np.isfinite(vectors).all():
                # Kept out of the cache, where it would outlive its cause.
                raise ArithmeticError("the model returned a vector that is not finite")
            await self._cache.store([key], vectors)
            return _Embedded(vectors[0], len(text.token_ids), text.is_truncated)
        finally:
            # Abandoned by its waiters, it may have a successor already.
            if self._in_flight.get(key) is mine:
                del self._in_flight[key]


def num_bytes(document: Document) -> int:
    """Return the bytes of a document's text and title in UTF-8."""
    return len((document.text or "").encode()) + len((document.title or "").encode())
