"""What is varied: how scores are written, in which order candidates come, who ranks them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.collection import Run
from benchmarks.quality.methods import MethodOptions
from e2rank_client import (
    E2RankOptions,
    FirstStageScores,
    InitialOrder,
    LlmListwiseOptions,
    PromptOrder,
    ScoreScaling,
)

NO_SCORES = "none"

SCALES: dict[str, FirstStageScores | None] = {
    NO_SCORES: None,
    "raw": FirstStageScores(ScoreScaling.RAW),
    "min_max": FirstStageScores(ScoreScaling.MIN_MAX),
    "percent": FirstStageScores(ScoreScaling.PERCENT),
}
"""All of the documents' own `first_stage_score`, BM25 over the whole collection."""

ORDERS: dict[str, InitialOrder] = {
    "first_stage": InitialOrder.FIRST_STAGE,
    "reversed": InitialOrder.REVERSED,
    "shuffled": InitialOrder.SHUFFLED,
}

PLAIN_TEMPLATES = {"insertrank": "bright", "rank_llm_insertrank": "rankzephyr"}
"""Each template with a place for scores, and the one that it was made from, without."""

REASONING = "insertrank"
"""The pair whose model writes out its reasoning first."""

E2RANK = "e2rank"
METHODS = (*PLAIN_TEMPLATES, E2RANK)
WINDOWS = ("windows", "one_window")

SHUFFLE_SEED = 0
_WINDOW_SIZE = 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the work; None is the template's own."""

    candidates: int
    max_words: int | None = None
    reasoning_tokens: int | None = None

    @property
    def window_size(self) -> int:
        """Candidates in one of several windows: 20 as published, fewer if all would fit in one."""
        return min(_WINDOW_SIZE, self.candidates // 2)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured with and without scores: `windows` is empty for E2RANK, which has none."""

    method: str
    windows: str
    order: str

    @property
    def name(self) -> str:
        """As in the figures."""
        return ".".join(part for part in (self.method, self.windows, self.order) if part)

    def options(self, scale: str, limits: Limits) -> MethodOptions:
        """Return the request's options; those without scores use the plain template."""
        scores = SCALES[scale]
        if self.method == E2RANK:
            return E2RankOptions(prompt_order=PromptOrder.FIRST_STAGE, first_stage_scores=scores)
        is_reasoning = self.method == REASONING
        is_one = self.windows == "one_window"
        return LlmListwiseOptions(
            template=self.method if scores else PLAIN_TEMPLATES[self.method],
            window_size=limits.candidates if is_one else limits.window_size,
            initial_order=ORDERS[self.order],
            shuffle_seed=SHUFFLE_SEED,
            max_words_per_document=limits.max_words,
            reasoning_token_budget=limits.reasoning_tokens if is_reasoning else None,
            first_stage_scores=scores,
            allow_degraded=True,
        )


def all_settings(
    methods: Sequence[str], windows: Sequence[str], orders: Sequence[str]
) -> list[Setting]:
    """Cross them; E2RANK has no windows."""
    return [
        Setting(method, each_windows, order)
        for method in methods
        for each_windows in ([""] if method == E2RANK else windows)
        for order in orders
    ]


def arranged(candidates: Run, order: str, num_shown: int) -> Run:
    """Put the first `num_shown` candidates, those of E2RANK's prompt, into another order.

    An LLM's order is the server's work. Here it is done before the request, so
    that the prompt shows the same documents in each order.
    """
    run: Run = {}
    for query_id, ranking in candidates.items():
        pairs = list(ranking.items())
        shown, rest = pairs[:num_shown], pairs[num_shown:]
        if order == "reversed":
            shown.reverse()
        elif order == "shuffled":
            random.Random(f"{SHUFFLE_SEED}:{query_id}").shuffle(shown)  # noqa: S311 - no secret
        run[query_id] = dict([*shown, *rest])
    return run
