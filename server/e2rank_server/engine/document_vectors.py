"""Document vectors: brought by the caller, cached, or made once however many wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from e2rank_server.embedder.protocol import Embedder, EmbedderPrompt
from e2rank_server.embedding_cache.keys import TextHasher, cache_keys, namespace_tag
from e2rank_server.embedding_cache.protocol import EmbeddingCache, Place
from e2rank_server.engine.admission import estimate_tokens
from e2rank_server.engine.concurrency import SharedTask, run_all
from e2rank_server.profiles.profile import Profile
from e2rank_server.tokenizer.protocol import TokenizedText, Tokenizer
from e2rank_server.types import CacheTier, Document, FloatArray, InputType, TextInput

EpochOf: TypeAlias = Callable[[str], int]
"""Tells the epoch that a namespace is in; deleting it begins the next."""

_TIERS = {
    Place.NOWHERE: CacheTier.COMPUTED,
    Place.MEMORY: CacheTier.MEMORY,
    Place.DISK: CacheTier.DISK,
    Place.SHARED: CacheTier.SHARED,
}
# NumPy compares with an enumeration's member at length.
_IN_MEMORY = int(Place.MEMORY)
CACHED = frozenset({CacheTier.MEMORY, CacheTier.DISK, CacheTier.SHARED})
"""Where a cached vector may come from."""


@dataclass(frozen=True, slots=True)
class _Embedded:
    vector: FloatArray
    num_tokens: int
    is_truncated: bool


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where the vectors of a request are cached."""

    namespace: str
    epoch: int


