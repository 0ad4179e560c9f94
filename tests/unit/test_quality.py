"""The quality benchmark on a tiny collection, with a client that needs no server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.collection import (
    Collection,
    CollectionDocument,
    CollectionError,
    read_collection,
)
from benchmarks.quality.experiment import DEPTH, METHODS, Ranker
from e2rank_client import (
    Document,
    E2RankOptions,
    EmbedResult,
    RerankResult,
    UnavailableError,
)
from e2rank_client.errors import FailedCall
from e2rank_client.types import CacheTier, RankedDocument

COLORS = ("red", "green", "blue")


def vector_of(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Count colour words: texts of one colour are near each other."""
    counts = np.array([text.count(color) for color in COLORS], np.float32)
    return counts / (np.linalg.norm(counts) or 1)


class StubClient:
    """Embeds by colour words, and reranks by them; keeps what it was asked."""

    def __init__(self) -> None:
        self.embedded: list[tuple[str, str, int]] = []
        self.reranked: list[tuple[str, list[str], Any]] = []
        self.running = self.most_running = 0

    async def embed(
        self,
        texts: Sequence[str],
        *,
        input_type: str,
        titles: Sequence[str | None] | None = None,
        namespace: str = "",
        **_: Any,
    ) -> EmbedResult:
        self.embedded.append((input_type, namespace, len(texts)))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        full = [f"{t or ''} {x}" for t, x in zip(titles or [None] * len(texts), texts, strict=True)]
        vectors = np.stack([vector_of(text) for text in full])
        return EmbedResult(vectors, (), (), None, None, None, ())  # type: ignore[arg-type]

    async def rerank(
        self, query: str, documents: Sequence[Document], *, method: Any, **_: Any
    ) -> RerankResult:
        self.reranked.append((query, [document.id for document in documents], method))
        scores = [float(vector_of(query) @ vector_of(str(document.text))) for document in documents]
        order = sorted(range(len(documents)), key=lambda i: -scores[i])
        results = [
            RankedDocument(i, documents[i].id, scores[i], None, CacheTier.MEMORY) for i in order
        ]
        return RerankResult(results, None, None, None, None, ())  # type: ignore[arg-type]


def make_collection(num_documents: int = 200) -> Collection:
    documents = tuple(
        CollectionDocument(f"d{i}", "", f"{COLORS[i % 3]} thing {'x' * (i % 7)}")
        for i in range(num_documents)
    )
    qrels = {f"q-{color}": {f"d{i}": 1} for i, color in enumerate(COLORS)}
    return Collection("colors", documents, {f"q-{c}": f"a {c} one" for c in COLORS}, qrels)


async def test_dense_retrieval_keeps_the_nearest_documents_of_all() -> None:
    client, counted = StubClient(), []
    collection = make_collection(400)
    run = await Ranker(client, "m", collection).dense(counted.append)
    assert sum(counted) == 400
    for number, color in enumerate(COLORS):
        ranking = run[f"q-{color}"]
        assert len(ranking) == DEPTH
        assert all(int(name[1:]) % 3 == number for name in ranking)
        assert set(ranking.values()) == {1.0}


async def test_documents_are_embedded_in_the_collections_namespace_a_few_batches_at_once() -> None:
    client = StubClient()
    await Ranker(client, "m", make_collection(400)).dense(lambda _: None)
    documents = [call for call in client.embedded if call[0] == "DOCUMENT"]
    assert {namespace for _, namespace, _ in documents} == {"colors"}
    assert len(documents) > 1
    assert 1 < client.most_running <= 4


async def test_dense_retrieval_of_fewer_documents_than_the_depth_keeps_them_all() -> None:
    run = await Ranker(StubClient(), "m", make_collection(5)).dense(lambda _: None)
    assert {len(ranking) for ranking in run.values()} == {5}


async def test_candidates_are_reranked_best_first_by_the_method_asked() -> None:
    client = StubClient()
    candidates = {"q-red": {"d1": 9.0, "d0": 8.0}, "q-blue": {}}
    ranker = Ranker(client, "m", make_collection())
    run = await ranker.rerank("e2rank_first_stage", candidates, lambda _: None)
    assert client.reranked == [("a red one", ["d1", "d0"], METHODS["e2rank_first_stage"])]
    assert run == {"q-red": {"d0": 1.0, "d1": 0.0}}


async def test_a_failed_call_ends_the_run_with_its_own_error() -> None:
    class Broken(StubClient):
        async def rerank(self, *args: Any, **kwargs: Any) -> RerankResult:
            import grpc

            raise UnavailableError(FailedCall(grpc.StatusCode.UNAVAILABLE, "gone"))

    ranker = Ranker(Broken(), "m", make_collection())
    with pytest.raises(UnavailableError, match="gone"):
        await ranker.rerank("cosine", {"q-red": {"d0": 1.0}}, lambda _: None)


def test_both_prompt_orders_are_measured() -> None:
    orders = {m.prompt_order for m in METHODS.values() if isinstance(m, E2RankOptions)}
    assert orders == {"FIRST_STAGE", "COSINE"}


def write_collection(folder: Path, **changes: str) -> Path:
    files = {
        "corpus.jsonl": '{"_id": "d1", "title": "T", "text": "one"}\n'
        '{"_id": "d2", "text": "two"}\n',
        "queries.jsonl": '{"_id": "q1", "text": "first"}\n{"_id": "q9", "text": "unjudged"}\n',
        "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t2\n",
    } | changes
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_beir_folder_is_read_with_its_judged_queries_only(tmp_path: Path) -> None:
    collection = read_collection(write_collection(tmp_path / "tiny"))
    assert collection.name == "tiny"
    assert collection.documents == (
        CollectionDocument("d1", "T", "one"),
        CollectionDocument("d2", "", "two"),
    )
    assert collection.queries == {"q1": "first"}
    assert collection.qrels == {"q1": {"d1": 2}}


def test_qrels_may_lie_beside_the_corpus(tmp_path: Path) -> None:
    write_collection(tmp_path)
    (tmp_path / "qrels/test.tsv").rename(tmp_path / "qrels.tsv")
    assert read_collection(tmp_path).qrels == {"q1": {"d1": 2}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"corpus.jsonl": '{"_id": "d1", "text": "one"}\nnonsense\n'},
            "corpus.jsonl line 2: not JSON",
        ),
        ({"corpus.jsonl": '{"_id": "d1", "text": 3}\n'}, "line 1: `text` is not a string"),
        ({"queries.jsonl": "[]\n"}, "queries.jsonl line 1: not an object"),
        ({"qrels/test.tsv": "h\nq1 d1 1\n"}, "test.tsv line 2: not query-id"),
        ({"qrels/test.tsv": "h\nq7\td1\t1\n"}, "judged but not in queries.jsonl"),
        ({"qrels/test.tsv": "h\n"}, "no judged queries"),
    ],
)
def test_a_malformed_folder_is_refused_with_the_place(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(CollectionError, match=message):
        read_collection(write_collection(tmp_path, **changes))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match=r"no corpus\.jsonl"):
        read_collection(tmp_path)


def test_limiting_queries_keeps_all_documents() -> None:
    limited = make_collection().limited(1)
    assert list(limited.queries) == list(limited.qrels) == ["q-red"]
    assert len(limited.documents) == 200
