"""The InsertRank benchmark on a tiny collection, with a client that needs no server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.figures import Provenance
from benchmarks.insertrank.settings import (
    METHODS,
    NO_SCORES,
    ORDERS,
    PLAIN_TEMPLATES,
    SCALES,
    WINDOWS,
    Limits,
    Setting,
    all_settings,
    arranged,
)
from e2rank_client import E2RankOptions, LlmListwiseOptions
from e2rank_client.types import LlmOutputCounts, ScoreSource
from tests.unit.quality_rig import StubClient, make_collection, make_model

sections = pytest.importorskip(
    "benchmarks.insertrank.sections", reason="needs bm25s and scipy", exc_type=ImportError
)
report = pytest.importorskip("benchmarks.insertrank.report", exc_type=ImportError)
main = pytest.importorskip("benchmarks.insertrank.__main__", exc_type=ImportError)
command_line = pytest.importorskip("benchmarks.insertrank.command_line", exc_type=ImportError)
ranker_module = pytest.importorskip("benchmarks.quality.ranker", exc_type=ImportError)
saved_module = pytest.importorskip("benchmarks.quality.saved_sections", exc_type=ImportError)


def test_every_scale_meets_every_order_and_method_and_e2rank_has_no_windows() -> None:
    settings = all_settings(METHODS, WINDOWS, list(ORDERS))
    assert len(settings) == len(set(settings)) == 2 * 2 * 3 + 3
    assert {each.windows for each in settings if each.method == "e2rank"} == {""}
    assert set(SCALES) == {"none", "raw", "min_max", "percent"}


@pytest.mark.parametrize("method", PLAIN_TEMPLATES)
def test_with_and_without_scores_differ_in_template_and_scores_alone(method: str) -> None:
    setting = Setting(method, "one_window", "reversed")
    limits = Limits(candidates=30, max_words=50)
    plain, scored = (setting.options(scale, limits) for scale in (NO_SCORES, "percent"))
    assert isinstance(plain, LlmListwiseOptions)
    assert isinstance(scored, LlmListwiseOptions)
    assert (plain.template, scored.template) == (PLAIN_TEMPLATES[method], method)
    assert plain.first_stage_scores is None
    assert scored.first_stage_scores is not None
    assert scored.first_stage_scores.scaling == "PERCENT"
    assert scored.first_stage_scores.source == ScoreSource.CALLER
    for name in ("window_size", "initial_order", "max_words_per_document", "shuffle_seed"):
        assert getattr(plain, name) == getattr(scored, name)
    assert (plain.window_size, plain.initial_order) == (30, "REVERSED")


@pytest.mark.parametrize(("candidates", "size"), [(100, 20), (41, 20), (20, 10), (4, 2)])
def test_windows_are_of_twenty_or_of_half_the_candidates(candidates: int, size: int) -> None:
    options = Setting("insertrank", "windows", "first_stage").options("raw", Limits(candidates))
    assert isinstance(options, LlmListwiseOptions)
    assert options.window_size == size


def test_only_the_pair_that_reasons_has_a_budget_for_it() -> None:
    limits = Limits(20, reasoning_tokens=64)
    budgets = {}
    for method in PLAIN_TEMPLATES:
        options = Setting(method, "windows", "first_stage").options("raw", limits)
        assert isinstance(options, LlmListwiseOptions)
        budgets[method] = options.reasoning_token_budget
    assert budgets == {"insertrank": 64, "rank_llm_insertrank": None}


def test_e2rank_is_shown_the_same_documents_in_each_order() -> None:
    run = {"q": {f"d{n}": float(9 - n) for n in range(9)}}
    assert arranged(run, "first_stage", 5) == run
    reverse = list(arranged(run, "reversed", 5)["q"])
    assert reverse == ["d4", "d3", "d2", "d1", "d0", "d5", "d6", "d7", "d8"]
    shuffled = arranged(run, "shuffled", 5)
    assert list(shuffled["q"]) != list(run["q"])
    assert set(list(shuffled["q"])[:5]) == {"d0", "d1", "d2", "d3", "d4"}
    assert list(shuffled["q"].items()) == list(arranged(run, "shuffled", 5)["q"].items())
    assert shuffled["q"] == run["q"]  # each with its own score


def saved_sections(file: Path | None, *, is_resumed: bool = True) -> Any:
    provenance = Provenance({}, "abc", "run", "today")
    return saved_module.SavedSections(file, provenance, is_resumed=is_resumed)


async def measured(
    client: StubClient, methods: list[str], saved: Any, *, name: str = "colors"
) -> list[str]:
    """Measure the tiny collection's settings in one order; return the sections skipped."""
    collection = make_collection()
    plan = sections.Plan(
        all_settings(methods, ["windows"], ["first_stage"]), ["raw", NO_SCORES], Limits(10)
    )
    ranker = ranker_module.Ranker(client, "small-0.1b", collection)
    made = sections.InsertRankSections(ranker, make_model(), plan, name, lambda *_: lambda _: None)
    skipped: list[str] = []
    await made.measure(saved, skipped.append)
    return skipped


async def test_each_scale_is_compared_with_none_and_with_the_first_stage() -> None:
    saved = saved_sections(None)
    await measured(StubClient(), ["rank_llm_insertrank"], saved)
    prefix = "colors.small-1b.rank_llm_insertrank.windows.first_stage"
    figures = saved.figures
    assert figures[f"{prefix}.raw.minus_no_scores"] == 0
    assert figures[f"{prefix}.raw.p_vs_no_scores"] == 1
    assert figures[f"{prefix}.raw.p_vs_first_stage"] == 1
    assert f"{prefix}.none.minus_no_scores" not in figures
    assert figures[f"{prefix}.raw.malformed_rate"] == 0.75
    assert saved.intervals[f"{prefix}.raw.minus_no_scores"]["iterations"] == 3
    assert "colors.bm25.ndcg@10" in figures
    assert not any("r@100" in figure for figure in figures)


