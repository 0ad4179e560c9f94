"""Whether peers' embeddings rank as our COSINE does, query by query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from benchmarks.collection import Collection
from benchmarks.peers.http_answers import FloatArray
from benchmarks.peers.sides import EmbeddingPeer, OurClient

TIE = 1e-4
"""Scores nearer than this may stand in either order: ours are of vectors rounded to float16."""


@dataclass(frozen=True, slots=True)
class QueryAgreement:
    """Of one query: whether the orders are the same but for ties, Kendall's tau, and scores."""

    is_same_ranking: bool
    kendall_tau: float
    max_score_difference: float


def compare(ours: FloatArray, theirs: FloatArray) -> QueryAgreement:
    """Compare two scorings of the same documents, each [documents]."""
    # In our order, each score of theirs must not fall below a later one by more than a tie.
    in_our_order = theirs[np.argsort(-ours, kind="stable")]
    best_behind = np.maximum.accumulate(in_our_order[::-1])[::-1]
    return QueryAgreement(
        is_same_ranking=bool(np.all(in_our_order >= best_behind - TIE)),
        kendall_tau=float(kendalltau(ours, theirs).statistic),
        max_score_difference=float(np.abs(ours - theirs).max()),
    )


def cosines(queries: FloatArray, documents: FloatArray) -> NDArray[np.float32]:
    """Return [queries, documents]."""
    return np.asarray(_unit(queries) @ _unit(documents).T, np.float32)


def agreement_figures(name: str, queries: Sequence[QueryAgreement]) -> dict[str, float]:
    """Return the share of queries ranked the same, the mean tau, the largest difference."""
    return {
        f"agreement.{name}": float(np.mean([query.is_same_ranking for query in queries])),
        f"agreement.{name}.kendall_tau": float(np.mean([query.kendall_tau for query in queries])),
        f"agreement.{name}.max_score_difference": max(
            query.max_score_difference for query in queries
        ),
    }


async def measure_agreement(
    ours: OurClient, peers: Sequence[EmbeddingPeer], collection: Collection
) -> dict[str, float]:
    """Rerank all documents for each query by COSINE, and by cosines of each peer's vectors."""
    documents = [document.full_text for document in collection.documents]
    queries = list(collection.queries.values())
    our_scores = [await ours.scores(query, documents, "COSINE") for query in queries]
    figures: dict[str, float] = {}
    for peer in peers:
        vectors = await peer.embed([*queries, *documents])
        their_scores = cosines(vectors[: len(queries)], vectors[len(queries) :])
        pairs = zip(our_scores, their_scores, strict=True)
        figures |= agreement_figures(peer.name, [compare(*pair) for pair in pairs])
    return figures


def _unit(rows: FloatArray) -> FloatArray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)