@dataclass(slots=True)
class Sought:
    """Documents in the course of the look-up.

    `vectors` [documents, dimension] has the rows of those that are known.
    `missing` maps the key of each distinct unknown text to the rows that need
    it. `rows` are those without a vector of the caller's, with their `keys`,
    their `places` in the cache and, if they are not all, `gathered` vectors.
    """

    scope: _Scope
    documents: Sequence[Document]
    vectors: FloatArray
    tiers: list[CacheTier]
    rows: Sequence[int]
    keys: Sequence[bytes]
    gathered: FloatArray
    places: NDArray[np.uint8]
    missing: dict[bytes, list[int]] = field(default_factory=dict)
    lookup_seconds: float = 0.0

    def take_note(self) -> None:
        """Bring `vectors`, `tiers` and `missing` up to date with `gathered` and `places`."""
        if self.gathered is not self.vectors:
            self.vectors[self.rows] = self.gathered
        self.missing = {}
        # Most are in memory, which is what `tiers` says until here.
        for at in np.flatnonzero(self.places != _IN_MEMORY).tolist():
            row = self.rows[at]
            self.tiers[row] = _TIERS[self.places[at]]
            if self.places[at] == Place.NOWHERE:
                self.missing.setdefault(self.keys[at], []).append(row)

    def rows_to_embed(self) -> list[int]:
        """Return a row for each distinct missing text."""
        return [rows[0] for rows in self.missing.values()]

    def estimated_tokens(self, max_document_tokens: int) -> int:
        """Estimate the tokens that embedding the missing takes; an unread text counts as long."""
        tokens = 0
        for row in self.rows_to_embed():
            document = self.documents[row]
            if document.text is None:
                tokens += max_document_tokens
            else:
                tokens += estimate_tokens(num_bytes(document), max_document_tokens)
        return tokens


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
        epoch_of: EpochOf,
    ) -> None:
        self._profile = profile
        self._fingerprint = fingerprint
        self._tokenizer = tokenizer
        self._embedder = embedder
        self._cache = cache
        self._writes = _JointWrites(cache, epoch_of)
        self._secret = secret
        self._hasher = TextHasher(secret)
        self._epoch_of = epoch_of
        self._in_flight: dict[bytes, SharedTask[_Embedded]] = {}

    async def look_up(self, namespace: str, documents: Sequence[Document]) -> Sought:
        """Take the callers' vectors and those in memory; waits for nothing.

        Costs no tokenization, and for stored documents not even their texts.
        """
        started = time.monotonic()
        scope = _Scope(namespace, self._epoch_of(namespace))
        vectors = np.empty((len(documents), self._profile.dimension), dtype=np.float32)
        tiers = [CacheTier.MEMORY] * len(documents)
        rows: Sequence[int] = range(len(documents))
        gathered, unknown = vectors, documents
        if any(document.vector is not None for document in documents):
            rows = _take_callers_vectors(documents, vectors, tiers)
            gathered, unknown = vectors[rows], [documents[row] for row in rows]
        keys = self._keys(scope, unknown)
        places = await self._cache.lookup_memory(keys, gathered)
        sought = Sought(scope, documents, vectors, tiers, rows, keys, gathered, places)
        sought.take_note()
        sought.lookup_seconds = time.monotonic() - started
        return sought

    async def look_further(self, sought: Sought) -> None:
        """Look in the slower tier for what is missing, which takes some ms at most."""
        if not sought.missing:
            return
        started = time.monotonic()
        await self._cache.lookup_second(sought.keys, sought.gathered, sought.places)
        sought.take_note()
        sought.lookup_seconds += time.monotonic() - started

    def _keys(self, scope: _Scope, documents: Sequence[Document]) -> list[bytes]:
        digest_of = self._hasher.digest
        digests = [each.digest or digest_of(each.title, each.text or "") for each in documents]
        tag = namespace_tag(self._secret, scope.namespace, scope.epoch)
        return cache_keys(tag, self._secret, self._fingerprint, digests)

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
        if made:
            # As the cache will give them back: a request scores the same cold and warm.
            new = [row for rows in sought.missing.values() for row in rows]
            sought.vectors[new] = self._cache.as_kept(sought.vectors[new])
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
            self._in_flight[key] = SharedTask(
                self._embed(key, sought.scope, tokenized, position, priority)
            )

    async def _embed(
        self,
        key: bytes,
        scope: _Scope,
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
            await self._writes.store(key, scope, vectors)
            return _Embedded(vectors[0], len(text.token_ids), text.is_truncated)
        finally:
            # Abandoned by its waiters, it may have a successor already.
            if self._in_flight.get(key) is mine:
                del self._in_flight[key]


class _JointWrites:
    """Stores together what is made in one turn of the event loop.

    An engine's step ends many passes at once, and to store their vectors one by
    one takes some twenty times as long.
    """

    def __init__(self, cache: EmbeddingCache, epoch_of: EpochOf) -> None:
        self._cache = cache
        self._epoch_of = epoch_of
        self._pending: list[tuple[bytes, _Scope, FloatArray]] = []
        self._storing: asyncio.Task[None] | None = None

    async def store(self, key: bytes, scope: _Scope, vectors: FloatArray) -> None:
        """Return once `vectors` [1, dimension] are stored; a caller that leaves changes nothing.

        What belongs to a namespace that was deleted meanwhile is left out.
        """
        if self._storing is None or not self._pending:
            self._storing = asyncio.create_task(self._store_pending())
        self._pending.append((key, scope, vectors))
        await asyncio.shield(self._storing)

    async def _store_pending(self) -> None:
        pending, self._pending = self._pending, []
        current = [
            (key, vectors)
            for key, scope, vectors in pending
            if self._epoch_of(scope.namespace) == scope.epoch
        ]
        if current:
            keys, vectors = zip(*current, strict=True)
            await self._cache.store(keys, np.concatenate(vectors))


def _take_callers_vectors(
    documents: Sequence[Document], vectors: FloatArray, tiers: list[CacheTier]
) -> list[int]:
    """Write the vectors that came with documents; return the rows that have none."""
    rows = []
    for row, document in enumerate(documents):
        if document.vector is None:
            rows.append(row)
        else:
            vectors[row] = document.vector
            tiers[row] = CacheTier.CALLER
    return rows


def num_bytes(document: Document) -> int:
    """Return the bytes of a document's text and title in UTF-8."""
    return len((document.text or "").encode()) + len((document.title or "").encode())
