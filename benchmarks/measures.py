"""Ranking measures, as trec_eval defines them."""

from __future__ import annotations

import ir_measures
from ir_measures import RR, R, nDCG

from benchmarks.collection import Qrels, Run

_NDCG = nDCG @ 10
_MEASURES = {"ndcg@10": _NDCG, "mrr@10": RR @ 10, "r@100": R @ 100}


def measure(qrels: Qrels, run: Run) -> dict[str, float]:
    """Return ndcg@10, mrr@10 and r@100 as means over the judged queries.

    A judged query that the run lacks counts as zero.
    """
    values = ir_measures.calc_aggregate(list(_MEASURES.values()), qrels, run)
    return {name: float(values[measure]) for name, measure in _MEASURES.items()}


def ndcg_by_query(qrels: Qrels, run: Run) -> dict[str, float]:
    """Return nDCG@10 of each judged query, in the judgments' order; 0 for one the run lacks."""
    found = {each.query_id: each.value for each in ir_measures.iter_calc([_NDCG], qrels, run)}
    return {query_id: float(found.get(query_id, 0.0)) for query_id in qrels}
