"""Ranks a collection through a server: dense retrieval, and reranking of a first stage."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from benchmarks.collection import Collection, CollectionDocument, Run
from e2rank_client import (
    CosineOptions,
    Document,
    E2RankOptions,
    EmbedResult,
    PromptOrder,
    RerankResult,
)
from e2rank_client.types import FloatArray

DEPTH = 100
"""Candidates to rerank, and documents that dense retrieval keeps."""

METHODS: dict[str, CosineOptions | E2RankOptions] = {
    "cosine": CosineOptions(),
    "e2rank_first_stage": E2RankOptions(prompt_order=PromptOrder.FIRST_STAGE),
    "e2rank_cosine": E2RankOptions(prompt_order=PromptOrder.COSINE),
}
"""By their names in the figures."""

_EMBED_BATCH = 64
_CALLS_IN_FLIGHT = 4
"""Keeps the engine busy while an answer travels; more would only wait in the server."""

_CALL_TIMEOUT_SECONDS = 600.0
_ItemT = TypeVar("_ItemT")
_ResultT = TypeVar("_ResultT")


class Client(Protocol):
    """What is used of `AsyncE2RankClient`."""

    @property
    def embed(self) -> Callable[..., Awaitable[EmbedResult]]:
        """Embed texts."""
        ...

    @property
    def rerank(self) -> Callable[..., Awaitable[RerankResult]]:
        """Rerank documents."""
        ...


@dataclass(frozen=True, slots=True)
class Ranker:
    """A collection and the server that ranks it.

    Document vectors are cached in a namespace named like the collection, so
    that reranking reuses those of dense retrieval.
    """

    client: Client
    model: str
    collection: Collection

    async def dense(self, advance: Callable[[int], None]) -> Run:
        """Retrieve by exhaustive cosine over all documents; `advance` counts texts embedded."""
        documents = self.collection.documents

        async def embed(batch: Sequence[CollectionDocument]) -> FloatArray:
            answer = await self.client.embed(
                [document.text or document.title for document in batch],
                titles=[document.title if document.text else None for document in batch],
                input_type="DOCUMENT",
                model=self.model,
                namespace=self.collection.name,
                timeout_seconds=_CALL_TIMEOUT_SECONDS,
            )
            advance(len(batch))
            return answer.vectors

        # Batches of like length waste least where an engine pads, and finish together elsewhere.
        order = sorted(range(len(documents)), key=lambda i: -len(documents[i].full_text))
        vectors = await _in_flight(embed, _batches([documents[i] for i in order], _EMBED_BATCH))
        queries = await self._query_vectors()
        scores = queries @ np.concatenate(vectors).T
        return _best(scores, list(self.collection.queries), [documents[i].id for i in order])

    async def rerank(self, method: str, candidates: Run, advance: Callable[[int], None]) -> Run:
        """Rerank each query's candidates, best first, by one of METHODS."""
        documents = {document.id: document for document in self.collection.documents}

        async def rerank(query_id: str) -> tuple[str, dict[str, float]]:
            found = candidates[query_id].items()
            answer = await self.client.rerank(
                self.collection.queries[query_id],
                [_candidate(documents[document_id], score) for document_id, score in found],
                method=METHODS[method],
                model=self.model,
                namespace=self.collection.name,
                timeout_seconds=_CALL_TIMEOUT_SECONDS,
            )
            advance(1)
            return query_id, {result.id: result.relevance_score for result in answer.results}

        # A query for which the first stage found nothing has nothing to rerank.
        return dict(await _in_flight(rerank, [q for q in candidates if candidates[q]]))

    async def _query_vectors(self) -> FloatArray:
        async def embed(batch: Sequence[str]) -> FloatArray:
            answer = await self.client.embed(
                batch,
                input_type="QUERY",
                model=self.model,
                timeout_seconds=_CALL_TIMEOUT_SECONDS,
            )
            return answer.vectors

        batches = _batches(list(self.collection.queries.values()), _EMBED_BATCH)
        return np.concatenate(await _in_flight(embed, batches))


def _candidate(document: CollectionDocument, first_stage_score: float) -> Document:
    return Document(
        id=document.id,
        text=document.text or document.title,
        title=document.title if document.text else None,
        first_stage_score=first_stage_score,
    )


def _batches(items: Sequence[_ItemT], size: int) -> list[Sequence[_ItemT]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


async def _in_flight(
    call: Callable[[_ItemT], Awaitable[_ResultT]], items: Sequence[_ItemT]
) -> list[_ResultT]:
    """Make a call for each item, a few at a time; results in the items' order."""
    limit = asyncio.Semaphore(_CALLS_IN_FLIGHT)

    async def limited(item: _ItemT) -> _ResultT:
        async with limit:
            return await call(item)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(limited(item)) for item in items]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None  # the first; it cancelled the rest
    return [task.result() for task in tasks]


def _best(scores: FloatArray, query_ids: Sequence[str], document_ids: Sequence[str]) -> Run:
    """Keep the best documents of each row of `scores`, float32 [queries, documents]."""
    depth = min(DEPTH, len(document_ids))
    kept = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    return {
        query_id: {document_ids[i]: float(row[i]) for i in kept_row}
        for query_id, row, kept_row in zip(query_ids, scores, kept, strict=True)
    }
