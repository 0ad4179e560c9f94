"""What needs the benchmarks' own packages: BM25, measures, tables, the plot, the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.collection import CollectionDocument
from tests.unit.quality_rig import make_model

bm25 = pytest.importorskip(
    "benchmarks.bm25", reason="needs bm25s and PyStemmer", exc_type=ImportError
)
measures = pytest.importorskip("benchmarks.measures", exc_type=ImportError)
main = pytest.importorskip("benchmarks.quality.__main__", exc_type=ImportError)
report = pytest.importorskip("benchmarks.quality.report", exc_type=ImportError)
serving = pytest.importorskip("benchmarks.quality.serving", exc_type=ImportError)
command_line = pytest.importorskip("benchmarks.quality.command_line", exc_type=ImportError)

COSINE = "tiny.e2rank-0.6b.bm25.cosine"
LLM = "tiny.e2rank-0.6b.bm25.llm_listwise"
FIGURES = {
    "tiny.bm25.ndcg@10": 0.5,
    "tiny.bm25.r@100": 0.9,
    "tiny.e2rank-0.6b.dense.ndcg@10": 0.6,
    f"{COSINE}.ndcg@10": 0.7,
    f"{COSINE}.minus_first_stage": 0.2,
    f"{COSINE}.p_vs_first_stage": 0.0002,
    f"{COSINE}.documents_embedded": 0.0,
    f"{COSINE}.p50_seconds": 0.0123,
    f"{LLM}.ndcg@10": 0.4,
    f"{LLM}.minus_cosine": -0.3,
    f"{LLM}.p_vs_cosine": 0.25,
    f"{LLM}.malformed_rate": 0.98,
    f"{LLM}.num_queries": 20.0,
    "other.bm25.ndcg@10": 0.1,
}
INTERVALS = {f"{COSINE}.minus_first_stage": {"low": 0.1, "high": 0.3, "iterations": 9}}


def test_bm25_matches_stems_and_ignores_case_and_stop_words() -> None:
    documents = [
        CollectionDocument("a", "Running", "The dogs were running."),
        CollectionDocument("b", "", "A cat sat by the door."),
    ]
    run = bm25.Bm25(documents).rank({"q1": "the DOG runs", "q2": "the"}, depth=10)
    assert list(run["q1"]) == ["a"]
    assert run["q2"] == {}


def test_excluded_documents_take_no_place_in_bm25() -> None:
    documents = [CollectionDocument(f"d{n}", "", "cat " * (n + 1) + "dog") for n in range(5)]
    index = bm25.Bm25([*documents, CollectionDocument("other", "", "bird")])
    excluded = {"q1": frozenset({"d4", "d3"})}
    run = index.rank({"q1": "cat", "q2": "cat"}, depth=2, excluded=excluded)
    assert list(run["q1"]) == ["d2", "d1"]
    assert list(run["q2"]) == ["d4", "d3"]


def test_measures_are_those_of_trec_eval_and_count_missing_queries_as_zero() -> None:
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}}
    run = {"q1": {"b": 2.0, "a": 1.0}}
    values = measures.measure(qrels, run)
    assert values["ndcg@10"] == pytest.approx(0.5 / 1.5849625, abs=1e-6)
    assert values["mrr@10"] == pytest.approx(0.25)
    assert values["r@100"] == pytest.approx(0.5)
    by_query = measures.ndcg_by_query(qrels, run)
    assert by_query == {"q1": pytest.approx(1 / 1.5849625, abs=1e-6), "q2": 0.0}


def test_the_table_has_a_collections_rankings_best_first() -> None:
    lines = report.markdown_table(FIGURES, "tiny", INTERVALS).splitlines()
    rows = {
        cells[0]: cells[1:] for cells in ([c.strip() for c in x[1:-1].split("|")] for x in lines)
    }
    assert list(rows)[2:] == [
        "e2rank-0.6b.bm25.cosine",
        "e2rank-0.6b.dense",
        "bm25",
        "e2rank-0.6b.bm25.llm_listwise",
    ]
    assert rows["bm25"] == ["0.5000", "", "0.9000", "", "", "", "", "", ""]
    assert rows["e2rank-0.6b.bm25.cosine"] == [
        *("0.7000", "", ""),
        "+0.2000 [+0.100, +0.300] p < .001",
        *("", "", "0.0123", "0", ""),
    ]
    assert rows["e2rank-0.6b.bm25.llm_listwise"] == [
        *("0.4000", "", "", ""),
        "-0.3000 p = 0.250",
        *("98%", "", "", "20"),
    ]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("bm25", ("", "bm25", "")),
        ("my-run", ("", "my-run", "")),
        ("e2rank-0.6b.dense", ("e2rank-0.6b", "dense", "")),
        ("e2rank-0.6b.my-run.e2rank", ("e2rank-0.6b", "my-run", "e2rank")),
        ("small.bm25.e2rank_cosine", ("small", "bm25", "e2rank_cosine")),
    ],
)
def test_a_rankings_name_has_profile_first_stage_and_method(
    name: str, parts: tuple[str, str, str]
) -> None:
    ranking = report.Ranking.parse(name)
    assert (ranking.profile, ranking.first_stage, ranking.method) == parts


def test_the_plot_is_a_png(tmp_path: Path) -> None:
    report.plot(FIGURES, "tiny", tmp_path / "tiny.png")
    assert (tmp_path / "tiny.png").read_bytes().startswith(b"\x89PNG")


def test_the_recorded_command_names_collections_and_no_paths_flags_or_addresses(
    tmp_path: Path,
) -> None:
    folders = [str(tmp_path / "scifact"), str(tmp_path / "nq")]
    options = command_line.parse_arguments([*folders, "--address", "somewhere:1"])
    command = command_line.shown_command(options, "small")
    assert command == "python -m benchmarks.quality scifact nq --profiles small"
    arguments = f"{tmp_path}/nq --run {tmp_path}/mine.trec --methods cosine llm_listwise".split()
    arguments += f"--llm-queries 20 --generator-model {tmp_path}/tiny-llm".split()
    arguments += ["--server-flags", "--generator-api-key secret"]
    options = command_line.parse_arguments(arguments)
    assert command_line.shown_command(options, "small") == (
        "python -m benchmarks.quality nq --profiles small --methods cosine llm_listwise "
        "--run mine.trec --llm-queries 20 --generator-model tiny-llm"
    )
    assert serving.server_arguments(options) == [
        *("--generator-model", f"{tmp_path}/tiny-llm"),
        *("--generator-api-key", "secret"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one", "--queries", "0"], "--queries: at least 1, not 0"),
        (["one", "--llm-queries", "-3"], "--llm-queries: at least 1, not -3"),
        (["one", "two", "--run", "mine.trec"], "--run: a run is of one collection"),
        (["one", "--run", "my.own.trec"], "--run: 'my.own' names figures"),
        (["one", "--run", "dense.trec"], "--run: 'dense' names figures"),
        (["one", "--run", "a/x.trec", "--run", "b/x.trec"], "--run: two files of one name"),
    ],
)
def test_options_that_contradict_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command_line.parse_arguments(arguments)
    assert message in capsys.readouterr().err


def test_an_llm_is_measured_if_the_server_has_one_and_missed_if_it_is_asked_for() -> None:
    assert "llm_listwise" in main.methods_for(make_model(), None)
    assert "llm_listwise" not in main.methods_for(make_model(generator=None), None)
    assert main.methods_for(make_model(generator=None), ["cosine"]) == ["cosine"]
    with pytest.raises(main.MissingGeneratorError, match="the server has no generator"):
        main.methods_for(make_model(generator=None), ["cosine", "llm_listwise"])


def test_a_folder_without_a_collection_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("quality: ")
