"""First stages: what finds the candidates that are reranked, best first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from benchmarks.bm25 import Bm25
from benchmarks.collection import Collection, CollectionError, Run
from benchmarks.trec import read_run

DEPTH = 100
"""Candidates to rerank."""

FIRST_STAGES = ("bm25", "dense", "hybrid")

_RRF_K = 60


def reciprocal_rank_fusion(runs: Sequence[Run], depth: int) -> Run:
    """Fuse rankings: a document scores the sum of 1 / (60 + its rank), ranks from 1.

    Cormack, Clarke and Büttcher, SIGIR 2009. Equal scores keep the order of the
    runs: the first run's documents, then those that only the next one has.
    """
    fused: Run = {}
    for query_id in dict.fromkeys(query_id for run in runs for query_id in run):
        scores: dict[str, float] = {}
        for run in runs:
            for rank, document_id in enumerate(run.get(query_id, {}), start=1):
                scores[document_id] = scores.get(document_id, 0.0) + 1 / (_RRF_K + rank)
        best = sorted(scores.items(), key=lambda each: -each[1])
        fused[query_id] = dict(best[:depth])
    return fused


def read_candidates(file: Path, collection: Collection, depth: int = DEPTH) -> Run:
    """Read a TREC run as a first stage: the judged queries' best documents, without excluded ones.

    Raises:
        TrecError: The file is not a run.
        CollectionError: It has none of the queries, or a document that is not in the collection.
    """
    run = read_run(file)
    known = {document.id for document in collection.documents}
    candidates: Run = {}
    for query_id in collection.queries:
        ranking = run.get(query_id, {})
        if unknown := [each for each in ranking if each not in known]:
            raise CollectionError(
                f"{file.name}: query {query_id!r} has documents that {collection.name} lacks: "
                f"{unknown[:5]}"
            )
        candidates[query_id] = ranking
    if not any(candidates.values()):
        raise CollectionError(f"{file.name}: none of the queries of {collection.name}")
    barred = collection.without_excluded(candidates)
    return {query_id: dict(list(each.items())[:depth]) for query_id, each in barred.items()}


class Bm25Stage:
    """BM25 over one collection, indexed once for all profiles."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._run: Run | None = None

    async def run(self) -> Run:
        """Rank the best DEPTH documents for each query."""
        if self._run is None:
            self._run = await asyncio.to_thread(self._rank)
        return self._run

    def _rank(self) -> Run:
        collection = self._collection
        index = Bm25(collection.documents)
        return index.rank(collection.queries, depth=DEPTH, excluded=collection.excluded)


class FirstStages:
    """The first stages of one collection and profile, each made when it is first asked for."""

    def __init__(
        self, bm25: Bm25Stage, dense: Callable[[], Awaitable[Run]], own: dict[str, Run]
    ) -> None:
        self._bm25 = bm25
        self._dense = dense
        self._runs = dict(own)

    async def run(self, name: str) -> Run:
        """Return one of FIRST_STAGES, or a run of the user's own by its name."""
        if name not in self._runs:
            self._runs[name] = await self._made(name)
        return self._runs[name]

    async def _made(self, name: str) -> Run:
        if name == "bm25":
            return await self._bm25.run()
        if name == "dense":
            return await self._dense()
        return reciprocal_rank_fusion([await self.run("bm25"), await self.run("dense")], DEPTH)
