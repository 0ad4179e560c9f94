"""What the demo says, from made-up measurements."""

from __future__ import annotations

import pytest
from rich.console import Console

pytest.importorskip("ir_measures", exc_type=ImportError)

from benchmarks.collection import Collection, CollectionDocument, Run
from benchmarks.demo.measuring import MethodName, MethodOutcome
from benchmarks.demo.report import (
    Demonstration,
    latency_table,
    quality_table,
    ranking_table,
    remarks,
)
from e2rank_client import AnswerWarning, RerankResult, RerankTimings, RerankUsage, WarningCode

COLLECTION = Collection(
    "tiny",
    (CollectionDocument("a", "Right [answer]", "x"), CollectionDocument("b", "Wrong one", "y")),
    {"q": "a question"},
    {"q": {"a": 2}},
)
RIGHT: Run = {"q": {"a": 0.9, "b": 0.1}}
WRONG: Run = {"q": {"a": 0.1, "b": 0.9}}
WARNING = AnswerWarning(WarningCode.PROFILE_NOT_TRAINED_FOR_LISTWISE, "can rank worse")


def answer(seconds: float, cached: int, *warnings: AnswerWarning) -> RerankResult:
    usage = RerankUsage(0, 0, 0, cached, 2 - cached, 0, 0, 0)
    timings = RerankTimings(seconds, 0, 0, 0, 0, 0, 0)
    return RerankResult((), None, usage, timings, None, warnings)  # type: ignore[arg-type]


def outcome(method: MethodName, run: Run, *warnings: AnswerWarning) -> MethodOutcome:
    return MethodOutcome(method, run, (answer(0.25, 0, *warnings),), (answer(0.125, 2),))


def demonstration(cosine: Run, e2rank: Run) -> Demonstration:
    outcomes = [outcome("COSINE", cosine), outcome("E2RANK", e2rank, WARNING)]
    return Demonstration(None, COLLECTION, WRONG, outcomes)  # type: ignore[arg-type]


def rendered(table: object) -> list[list[str]]:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return [line.split() for line in capture.get().splitlines()]


def test_the_first_ranks_show_scores_grades_and_titles_as_they_are() -> None:
    lines = rendered(ranking_table(demonstration(RIGHT, WRONG), "q"))
    first = " ".join(lines[1])
    assert first == "0.900 Wrong one 0.900 ** Right [answer] 0.900 Wrong one"


def test_quality_is_the_mean_ndcg_of_each_ranking() -> None:
    lines = rendered(quality_table(demonstration(RIGHT, WRONG)))
    assert lines[1:] == [["BM25", "0.631"], ["COSINE", "1.000"], ["E2RANK", "0.631"]]


def test_latency_is_split_by_stage_cold_and_warm_with_the_caches_hits() -> None:
    lines = {
        " ".join(line[:-4]): line[-4:]
        for line in rendered(latency_table(demonstration(RIGHT, WRONG).outcomes))
    }
    assert lines["total"] == ["250.00", "125.00", "250.00", "125.00"]
    assert lines["documents from cache"] == ["0", "2", "0", "2"]
    assert lines["documents embedded"] == ["2", "0", "2", "0"]


@pytest.mark.parametrize(
    ("cosine", "e2rank", "verdict"),
    [
        (RIGHT, WRONG, "worse than"),
        (WRONG, RIGHT, "better than"),
        (RIGHT, RIGHT, "about as well as"),
    ],
)
def test_the_methods_are_compared_as_they_came_out(cosine: Run, e2rank: Run, verdict: str) -> None:
    said = list(remarks(demonstration(cosine, e2rank)))
    assert "PROFILE_NOT_TRAINED_FOR_LISTWISE: can rank worse" in said[0]
    assert "E2RANK, 1 of 1 queries" in said[0]
    assert f"E2RANK ranks {verdict} COSINE" in said[1]
