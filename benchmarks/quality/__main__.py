"""`python -m benchmarks.quality`: see command_line."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from rich.console import Console

from benchmarks.collection import Collection, CollectionError, read_collection
from benchmarks.figures import Provenance
from benchmarks.quality.command_line import (
    RESULTS,
    parse_arguments,
    shown_command,
)
from benchmarks.quality.first_stages import Bm25Stage, FirstStages, read_candidates
from benchmarks.quality.methods import LLM, METHODS
from benchmarks.quality.ranker import Advance, Ranker
from benchmarks.quality.report import NOTES, markdown_table, plot
from benchmarks.quality.saved_sections import SavedSections
from benchmarks.quality.scores import GeneratorAlwaysFailedError
from benchmarks.quality.sections import SAMPLE_SEED, Plan, QualitySections
from benchmarks.quality.serving import MissingGeneratorError, progress_bars, started_server
from benchmarks.trec import TrecError
from e2rank_client import AsyncE2RankClient, E2RankError, Model
from e2rank_client.local_server import ServerStartError


def methods_for(model: Model, asked: Sequence[str] | None) -> list[str]:
    """Return the methods to measure: those asked for, or all that the server can do.

    Raises:
        MissingGeneratorError: An LLM was asked for, and the server has none.
    """
    if asked is None:
        return [name for name in METHODS if name != LLM or model.generator is not None]
    if LLM in asked and model.generator is None:
        raise MissingGeneratorError(f"{LLM}: the server has no generator; see --generator-model")
    return list(asked)


class QualityRun:
    """One command: its collections on one profile after the other."""

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        self._options = options
        self._console = console
        collections = [read_collection(folder) for folder in options.folders]
        if options.queries is not None:
            collections = [c.sampled(options.queries, seed=SAMPLE_SEED) for c in collections]
        self._collections = collections
        self._bm25 = {collection.name: Bm25Stage(collection) for collection in collections}
        self._own_runs = {file.stem: read_candidates(file, collections[0]) for file in options.run}
        # A sample would stand for the whole.
        self._file = options.results or (None if options.queries is not None else RESULTS)

    async def measure(self, address: str, profile: str) -> None:
        """Measure every collection on a profile."""
        async with AsyncE2RankClient(address) as client:
            await client.wait_until_ready()
            # A server of our own serves nothing else, and a profile may be a file's path.
            model = await client.get_model(profile if self._options.address else "")
            command = shown_command(self._options, model.identity.profile)
            is_resumed = self._options.resume
            saved = SavedSections(self._file, Provenance.of(command), is_resumed=is_resumed)
            for collection in self._collections:
                ranker = Ranker(client, model.identity.profile, collection, self._options.in_flight)
                await self._measure_collection(ranker, model, saved)
                self._report(collection, saved)

    async def _measure_collection(self, ranker: Ranker, model: Model, saved: SavedSections) -> None:
        collection, options = ranker.collection, self._options
        plan = Plan(
            first_stages=[*options.first_stages, *self._own_runs],
            methods=methods_for(model, options.methods),
            num_llm_queries=options.llm_queries,
            runs_folder=options.write_runs,
        )
        with progress_bars(self._console) as progress:

            def count(label: str, total: int) -> Advance:
                task = progress.add_task(label, total=total)
                return lambda done: progress.advance(task, done)

            def skipped(name: str) -> None:
                progress.console.print(f"{name}: measured already", markup=False)

            def dense_bar() -> Advance:
                label = f"{collection.name} {model.identity.profile}: embed"
                return count(label, len(collection.documents))

            stages = FirstStages(
                self._bm25[collection.name], lambda: ranker.dense(dense_bar()), self._own_runs
            )
            sections = QualitySections(ranker, model, stages, plan, count)
            await sections.measure(saved, skipped)

    def _report(self, collection: Collection, saved: SavedSections) -> None:
        table = markdown_table(saved.figures, collection.name, saved.intervals)
        self._console.print(f"{table}\n\n{NOTES}", markup=False, soft_wrap=True)
        if self._file is not None:
            self._file.with_name(f"{collection.name}.md").write_text(f"{table}\n\n{NOTES}\n")
            plot(saved.figures, collection.name, self._file.with_name(f"{collection.name}.png"))


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 0 if it succeeded."""
    options = parse_arguments(arguments)
    console = Console()
    try:
        run = QualityRun(options, console)
        for profile in options.profiles:
            with started_server(options, profile, console) as address:
                asyncio.run(run.measure(address, profile))
    except KeyboardInterrupt:
        print("quality: interrupted", file=sys.stderr)
        return 130
    except (
        CollectionError,
        TrecError,
        MissingGeneratorError,
        GeneratorAlwaysFailedError,
        ServerStartError,
        E2RankError,
    ) as error:
        print(f"quality: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
