"""Collections of the hub as folders, from small tables instead of downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.collection import CollectionDocument, read_collection
from benchmarks.loaders.conversion import (
    ConversionError,
    Converted,
    from_beir,
    from_bright,
    from_r2med,
)
from benchmarks.loaders.folder import write_folder

loaders = pytest.importorskip(
    "benchmarks.loaders.__main__", reason="needs rich", exc_type=ImportError
)
hub = pytest.importorskip("benchmarks.loaders.hub", exc_type=ImportError)

Tables = dict[tuple[str, str | None, str], list[dict[str, Any]]]

BEIR: Tables = {
    ("BeIR/tiny", "corpus", "corpus"): [
        {"_id": "d1", "title": "T", "text": "one"},
        {"_id": "d2", "title": "", "text": "two\nlines — ü"},
        {"_id": "d1", "title": "T", "text": "again"},
    ],
    ("BeIR/tiny", "queries", "queries"): [
        {"_id": "1", "title": "", "text": "first"},
        {"_id": "2", "title": "", "text": "unjudged"},
    ],
    ("BeIR/tiny-qrels", None, "test"): [
        {"query-id": 1, "corpus-id": "d1", "score": 2},
        {"query-id": 1, "corpus-id": "d2", "score": 0.0},
        {"query-id": 77, "corpus-id": "d1", "score": 1},
    ],
}
EXAMPLES = [
    {"id": "0", "query": "why?", "gold_ids": ["a/1.txt"], "excluded_ids": ["N/A"]},
    {"id": "1", "query": "how?", "gold_ids": ["a/2.txt"], "excluded_ids": ["b", "c"]},
]
BRIGHT: Tables = {
    ("xlangai/BRIGHT", "documents", "pony"): [
        {"id": "a/1.txt", "content": "one"},
        {"id": "a/2.txt", "content": "two"},
    ],
    ("xlangai/BRIGHT", "examples", "pony"): EXAMPLES,
    ("xlangai/BRIGHT", "gpt4_reason", "pony"): [
        {**each, "query": f"let me think: {each['query']}"} for each in EXAMPLES
    ],
}
R2MED: Tables = {
    ("R2MED/Biology", "corpus", "corpus"): [{"id": "p1", "text": "one"}],
    ("R2MED/Biology", "query", "query"): [{"id": "q1", "text": "first"}],
    ("R2MED/Biology", "qrels", "qrels"): [{"q_id": "q1", "p_id": "p1", "score": "1"}],
}


def load(tables: Tables, *arguments: str) -> int:
    code: int = loaders.main(list(arguments), lambda *key: tables[key])
    return code


def test_a_beir_collection_becomes_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load(BEIR, "beir", "tiny", str(tmp_path / "tiny")) == 0
    collection = read_collection(tmp_path / "tiny")
    assert collection.documents == (
        CollectionDocument("d1", "T", "one"),
        CollectionDocument("d2", "", "two\nlines — ü"),
    )
    assert collection.queries == {"1": "first"}
    assert collection.qrels == {"1": {"d1": 2, "d2": 0}}
    assert collection.excluded == {}
    printed = capsys.readouterr().out
    assert "tiny: 2 documents, 2 queries, 2 judgments" in printed
    assert "left out: 1 documents" in printed


@pytest.mark.parametrize(
    ("options", "queries"),
    [
        ([], {"0": "why?", "1": "how?"}),
        (["--reasoning", "gpt4"], {"0": "let me think: why?", "1": "let me think: how?"}),
    ],
)
def test_a_bright_task_becomes_a_folder_with_its_excluded_ids(
    tmp_path: Path, options: list[str], queries: dict[str, str]
) -> None:
    assert load(BRIGHT, "bright", "pony", str(tmp_path), *options) == 0
    collection = read_collection(tmp_path)
    assert [document.id for document in collection.documents] == ["a/1.txt", "a/2.txt"]
    assert collection.queries == queries
    assert collection.qrels == {"0": {"a/1.txt": 1}, "1": {"a/2.txt": 1}}
    assert collection.excluded == {"1": frozenset({"b", "c"})}


def test_an_r2med_collection_becomes_a_folder(tmp_path: Path) -> None:
    assert load(R2MED, "r2med", "Biology", str(tmp_path)) == 0
    collection = read_collection(tmp_path)
    assert collection.documents == (CollectionDocument("p1", "", "one"),)
    assert collection.qrels == {"q1": {"p1": 1}}


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (
            lambda: from_beir([], [{"_id": "1"}], []),
            "queries row 1: `text` is not a text: None",
        ),
        (
            lambda: from_beir([], [], [{"query-id": 1, "corpus-id": "d", "score": "high"}]),
            "qrels row 1: `score` 'high' is not a whole number",
        ),
        (
            lambda: from_r2med([], [], [{"q_id": "1", "p_id": "d", "score": 0.5}]),
            "qrels row 1: `score` 0.5 is not a whole number",
        ),
        (
            lambda: list(from_r2med([{"id": "a", "text": "x"}, {"id": "b"}], [], []).documents),
            "documents row 2: `text` is not a text",
        ),
        (
            lambda: from_bright([], [{**EXAMPLES[0], "gold_ids": "a"}]),
            "examples row 1: `gold_ids` is not a list of texts: 'a'",
        ),
        (
            lambda: from_bright([], [{**EXAMPLES[0], "excluded_ids": ["a/1.txt"]}]),
            r"examples row 1: in `gold_ids` and in `excluded_ids`: \['a/1.txt'\]",
        ),
    ],
)
def test_a_table_that_is_not_as_described_is_refused_with_the_place(
    convert: Any, message: str
) -> None:
    with pytest.raises(ConversionError, match=message):
        convert()


@pytest.mark.parametrize("bad", ["", "a\tb", "a\nb", " a"])
def test_an_id_that_the_folder_cannot_hold_is_refused(tmp_path: Path, bad: str) -> None:
    converted = Converted([CollectionDocument(bad, "", "text")], {"q": "text"}, {"q": {bad: 1}})
    with pytest.raises(ConversionError, match="is no id"):
        write_folder(tmp_path, converted)
    assert not (tmp_path / "corpus.jsonl").exists()


def test_without_a_way_to_the_hub_the_command_says_so_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    assert loaders.main(["beir", "tiny", str(tmp_path / "tiny")]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("loaders: BeIR/tiny corpus corpus: the Hugging Face hub cannot be reac")
    assert not (tmp_path / "tiny").exists()


def test_a_name_that_is_no_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        loaders.parse_arguments(["beir", "../etc", "folder"])
    assert "NAME: '../etc'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        loaders.parse_arguments(["beir", "tiny", "folder", "--reasoning", "gpt4"])
    assert "only BRIGHT" in capsys.readouterr().err
