"""What the element type of cached vectors does to a ranking: nDCG@10 beside float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.bm25 import Bm25
from benchmarks.collection import Collection, CollectionDocument, Run
from benchmarks.measures import measure
from e2rank_client import E2RankClient
from e2rank_server.embedding_cache.values import ElementType, row_codec
from e2rank_server.types import FloatArray

DEPTH = 100
_EMBED_BATCH = 64
_CALL_TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class CollectionVectors:
    """Vectors of a collection's documents and queries, in its order, and what made them."""

    profile: str
    fingerprint: str
    documents: FloatArray
    queries: FloatArray

    def save(self, file: Path) -> None:
        """Write a file, whole or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".tmp.npz")
        np.savez(
            draft,
            made_by=np.array([self.profile, self.fingerprint]),
            documents=self.documents,
            queries=self.queries,
        )
        draft.replace(file)

    @classmethod
    def load(cls, file: Path, collection: Collection) -> CollectionVectors | None:
        """Read a file; None if there is none, or its vectors are not as many as are wanted."""
        if not file.exists():
            return None
        with np.load(file) as arrays:
            profile, fingerprint = arrays["made_by"].tolist()
            vectors = cls(profile, fingerprint, arrays["documents"], arrays["queries"])
        counts = (len(vectors.documents), len(vectors.queries))
        is_fit = counts == (len(collection.documents), len(collection.queries))
        return vectors if is_fit else None


def embed_collection(
    client: E2RankClient, model: str, collection: Collection, advance: Callable[[int], None]
) -> CollectionVectors:
    """Embed a collection through a server; `advance` counts texts."""
    identity = client.get_model(model).identity

    def embed(documents: list[CollectionDocument]) -> FloatArray:
        answer = client.embed(
            [document.text or document.title for document in documents],
            titles=[document.title if document.text else None for document in documents],
            input_type="DOCUMENT",
            model=model,
            namespace=collection.name,
            timeout_seconds=_CALL_TIMEOUT_SECONDS,
        )
        advance(len(documents))
        return answer.vectors

    def embed_queries(queries: list[str]) -> FloatArray:
        answer = client.embed(
            queries, input_type="QUERY", model=model, timeout_seconds=_CALL_TIMEOUT_SECONDS
        )
        advance(len(queries))
        return answer.vectors

    documents, queries = list(collection.documents), list(collection.queries.values())
    batch = _EMBED_BATCH
    return CollectionVectors(
        identity.profile,
        identity.fingerprint,
        np.concatenate([embed(documents[i : i + batch]) for i in range(0, len(documents), batch)]),
        np.concatenate(
            [embed_queries(queries[i : i + batch]) for i in range(0, len(queries), batch)]
        ),
    )


def measure_element_types(collection: Collection, vectors: CollectionVectors) -> dict[str, float]:
    """Rank BM25's best by cosine with each element type; return nDCG@10 and what it loses."""
    candidates = Bm25(collection.documents).rank(collection.queries, depth=DEPTH)
    ndcg = {
        element_type: measure(
            collection.qrels, _rerank(collection, candidates, vectors, element_type)
        )["ndcg@10"]
        for element_type in ElementType
    }
    exact = ndcg[ElementType.FLOAT32]
    return {
        **{f"ndcg_{kind.lower()}": value for kind, value in ndcg.items()},
        "ndcg_float16_minus_float32": ndcg[ElementType.FLOAT16] - exact,
        "ndcg_int8_minus_float32": ndcg[ElementType.INT8] - exact,
    }


def _rerank(
    collection: Collection, candidates: Run, vectors: CollectionVectors, element_type: ElementType
) -> Run:
    """Score candidates with their vectors as the cache would return them."""
    codec = row_codec(element_type, vectors.documents.shape[1])
    documents = np.empty_like(vectors.documents)
    codec.decode(codec.encode(vectors.documents), documents)
    row_of = {document.id: row for row, document in enumerate(collection.documents)}
    query_of = {query_id: row for row, query_id in enumerate(collection.queries)}
    return {
        query_id: {
            document_id: float(documents[row_of[document_id]] @ vectors.queries[query_of[query_id]])
            for document_id in found
        }
        for query_id, found in candidates.items()
    }