async def test_candidates_bring_their_score_over_the_whole_collection() -> None:
    class Watching(StubClient):
        async def rerank(self, query: str, documents: Any, **rest: Any) -> Any:
            self.scores = [document.first_stage_score for document in documents]
            return await super().rerank(query, documents, **rest)

    client = Watching()
    await measured(client, ["insertrank"], saved_sections(None))
    assert len(client.scores) == 10
    assert client.scores == sorted(client.scores, reverse=True)
    assert min(client.scores) > 0


async def test_e2rank_is_measured_on_the_profile_with_cached_candidates() -> None:
    client, saved = StubClient(), saved_sections(None)
    await measured(client, ["e2rank"], saved)
    assert "colors.small-0.1b.e2rank.first_stage.raw.ndcg@10" in saved.figures
    scores = [m.first_stage_scores for _, _, m in client.reranked if isinstance(m, E2RankOptions)]
    assert scores == [None] * 3 + [SCALES["raw"]] * 3
    assert sum(number for kind, _, number, _ in client.embedded if kind == "DOCUMENT") > 0


async def test_a_resumed_run_leaves_out_settings_that_are_there(tmp_path: Path) -> None:
    file = tmp_path / "insertrank.json"
    await measured(StubClient(), ["insertrank"], saved_sections(file))
    client = StubClient()
    skipped = await measured(client, ["insertrank", "rank_llm_insertrank"], saved_sections(file))
    assert skipped == ["colors small-1b insertrank.windows.first_stage"]
    assert {method.template for _, _, method in client.reranked} == {
        *("rank_llm_insertrank", "rankzephyr")
    }
    assert len(json.loads(file.read_text())["runs"]) == 3


async def test_the_report_says_plainly_that_most_outputs_were_malformed(tmp_path: Path) -> None:
    saved = saved_sections(None)
    client = StubClient(LlmOutputCounts(1, 7, 0, 2, 0, 0))
    await measured(client, ["insertrank", "e2rank"], saved)
    table = report.markdown_table(saved.figures, "colors", saved.intervals)
    [row] = [
        line for line in table.splitlines() if "| insertrank | windows | first_stage | raw" in line
    ]
    assert "| 90% | malformed 21, missing 6 | 3 |" in row
    assert "+0.0000 [+0.000, +0.000] p = 1.000" in row
    words = report.outputs_in_words(saved.figures, "colors")
    assert words.startswith("small-1b: 54 of 60 outputs (90%) were not as the template demands.")
    assert "mostly those that it was given" in words
    report.plot(saved.figures, "colors", tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


async def test_an_llm_that_answers_as_asked_is_not_blamed() -> None:
    saved = saved_sections(None)
    await measured(StubClient(LlmOutputCounts(4, 0, 0, 0, 0, 0)), ["insertrank"], saved)
    words = report.outputs_in_words(saved.figures, "colors")
    assert words == "small-1b: 0 of 24 outputs (0%) were not as the template demands."


def test_a_system_with_dots_in_its_name_is_read_back() -> None:
    figures = {
        "c.qwen-0.6b.insertrank.one_window.shuffled.min_max.ndcg@10": 0.5,
        "c.e2rank-0.6b.e2rank.first_stage.none.ndcg@10": 0.6,
        "c.bm25.ndcg@10": 0.4,
        "other.x.e2rank.first_stage.none.ndcg@10": 0.6,
    }
    assert set(report.cells(figures, "c")) == {
        report.Cell("qwen-0.6b", "insertrank", "one_window", "shuffled", "min_max"),
        report.Cell("e2rank-0.6b", "e2rank", "", "first_stage", "none"),
    }


def test_a_sample_has_its_size_in_the_figures_names() -> None:
    assert main.name_in_figures(make_collection(), None) == "colors"
    assert main.name_in_figures(make_collection().sampled(2, seed=0), 2) == "colors_2_queries"


def test_methods_are_those_that_the_server_can_do() -> None:
    assert main.methods_for(make_model(), None) == list(METHODS)
    assert main.methods_for(make_model(generator=None), None) == ["e2rank"]
    with pytest.raises(main.MissingGeneratorError, match="insertrank: the server has no generator"):
        main.methods_for(make_model(generator=None), ["insertrank"])


def test_the_recorded_command_names_no_paths_and_no_flags(tmp_path: Path) -> None:
    arguments = f"{tmp_path}/scifact --queries 10 --candidates 20 --scales raw --orders first_stage"
    arguments += f" --generator-model {tmp_path}/small-1b --server-flags"
    options = command_line.parse_arguments([*arguments.split(), "--generator-api-key x"])
    assert options.scales == ["none", "raw"]
    assert command_line.shown_command(options, make_model()) == (
        "python -m benchmarks.insertrank scifact --profile small-0.1b --scales none raw "
        "--orders first_stage --candidates 20 --queries 10 --generator-model small-1b"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("x --candidates 3", "--candidates: 4 to 100, not 3"),
        ("x --candidates 101", "--candidates: 4 to 100, not 101"),
        ("x --queries 0", "--queries: at least 1, not 0"),
        ("x --max-words -1", "--max-words: at least 1, not -1"),
    ],
)
def test_options_out_of_bounds_are_refused(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command_line.parse_arguments(arguments.split())
    assert message in capsys.readouterr().err


def test_a_folder_without_a_collection_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("insertrank: ")
