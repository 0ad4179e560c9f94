"""Measures one collection: a section for each setting, with all its scales."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.bm25 import K1, TOKENIZATION, B, Bm25
from benchmarks.collection import Collection, Run
from benchmarks.figures import Figures
from benchmarks.insertrank.settings import (
    E2RANK,
    NO_SCORES,
    SHUFFLE_SEED,
    Limits,
    Setting,
    arranged,
)
from benchmarks.quality.ranker import Advance, Ranker
from benchmarks.quality.saved_sections import SavedSections
from benchmarks.quality.scores import ranking_figures, reranked_figures
from benchmarks.quality.serving import generating, generator_name, serving
from e2rank_client import Model

_LEFT_OUT = ("r@100", "documents_embedded")
"""Recall is that of the candidates, and no vector decides what an LLM answers."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure; without NO_SCORES there is nothing to compare with."""

    settings: Sequence[Setting]
    scales: Sequence[str]
    limits: Limits


class InsertRankSections:
    """Measures a collection; `name` stands for it in the figures."""

    def __init__(
        self,
        ranker: Ranker,
        model: Model,
        plan: Plan,
        name: str,
        count: Callable[[str, int], Advance],
    ) -> None:
        self._ranker = ranker
        self._model = model
        self._plan = plan
        self._name = name
        self._count = count

    @property
    def _collection(self) -> Collection:
        return self._ranker.collection

    async def measure(self, saved: SavedSections, skipped: Callable[[str], None]) -> None:
        """Measure all settings; `skipped` is told the name of each section that `saved` holds."""
        collection, depth = self._collection, self._plan.limits.candidates
        candidates = Bm25(collection.documents).rank(
            collection.queries, depth=depth, excluded=collection.excluded
        )
        bm25 = {"queries": len(collection.queries), "bm25": f"k1 {K1}, b {B}; {TOKENIZATION}"}
        figures = _kept(f"{self._name}.bm25", ranking_figures(collection, candidates))
        saved.add(f"{self._name} bm25", bm25, figures)
        if any(setting.method == E2RANK for setting in self._plan.settings):
            distinct = len({each for ranking in candidates.values() for each in ranking})
            label = f"{self._name}: candidates into the cache"
            await self._ranker.warm(candidates, self._count(label, distinct))
        for setting in self._plan.settings:
            name = " ".join([self._name, self._system(setting), setting.name])
            conditions = {**bm25, **self._conditions(setting)}
            if saved.holds(name, conditions):
                skipped(name)
            else:
                saved.add(name, conditions, await self._figures(setting, candidates))

    def _system(self, setting: Setting) -> str:
        if setting.method == E2RANK:
            return self._model.identity.profile
        return generator_name(self._model)

    def _conditions(self, setting: Setting) -> dict[str, Any]:
        limits = self._plan.limits
        conditions: dict[str, Any] = {
            **serving(self._model),
            "first_stage": f"bm25, best {limits.candidates}",
            "scales": list(self._plan.scales),
        }
        if setting.order == "shuffled":
            conditions["shuffle_seed"] = SHUFFLE_SEED
        if setting.method == E2RANK:
            shown = self._model.limits.default_prompt_documents
            return conditions | {"prompt_documents": shown}
        options: dict[str, Any] = {
            "window_size": limits.candidates if setting.windows != "windows" else limits.window_size
        }
        if limits.max_words is not None:
            options["max_words"] = limits.max_words
        if limits.reasoning_tokens is not None:
            options["reasoning_tokens"] = limits.reasoning_tokens
        return conditions | generating(self._model) | options

    async def _figures(self, setting: Setting, candidates: Run) -> Figures:
        """Rank with each scale; NO_SCORES comes first, since the others are compared with it."""
        given = candidates
        if setting.method == E2RANK:
            shown = self._model.limits.default_prompt_documents
            given = arranged(candidates, setting.order, shown)
        scales = sorted(self._plan.scales, key=lambda scale: scale != NO_SCORES)
        label = f"{self._name} {self._system(setting)}: {setting.name}"
        advance = self._count(label, len(scales) * len(self._collection.queries))
        baselines = {"first_stage": candidates}
        figures: dict[str, Any] = {}
        for scale in scales:
            options = setting.options(scale, self._plan.limits)
            reranked = await self._ranker.rerank(options, given, advance)
            measured = reranked_figures(self._collection, reranked, baselines)
            prefix = ".".join([self._name, self._system(setting), setting.name, scale])
            figures |= _kept(prefix, measured)
            if scale == NO_SCORES:
                baselines["no_scores"] = reranked.run
        return figures


def _kept(prefix: str, figures: Figures) -> dict[str, Any]:
    return {f"{prefix}.{name}": each for name, each in figures.items() if name not in _LEFT_OUT}
