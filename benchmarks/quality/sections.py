"""What is measured of one collection on one profile, section by section."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.bm25 import K1, TOKENIZATION, B
from benchmarks.collection import Collection, Run
from benchmarks.figures import Figures
from benchmarks.quality.first_stages import DEPTH, FirstStages
from benchmarks.quality.methods import LLM, METHODS, instruction_for
from benchmarks.quality.ranker import Advance, Ranker, Reranked
from benchmarks.quality.saved_sections import SavedSections
from benchmarks.quality.scores import ranking_figures, reranked_figures
from benchmarks.quality.serving import generating, serving
from benchmarks.trec import write_run
from e2rank_client import Model

SAMPLE_SEED = 0

Count = Callable[[str, int], Advance]
"""Begins a progress bar with a label and a total."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure; `num_llm_queries` None is all of the collection's."""

    first_stages: Sequence[str]
    methods: Sequence[str]
    num_llm_queries: int | None = None
    runs_folder: Path | None = None


def is_profiles_own(first_stage: str) -> bool:
    """Say whether a first stage differs from profile to profile."""
    return first_stage in ("dense", "hybrid")


class QualitySections:
    """Measures a collection on a profile; what `saved` holds is left out."""

    def __init__(
        self, ranker: Ranker, model: Model, stages: FirstStages, plan: Plan, count: Count
    ) -> None:
        self._ranker = ranker
        self._model = model
        self._stages = stages
        self._plan = plan
        self._count = count
        self._collection = ranker.collection
        self._cosine: dict[str, Reranked] = {}
        self._warm: set[str] = set()

    async def measure(self, saved: SavedSections, skipped: Callable[[str], None]) -> None:
        """Measure first stages and methods; `skipped` is told the name of each section held."""
        for stage in self._plan.first_stages:
            name, conditions = self._stage_section(stage)
            if saved.holds(name, conditions):
                skipped(name)
            else:
                saved.add(name, conditions, await self._stage_figures(stage))
            for method in self._plan.methods:
                name = " ".join([self._collection.name, self._profile, stage, method])
                conditions = self._conditions(stage, method)
                if saved.holds(name, conditions):
                    skipped(name)
                else:
                    saved.add(name, conditions, await self._method_figures(stage, method))

    @property
    def _profile(self) -> str:
        return self._model.identity.profile

    def _stage_prefix(self, stage: str) -> str:
        parts = [self._profile, stage] if is_profiles_own(stage) else [stage]
        return ".".join([self._collection.name, *parts])

    def _stage_section(self, stage: str) -> tuple[str, dict[str, Any]]:
        conditions: dict[str, Any] = {"queries": len(self._collection.queries)}
        if stage in ("bm25", "hybrid"):
            conditions["bm25"] = f"k1 {K1}, b {B}; {TOKENIZATION}"
        if is_profiles_own(stage):
            instruction = instruction_for(self._collection.name)
            conditions |= {**serving(self._model), "instruction": instruction}
            return f"{self._collection.name} {self._profile} {stage}", conditions
        return f"{self._collection.name} {stage}", conditions

    async def _stage_figures(self, stage: str) -> Figures:
        run = await self._stages.run(stage)
        prefix = self._stage_prefix(stage)
        self._write_run(prefix, run)
        return _named(prefix, ranking_figures(self._collection, run))

    def _conditions(self, stage: str, method: str) -> dict[str, Any]:
        conditions = {
            **self._stage_section(stage)[1],
            **serving(self._model),
            "first_stage": f"{stage}, best {DEPTH}",
            "queries": len(self._part(method).queries),
            "in_flight": self._ranker.in_flight,
        }
        if method == LLM:
            generator = self._model.generator
            template = {"template": generator.default_template if generator else ""}
            return conditions | generating(self._model) | template
        instruction = instruction_for(self._collection.name, METHODS[method])
        return conditions | {"document_vectors": "warm", "instruction": instruction}

    def _part(self, method: str) -> Collection:
        """The queries that a method is measured on: a sample for an LLM, if it is to be one."""
        limit = self._plan.num_llm_queries
        if method != LLM or limit is None:
            return self._collection
        return self._collection.sampled(limit, seed=SAMPLE_SEED)

    async def _method_figures(self, stage: str, method: str) -> Figures:
        part = self._part(method)
        candidates = {each: (await self._stages.run(stage))[each] for each in part.queries}
        baselines = {"first_stage": candidates}
        reranked = await self._rerank(stage, method, part)
        if method == "cosine":
            self._cosine[stage] = reranked
        else:
            baselines["cosine"] = await self._by_cosine(stage, part)
        prefix = f"{self._collection.name}.{self._profile}.{stage}.{method}"
        self._write_run(prefix, reranked.run)
        figures = reranked_figures(part, reranked, baselines)
        named = _named(prefix, figures)
        if method == f"e2rank_{self._model.default_prompt_order.lower()}":
            named |= _named(f"{self._collection.name}.{self._profile}.{stage}.e2rank", figures)
        return named

    async def _by_cosine(self, stage: str, part: Collection) -> Run:
        """What all other methods are compared with, ranked anew only if it has to be."""
        if stage in self._cosine:
            run = self._cosine[stage].run
            return {query_id: run[query_id] for query_id in part.queries if query_id in run}
        reranked = await self._rerank(stage, "cosine", part)
        if part is self._collection:
            self._cosine[stage] = reranked
        return reranked.run

    async def _rerank(self, stage: str, method: str, part: Collection) -> Reranked:
        run = await self._stages.run(stage)
        candidates = {query_id: run[query_id] for query_id in part.queries}
        if method != LLM:
            await self._warmed(stage, run)
        label = f"{self._collection.name} {self._profile}: {stage} → {method}"
        ranker = replace(self._ranker, collection=part)
        return await ranker.rerank(
            METHODS[method], candidates, self._count(label, len(part.queries))
        )

    async def _warmed(self, stage: str, run: Run) -> None:
        # Dense retrieval has embedded every document: that its candidates need no more passes
        # is what is to be seen.
        if stage == "dense" or stage in self._warm:
            return
        self._warm.add(stage)
        number = len({document_id for ranking in run.values() for document_id in ranking})
        label = f"{self._collection.name} {self._profile}: {stage}: candidates into the cache"
        await self._ranker.warm(run, self._count(label, number))

    def _write_run(self, name: str, run: Run) -> None:
        if self._plan.runs_folder is not None:
            write_run(self._plan.runs_folder / f"{name}.trec", run, name)


def _named(prefix: str, figures: Figures) -> dict[str, Any]:
    return {f"{prefix}.{name}": value for name, value in figures.items()}
