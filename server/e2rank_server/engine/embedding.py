"""Embed: vectors of queries and documents, as retrieval and Rerank use them.

A large batch goes through in slices, a few at once. Its passes come behind those
of reranks, in the gate's queue and in the model's, and leave a part of the gate
to them, so that bulk embedding cannot starve them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import numpy as np

from e2rank_server.embedder.protocol import Embedder, EmbedderPrompt
from e2rank_server.engine.admission import WorkGate, estimate_tokens
from e2rank_server.engine.concurrency import run_all
from e2rank_server.engine.document_vectors import CACHED, DocumentVectors
from e2rank_server.engine.query import instruction_warnings, query_truncated_warning
from e2rank_server.engine.stored_documents import StoredDocuments
from e2rank_server.engine.urgency import Urgency, pass_priority
from e2rank_server.profiles.profile import Profile
from e2rank_server.tokenizer.protocol import Tokenizer
from e2rank_server.types import (
    CacheTier,
    Document,
    EmbedOutcome,
    EmbedRequest,
    EmbedUsage,
    InputType,
    TextInput,
    Timings,
)

# Each slice takes a permit of its own, so that reranks get their turn between
# the slices of a large batch.
_TEXTS_PER_SLICE = 64
# So that one is tokenized and looked up while another is computed.
_SLICES_AT_ONCE = 3
# Up to so many texts, somebody waits for the answer.
_MAX_URGENT_TEXTS = 8
# Of the permits; the rest is for whoever is in a hurry.
_BATCH_SHARE = 0.5


class EmbeddingEngine:
    """Embeds with one model."""

    def __init__(
        self,
        profile: Profile,
        tokenizer: Tokenizer,
        embedder: Embedder,
        documents: DocumentVectors,
        stored: StoredDocuments,
        gate: WorkGate,
    ) -> None:
        self._profile = profile
        self._tokenizer = tokenizer
        self._embedder = embedder
        self._documents = documents
        self._stored = stored
        self._gate = gate

    async def embed(self, request: EmbedRequest) -> EmbedOutcome:
        """Embed all inputs, or none.

        Raises:
            UnknownDocumentsError: documents named by id are not stored.
            OverloadedError, UnavailableError: see errors.py.
        """
        started = time.monotonic()
        timings = Timings()
        is_query = request.input_type is InputType.QUERY
        embed_slice = self._embed_queries if is_query else self._embed_documents
        turns = asyncio.Semaphore(_SLICES_AT_ONCE)

        async def in_turn(first: int) -> EmbedOutcome:
            async with turns:
                return await embed_slice(request, first, timings)

        parts = await run_all(map(in_turn, range(0, len(request.inputs), _TEXTS_PER_SLICE)))
        timings.total_seconds = time.monotonic() - started
        return self._outcome(request, parts, timings)

    async def _embed_documents(
        self, request: EmbedRequest, first: int, timings: Timings
    ) -> EmbedOutcome:
        return await self._stored.steadily(partial(self._embed_steady, request, first, timings))

    async def _embed_steady(
        self, request: EmbedRequest, first: int, timings: Timings, at_once: bool
    ) -> EmbedOutcome:
        """Embed a slice of documents that do not change meanwhile."""
        resolved = await self._stored.resolve(
            request.namespace,
            [_document(each) for each in request.inputs[first : first + _TEXTS_PER_SLICE]],
            drop_unknown=request.drop_unknown,
            at_once=at_once,
            field="inputs",
            first=first,
        )
        sought = await self._documents.look_up(request.namespace, resolved.documents)
        await self._documents.look_further(sought)
        reading_seconds = await self._stored.read(
            request.namespace, resolved.documents, sought.rows_to_embed()
        )
        cost = sought.estimated_tokens(self._profile.prompts.max_document_tokens)
        async with self._admit(cost, request) as (waited, priority):
            found = await self._documents.complete(sought, priority)
        timings.queue_seconds += waited
        timings.lookup_seconds += sought.lookup_seconds
        timings.store_seconds += resolved.seconds + reading_seconds
        timings.documents_seconds += found.seconds
        return EmbedOutcome(
            vectors=found.vectors,
            truncated=found.truncated,
            cache_tiers=found.tiers,
            usage=EmbedUsage(tokens=found.num_tokens),
            timings=timings,
            unknown=resolved.unknown,
        )

    async def _embed_queries(
        self, request: EmbedRequest, first: int, timings: Timings
    ) -> EmbedOutcome:
        inputs = request.inputs[first : first + _TEXTS_PER_SLICE]
        limit = self._profile.prompts.max_query_tokens
        cost = sum(estimate_tokens(len(each.text.encode()), limit) for each in inputs)
        async with self._admit(cost, request) as (waited, priority):
            timings.queue_seconds += waited
            started = time.monotonic()
            texts = await self._tokenizer.tokenize_texts(
                InputType.QUERY, inputs, request.instruction
            )
            tokenized = time.monotonic()
            vectors = await self._embedder.embed(
                [EmbedderPrompt(text.token_ids) for text in texts], priority=priority
            )
            timings.tokenize_seconds += tokenized - started
            timings.prompt_seconds += time.monotonic() - tokenized
        return EmbedOutcome(
            vectors=vectors,
            truncated=[text.is_truncated for text in texts],
            cache_tiers=[CacheTier.COMPUTED] * len(texts),
            usage=EmbedUsage(tokens=sum(len(text.token_ids) for text in texts)),
            timings=timings,
        )

    @asynccontextmanager
    async def _admit(self, cost: int, request: EmbedRequest) -> AsyncIterator[tuple[float, int]]:
        """Hold a permit; yields the seconds waited for it and the priority of the passes."""
        if len(request.inputs) > _MAX_URGENT_TEXTS:
            urgency, share = Urgency.BATCH, _BATCH_SHARE
        elif request.input_type is InputType.QUERY:
            urgency, share = Urgency.PROMPT, 1.0
        else:
            urgency, share = Urgency.CANDIDATES, 1.0
        priority = pass_priority(request.priority, urgency)
        async with self._gate.admit(cost, priority, share=share) as permit:
            yield permit.waited_seconds, priority

    def _outcome(
        self, request: EmbedRequest, parts: Sequence[EmbedOutcome], timings: Timings
    ) -> EmbedOutcome:
        truncated = [each for part in parts for each in part.truncated]
        tiers = [each for part in parts for each in part.cache_tiers]
        warnings = []
        if request.input_type is InputType.QUERY:
            template = self._profile.prompts.query_template
            warnings = instruction_warnings(self._profile, template, request.instruction)
            if any(truncated):
                warnings.append(query_truncated_warning(self._profile))
        return EmbedOutcome(
            vectors=np.concatenate([part.vectors for part in parts]),
            truncated=truncated,
            cache_tiers=tiers,
            usage=EmbedUsage(
                tokens=sum(part.usage.tokens for part in parts),
                inputs_cached=sum(tier in CACHED for tier in tiers),
                inputs_embedded=tiers.count(CacheTier.COMPUTED),
                inputs_truncated=sum(truncated),
            ),
            timings=timings,
            warnings=warnings,
            unknown=[each for part in parts for each in part.unknown],
        )


def _document(text: TextInput) -> Document:
    if text.id:
        return Document(id=text.id)
    return Document(text=text.text, title=text.title)
