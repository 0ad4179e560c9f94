from __future__ import annotations

import string
from pathlib import Path

import pytest

import benchmarks.demo
from benchmarks.collection import Collection, read_collection

FOLDER = Path(benchmarks.demo.__file__).parent / "collection"


@pytest.fixture(scope="module")
def collection() -> Collection:
    return read_collection(FOLDER)


def words(text: str) -> set[str]:
    return {word.strip(string.punctuation).lower() for word in text.split()}


def test_it_has_enough_documents_and_queries(collection: Collection) -> None:
    assert len(collection.documents) >= 72
    assert len(collection.queries) >= 12


def test_documents_are_distinct_and_of_25_to_60_words(collection: Collection) -> None:
    assert len({document.id for document in collection.documents}) == len(collection.documents)
    assert len({document.text for document in collection.documents}) == len(collection.documents)
    lengths = {document.id: len(document.text.split()) for document in collection.documents}
    assert {name: n for name, n in lengths.items() if not 25 <= n <= 60} == {}


def test_every_query_is_judged_by_grades_on_known_documents(collection: Collection) -> None:
    known = {document.id for document in collection.documents}
    assert collection.qrels.keys() == collection.queries.keys()
    for judgments in collection.qrels.values():
        assert judgments.keys() <= known
        assert set(judgments.values()) <= {0, 1, 2}
        assert 2 in judgments.values()


def test_several_queries_share_no_content_word_with_a_best_document(collection: Collection) -> None:
    texts = {document.id: document.full_text for document in collection.documents}

    def shares_long_word(query_id: str) -> bool:
        content = {word for word in words(collection.queries[query_id]) if len(word) > 4}
        best = [name for name, grade in collection.qrels[query_id].items() if grade == 2]
        return any(content & words(texts[name]) for name in best)

    paraphrased = [query_id for query_id in collection.queries if not shares_long_word(query_id)]
    assert len(paraphrased) >= 3, paraphrased


def test_ambiguous_words_occur_in_unrelated_documents(collection: Collection) -> None:
    for word in ("python", "mercury", "bank", "crane", "bass", "java"):
        holders = [d.id for d in collection.documents if word in d.full_text.lower()]
        assert len(holders) >= 2, word
