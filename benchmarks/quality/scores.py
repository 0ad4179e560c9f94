"""Rankings as figures: how good, how fast, and how much better than what they started from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from benchmarks.collection import Collection, Run
from benchmarks.intervals import Estimate, median
from benchmarks.measures import measure, ndcg_by_query
from benchmarks.quality.ranker import Reranked
from benchmarks.quality.significance import compare
from e2rank_client import RerankResult


class GeneratorAlwaysFailedError(Exception):
    """No window of a section was ranked by the LLM, so that there is nothing to measure."""


def ranking_figures(collection: Collection, run: Run) -> dict[str, float | Estimate]:
    """Measure a ranking on the collection's queries, without what is excluded for them."""
    return {**measure(collection.qrels, collection.without_excluded(run))}


def reranked_figures(
    collection: Collection, reranked: Reranked, baselines: Mapping[str, Run]
) -> dict[str, float | Estimate]:
    """Measure a reranking beside `baselines`, by name, on the same queries.

    For each baseline `minus_<name>` is the mean difference of nDCG@10 with its
    interval, and `p_vs_<name>` that of the paired permutation test.
    `p50_seconds` is the server's own total.
    """
    figures = ranking_figures(collection, reranked.run)
    figures["num_queries"] = len(collection.queries)
    figures["documents_embedded"] = reranked.documents_embedded
    if reranked.answers:
        figures["p50_seconds"] = median([each.timings.total_seconds for each in reranked.answers])
    mine = ndcg_by_query(collection.qrels, collection.without_excluded(reranked.run))
    for name, run in baselines.items():
        theirs = ndcg_by_query(collection.qrels, collection.without_excluded(run))
        comparison = compare(mine, theirs)
        figures[f"minus_{name}"] = comparison.difference
        figures[f"p_vs_{name}"] = comparison.p
    return figures | llm_figures(reranked.answers)


def llm_figures(answers: Sequence[RerankResult]) -> dict[str, float | Estimate]:
    """Count an LLM's outputs by what was wrong with them; nothing if no LLM was asked.

    `malformed_rate` is the share of windows whose output is not what the template
    demands, for whatever reason; `outputs_<kind>` says which.

    Raises:
        GeneratorAlwaysFailedError: Every call failed; the message has what the server said of one.
    """
    outputs: Counter[str] = Counter()
    for answer in answers:
        if answer.llm_listwise is not None:
            outputs.update(asdict(answer.llm_listwise.outputs))
    if not (windows := outputs.total()):
        return {}
    if outputs["failed"] == windows:
        said = [warning.message for answer in answers for warning in answer.warnings]
        raise GeneratorAlwaysFailedError(
            f"the generator failed for all {windows} windows: {said[:1]}"
        )
    kinds = {f"outputs_{kind}": float(number) for kind, number in outputs.items()}
    return {**kinds, "windows": windows, "malformed_rate": 1 - outputs["ok"] / windows}
