"""Ranks a collection through a server: dense retrieval, and reranking of candidates."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from benchmarks.collection import Collection, CollectionDocument, Run
from benchmarks.quality.first_stages import DEPTH
from benchmarks.quality.methods import MethodOptions, instruction_for
from e2rank_client import Document, EmbedResult, RerankResult
from e2rank_client.types import FloatArray

Advance = Callable[[int], None]
"""Told how many more are done."""

_EMBED_BATCH = 64
_EMBEDS_IN_FLIGHT = 4
"""Keeps the engine busy while an answer travels; more would only wait in the server."""

CALL_TIMEOUT_SECONDS = 3600.0
"""An LLM that orders 100 candidates on two cores takes many minutes."""

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
class Reranked:
    """Rankings, best first, and the answers that they come from, one a query with candidates."""

    run: Run
    answers: Sequence[RerankResult]

    @property
    def documents_embedded(self) -> int:
        """Documents that no cache had, over all queries."""
        return sum(answer.usage.documents_embedded for answer in self.answers)


@dataclass(frozen=True, slots=True)
class Ranker:
    """A collection and the server that ranks it.

    Document vectors are cached in a namespace named like the collection, so
    that reranking reuses those of dense retrieval. `in_flight` is how many
    queries are reranked at once.
    """

    client: Client
    model: str
    collection: Collection
    in_flight: int = 1

    async def dense(self, advance: Advance) -> Run:
        """Retrieve by exhaustive cosine over all documents; `advance` counts texts embedded."""
        # Batches of like length waste least where an engine pads, and finish together elsewhere.
        documents = sorted(self.collection.documents, key=lambda each: -len(each.full_text))
        vectors = await self._embed_documents(documents, advance)
        scores = await self._query_vectors() @ vectors.T
        return self._best(scores, [document.id for document in documents])

    async def warm(self, candidates: Run, advance: Advance) -> None:
        """Embed the candidates, so that no method pays for them; those cached cost a look-up."""
        named = {document_id for ranking in candidates.values() for document_id in ranking}
        documents = [each for each in self.collection.documents if each.id in named]
        await self._embed_documents(sorted(documents, key=lambda d: -len(d.full_text)), advance)

    async def rerank(
        self, options: MethodOptions, candidates: Run, advance: Advance = lambda _: None
    ) -> Reranked:
        """Rerank each query's candidates, which are best first; `advance` counts queries."""
        documents = {document.id: document for document in self.collection.documents}
        instruction = instruction_for(self.collection.name, options)

        async def rerank(query_id: str) -> RerankResult:
            found = candidates[query_id].items()
            answer = await self.client.rerank(
                self.collection.queries[query_id],
                [_candidate(documents[document_id], score) for document_id, score in found],
                method=options,
                model=self.model,
                namespace=self.collection.name,
                instruction=instruction,
                timeout_seconds=CALL_TIMEOUT_SECONDS,
            )
            advance(1)
            return answer

        # A query for which the first stage found nothing has nothing to rerank.
        asked = [query_id for query_id in candidates if candidates[query_id]]
        answers = await _in_flight(rerank, asked, self.in_flight)
        run = {
            query_id: {result.id: result.relevance_score for result in answer.results}
            for query_id, answer in zip(asked, answers, strict=True)
        }
        return Reranked(run, answers)

    async def _embed_documents(
        self, documents: Sequence[CollectionDocument], advance: Advance
    ) -> FloatArray:
        async def embed(batch: Sequence[CollectionDocument]) -> FloatArray:
            answer = await self.client.embed(
                [document.text or document.title for document in batch],
                titles=[document.title if document.text else None for document in batch],
                input_type="DOCUMENT",
                model=self.model,
                namespace=self.collection.name,
                timeout_seconds=CALL_TIMEOUT_SECONDS,
            )
            advance(len(batch))
            return answer.vectors

        batches = _batches(documents, _EMBED_BATCH)
        return np.concatenate(await _in_flight(embed, batches, _EMBEDS_IN_FLIGHT))

    async def _query_vectors(self) -> FloatArray:
        instruction = instruction_for(self.collection.name)

        async def embed(batch: Sequence[str]) -> FloatArray:
            answer = await self.client.embed(
                batch,
                input_type="QUERY",
                model=self.model,
                instruction=instruction,
                timeout_seconds=CALL_TIMEOUT_SECONDS,
            )
            return answer.vectors

        batches = _batches(list(self.collection.queries.values()), _EMBED_BATCH)
        return np.concatenate(await _in_flight(embed, batches, _EMBEDS_IN_FLIGHT))

    def _best(self, scores: FloatArray, document_ids: Sequence[str]) -> Run:
        """Keep the best of each row of `scores`, float32 [queries, documents], best first."""
        places = {document_id: place for place, document_id in enumerate(document_ids)}
        run: Run = {}
        for row, query_id in zip(scores, self.collection.queries, strict=True):
            excluded = self.collection.excluded.get(query_id, frozenset())
            row[[places[each] for each in excluded if each in places]] = -np.inf
            depth = min(DEPTH, int(np.isfinite(row).sum()))
            kept = np.argpartition(-row, depth - 1)[:depth] if depth else np.array([], int)
            best = kept[np.argsort(-row[kept], kind="stable")]
            run[query_id] = {document_ids[place]: float(row[place]) for place in best}
        return run


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
    call: Callable[[_ItemT], Awaitable[_ResultT]], items: Sequence[_ItemT], limit: int
) -> list[_ResultT]:
    """Make a call for each item, `limit` at a time; results in the items' order."""
    places = asyncio.Semaphore(limit)

    async def limited(item: _ItemT) -> _ResultT:
        async with places:
            return await call(item)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(limited(item)) for item in items]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None  # the first; it cancelled the rest
    return [task.result() for task in tasks]
