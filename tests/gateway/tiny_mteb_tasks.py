"""Tasks of a few sentences for MTEB; to be imported when a test runs, which takes seconds."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

INSTRUCTION = "find the passage"
TITLES = {"leaf": "Photosynthesis", "mercury": "Planets"}
CORPUS = {
    "leaf": "plants make sugar from light and water",
    "mercury": "the planet closest to the sun is mercury",
    "bread": "bread rises because yeast makes gas",
    "moon": "the moon pulls the water of the sea",
    "bees": "bees dance to show where flowers are",
    "iron": "iron rusts in water and air",
    "sugar": "sugar beet gives white sugar",
    "ice": "ice is lighter than water",
    "wind": "wind is air that moves",
    "sand": "sand is what rocks become",
}
QUERIES = {
    "q1": "how do plants make sugar",
    "q2": "which planet is closest to the sun",
    "q3": "why does water rise in the sea",
}
RELEVANT = {"q1": {"leaf": 2, "sugar": 1}, "q2": {"mercury": 1}, "q3": {"moon": 1, "ice": 1}}
RELEVANT_FIRST = {
    query: [*found, *(name for name in CORPUS if name not in found)]
    for query, found in RELEVANT.items()
}
RELEVANT_LAST = {query: names[::-1] for query, names in RELEVANT_FIRST.items()}


def metadata(name: str, kind: str) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        type=kind,
        description="A few sentences.",
        prompt={"query": INSTRUCTION},
        reference="https://example.com",
        dataset={"path": "none", "revision": "1"},
        category="t2t",
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
        date=("2024-01-01", "2024-01-01"),
        dialect=[],
        domains=[],
        task_subtypes=[],
        license="cc-by-4.0",
        annotations_creators="derived",
        modalities=["text"],
        sample_creation="created",
        bibtex_citation="",
    )


class TinyRetrieval(AbsTaskRetrieval):
    metadata = metadata("TinyRetrieval", "Retrieval")
    candidates: dict[str, list[str]] | None = None

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        corpus = [
            {"id": name, "title": TITLES.get(name, "Notes"), "text": text}
            for name, text in CORPUS.items()
        ]
        queries = [{"id": name, "text": text} for name, text in QUERIES.items()]
        split = {
            "corpus": Dataset.from_list(corpus),
            "queries": Dataset.from_list(queries),
            "relevant_docs": {query: dict(found) for query, found in RELEVANT.items()},
            "top_ranked": self.candidates,
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


class TinyReranking(TinyRetrieval):
    metadata = metadata("TinyReranking", "Reranking")
    candidates = RELEVANT_FIRST


class TinyRerankingReversed(TinyRetrieval):
    metadata = metadata("TinyRerankingReversed", "Reranking")
    candidates = RELEVANT_LAST
