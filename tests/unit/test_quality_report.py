"""What needs the benchmarks' own packages: BM25, measures, tables and the plot."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.collection import CollectionDocument

bm25 = pytest.importorskip(
    "benchmarks.bm25", reason="needs bm25s and PyStemmer", exc_type=ImportError
)
measures = pytest.importorskip("benchmarks.measures", exc_type=ImportError)
main = pytest.importorskip("benchmarks.quality.__main__", exc_type=ImportError)
report = pytest.importorskip("benchmarks.quality.report", exc_type=ImportError)

FIGURES = {
    "tiny.bm25.ndcg@10": 0.5,
    "tiny.bm25.r@100": 0.9,
    "tiny.e2rank-0.6b.dense.ndcg@10": 0.6,
    "tiny.e2rank-0.6b.bm25.cosine.ndcg@10": 0.7,
    "other.bm25.ndcg@10": 0.1,
}


def test_bm25_matches_stems_and_ignores_case_and_stop_words() -> None:
    documents = [
        CollectionDocument("a", "Running", "The dogs were running."),
        CollectionDocument("b", "", "A cat sat by the door."),
    ]
    run = bm25.Bm25(documents).rank({"q1": "the DOG runs", "q2": "the"}, depth=10)
    assert list(run["q1"]) == ["a"]
    assert run["q2"] == {}


def test_measures_are_those_of_trec_eval_and_count_missing_queries_as_zero() -> None:
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}}
    values = measures.measure(qrels, {"q1": {"b": 2.0, "a": 1.0}})
    assert values["ndcg@10"] == pytest.approx(0.5 / 1.5849625, abs=1e-6)
    assert values["mrr@10"] == pytest.approx(0.25)
    assert values["r@100"] == pytest.approx(0.5)


def test_the_table_has_a_collections_rankings_best_first() -> None:
    lines = report.markdown_table(FIGURES, "tiny").splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "e2rank-0.6b.bm25.cosine",
        "e2rank-0.6b.dense",
        "bm25",
    ]
    assert lines[-1] == "| bm25 | 0.5000 |  | 0.9000 |"


def test_the_plot_is_a_png(tmp_path: Path) -> None:
    report.plot(FIGURES, "tiny", tmp_path / "tiny.png")
    assert (tmp_path / "tiny.png").read_bytes().startswith(b"\x89PNG")


def test_the_recorded_command_names_collections_and_no_paths(tmp_path: Path) -> None:
    options = main.parse_arguments([str(tmp_path / "scifact"), str(tmp_path / "nq")])
    command = main.shown_command(options, "small")
    assert command == "python -m benchmarks.quality scifact nq --profile small"


def test_a_folder_without_a_collection_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("quality: ")
