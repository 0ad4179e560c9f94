"""What the demo prints."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from benchmarks.collection import Collection, Run
from benchmarks.demo.measuring import MethodOutcome
from benchmarks.measures import measure
from e2rank_client import Model, RerankResult, RerankTimings

_SHOWN_RANKS = 5
_NOTABLE_DIFFERENCE = 0.01
"""In nDCG@10; less means nothing with so few queries."""

_GRADE_MARKS = {0: "  ", 1: "* ", 2: "**"}
_STAGES: dict[str, Callable[[RerankTimings], float]] = {
    "tokenize": lambda timings: timings.tokenize_seconds,
    "lookup": lambda timings: timings.lookup_seconds,
    "documents": lambda timings: timings.documents_seconds,
    "prompt": lambda timings: timings.prompt_seconds,
    "score": lambda timings: timings.score_seconds,
    "total": lambda timings: timings.total_seconds,
}


@dataclass(frozen=True, slots=True)
class Demonstration:
    """All that was measured."""

    model: Model
    collection: Collection
    bm25: Run
    outcomes: Sequence[MethodOutcome]


def server_lines(model: Model) -> list[str]:
    """Say what serves."""
    identity = model.identity
    trained = "was" if model.trained_for_listwise else "was not"
    return [
        f"model      {identity.profile} (revision {identity.revision}), "
        f"{model.dimension} dimensions; it {trained} trained for listwise prompts",
        f"embedder   {identity.embedder_backend}, computing in {model.compute_dtype}",
        f"tokenizer  {identity.tokenizer_backend}",
    ]


def ranking_table(demonstration: Demonstration, query_id: str) -> Table:
    """Show the first ranks of one query before and after; ** answers it, * is related."""
    collection = demonstration.collection
    titles = {document.id: document.title for document in collection.documents}
    grades = collection.qrels[query_id]
    rankings = {"BM25 (before)": demonstration.bm25[query_id]}
    for outcome in demonstration.outcomes:
        rankings[outcome.method] = outcome.run[query_id]
    table = Table(box=None)
    for name in rankings:
        table.add_column(name, no_wrap=True)
    columns = [_ranked_cells(ranking, titles, grades) for ranking in rankings.values()]
    for cells in zip(*columns, strict=True):
        table.add_row(*cells)
    return table


def quality_table(demonstration: Demonstration) -> Table:
    """Show the mean nDCG@10 of each ranking."""
    table = Table(box=None)
    table.add_column("ranking")
    table.add_column("nDCG@10", justify="right")
    for name, value in _ndcg(demonstration).items():
        table.add_row(name, f"{value:.3f}")
    return table


def latency_table(outcomes: Sequence[MethodOutcome]) -> Table:
    """Show each stage's median milliseconds, cold and warm, and what the cache gave."""
    table = Table(box=None)
    table.add_column("stage")
    passes: list[Sequence[RerankResult]] = []
    for outcome in outcomes:
        for name, answers in (("cold", outcome.cold), ("warm", outcome.warm)):
            table.add_column(f"{outcome.method} {name}", justify="right")
            passes.append(answers)
    for stage, seconds in _STAGES.items():
        medians = (statistics.median(seconds(a.timings) for a in answers) for answers in passes)
        table.add_row(stage, *(f"{median * 1e3:.2f}" for median in medians))
    table.add_row("documents from cache", *_totals(passes, lambda a: a.usage.documents_cached))
    table.add_row("documents embedded", *_totals(passes, lambda a: a.usage.documents_embedded))
    return table


def remarks(demonstration: Demonstration) -> Iterator[str]:
    """Say what the server warned of, and how the methods compare, without gloss."""
    for outcome in demonstration.outcomes:
        messages = {w.code: w.message for answer in outcome.cold for w in answer.warnings}
        for code, message in messages.items():
            count = sum(code in {w.code for w in answer.warnings} for answer in outcome.cold)
            yield (
                f"The server warned ({outcome.method}, {count} of {len(outcome.cold)} queries): "
                f"{code}: {message}"
            )
    ndcg = _ndcg(demonstration)
    difference = ndcg["E2RANK"] - ndcg["COSINE"]
    verdict = "about as well as"
    if abs(difference) > _NOTABLE_DIFFERENCE:
        verdict = "better than" if difference > 0 else "worse than"
    yield (
        f"On this collection E2RANK ranks {verdict} COSINE ({difference:+.3f} nDCG@10). "
        "It is small and made by hand: use `make bench-quality` to compare methods."
    )


def _ndcg(demonstration: Demonstration) -> dict[str, float]:
    qrels = demonstration.collection.qrels
    runs = {"BM25": demonstration.bm25}
    runs.update({outcome.method: outcome.run for outcome in demonstration.outcomes})
    return {name: measure(qrels, run)["ndcg@10"] for name, run in runs.items()}


def _ranked_cells(
    ranking: dict[str, float], titles: dict[str, str], grades: dict[str, int]
) -> list[str]:
    best = sorted(ranking.items(), key=lambda item: -item[1])[:_SHOWN_RANKS]
    cells = [
        f"{score:.3f} {_GRADE_MARKS[grades.get(document_id, 0)]} {escape(titles[document_id])}"
        for document_id, score in best
    ]
    return cells + [""] * (_SHOWN_RANKS - len(cells))


def _totals(
    passes: Iterable[Sequence[RerankResult]], count: Callable[[RerankResult], int]
) -> list[str]:
    return [str(sum(count(answer) for answer in answers)) for answers in passes]
