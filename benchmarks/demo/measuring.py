"""Reranks a collection's candidates by one method, first cold and then warm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from benchmarks.collection import Collection, Run
from e2rank_client import Document, E2RankClient, RerankResult

MethodName: TypeAlias = Literal["COSINE", "E2RANK"]


class PassError(Exception):
    """A pass was not what its name says, so its times would mislead."""


@dataclass(frozen=True, slots=True)
class MethodOutcome:
    """The answers of one method, a query each, in the collection's order.

    In the cold pass no document's vector was cached; in the warm pass all were.
    """

    method: MethodName
    run: Run
    cold: tuple[RerankResult, ...]
    warm: tuple[RerankResult, ...]


def rerank_cold_and_warm(
    client: E2RankClient,
    collection: Collection,
    candidates: Run,
    method: MethodName,
    *,
    namespace: str,
) -> MethodOutcome:
    """Rerank each query's candidates twice.

    Queries share candidates, so each has a namespace of its own, below
    `namespace`: otherwise the first query would warm the second.

    Raises:
        PassError: Documents came from the cache in the cold pass, or did not in the warm one.
    """
    documents = {document.id: document for document in collection.documents}

    def rerank(query_id: str, part: str) -> RerankResult:
        return client.rerank(
            collection.queries[query_id],
            [
                Document(
                    id=document_id,
                    text=documents[document_id].text,
                    title=documents[document_id].title,
                    first_stage_score=score,
                )
                for document_id, score in candidates[query_id].items()
            ],
            method=method,
            namespace=f"{namespace}/{method}/{part}",
        )

    rerank(next(iter(candidates)), "first call")  # pays for what is set up on first use
    cold = tuple(rerank(query_id, query_id) for query_id in candidates)
    warm = tuple(rerank(query_id, query_id) for query_id in candidates)
    _check_passes(cold, warm)
    run = {
        query_id: {result.id: result.relevance_score for result in answer.results}
        for query_id, answer in zip(candidates, cold, strict=True)
    }
    return MethodOutcome(method, run, cold, warm)


def _check_passes(cold: Sequence[RerankResult], warm: Sequence[RerankResult]) -> None:
    if found := sum(answer.usage.documents_cached for answer in cold):
        raise PassError(f"{found} documents came from the cache in the cold pass")
    if embedded := sum(answer.usage.documents_embedded for answer in warm):
        raise PassError(f"{embedded} documents were embedded again in the warm pass")
