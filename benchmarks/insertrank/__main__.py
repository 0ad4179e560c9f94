"""`python -m benchmarks.insertrank`: see command_line."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.collection import Collection, CollectionError, read_collection
from benchmarks.figures import Provenance
from benchmarks.insertrank.command_line import parse_arguments, shown_command
from benchmarks.insertrank.report import NOTES, markdown_table, outputs_in_words, plot
from benchmarks.insertrank.sections import InsertRankSections, Plan
from benchmarks.insertrank.settings import (
    E2RANK,
    METHODS,
    PLAIN_TEMPLATES,
    Limits,
    all_settings,
)
from benchmarks.quality.ranker import Advance, Ranker
from benchmarks.quality.saved_sections import SavedSections
from benchmarks.quality.scores import GeneratorAlwaysFailedError
from benchmarks.quality.sections import SAMPLE_SEED
from benchmarks.quality.serving import (
    MissingGeneratorError,
    progress_bars,
    started_server,
)
from e2rank_client import AsyncE2RankClient, E2RankError, Model
from e2rank_client.local_server import ServerStartError


def methods_for(model: Model, asked: Sequence[str] | None) -> list[str]:
    """Return the methods to measure: those asked for, or all that the server can do.

    Raises:
        MissingGeneratorError: An LLM was asked for, and the server has none, or not its template.
    """
    if asked is None:
        return list(METHODS) if model.generator is not None else [E2RANK]
    for method in asked:
        if method == E2RANK:
            continue
        if model.generator is None:
            raise MissingGeneratorError(
                f"{method}: the server has no generator; see --generator-model"
            )
        for template in (method, PLAIN_TEMPLATES[method]):
            if template not in model.generator.templates:
                raise MissingGeneratorError(f"the server has no template {template}")
    return list(asked)


async def measure_all(
    options: argparse.Namespace,
    collections: Sequence[Collection],
    address: str,
    console: Console,
) -> None:
    """Measure every collection; each setting's figures are saved as soon as they are known."""
    async with AsyncE2RankClient(address) as client:
        await client.wait_until_ready()
        # A server of our own serves nothing else, and --profile may be a file's path.
        model = await client.get_model(options.profile if options.address else "")
        provenance = Provenance.of(shown_command(options, model))
        saved = SavedSections(options.results, provenance, is_resumed=options.resume)
        methods = methods_for(model, options.methods)
        if E2RANK in methods and len(methods) == 1:
            console.print("no LLM: measuring E2RANK alone; see --generator-model", markup=False)
        limits = Limits(options.candidates, options.max_words, options.reasoning_tokens)
        plan = Plan(all_settings(methods, options.windows, options.orders), options.scales, limits)
        for collection in collections:
            name = name_in_figures(collection, options.queries)
            ranker = Ranker(client, model.identity.profile, collection, options.in_flight)
            with progress_bars(console) as progress:

                def count(label: str, total: int) -> Advance:
                    task = progress.add_task(label, total=total)
                    return lambda done: progress.advance(task, done)

                def skipped(section: str) -> None:
                    progress.console.print(f"{section}: measured already", markup=False)

                sections = InsertRankSections(ranker, model, plan, name, count)
                await sections.measure(saved, skipped)
            _report(name, saved, options.results, console)


def name_in_figures(collection: Collection, num_queries: int | None) -> str:
    """Return a collection's name, and of a sample also its size."""
    if num_queries is None:
        return collection.name
    return f"{collection.name}_{len(collection.queries)}_queries"


def _report(name: str, saved: SavedSections, file: Path, console: Console) -> None:
    parts = (
        markdown_table(saved.figures, name, saved.intervals),
        outputs_in_words(saved.figures, name),
        NOTES,
    )
    text = "\n\n".join(part for part in parts if part)
    console.print(text, markup=False, soft_wrap=True)
    file.with_name(f"{file.stem}_{name}.md").write_text(f"{text}\n")
    plot(saved.figures, name, file.with_name(f"{file.stem}_{name}.png"))


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 0 if it succeeded."""
    options = parse_arguments(arguments)
    console = Console()
    try:
        collections = [read_collection(folder) for folder in options.folders]
        if options.queries is not None:
            collections = [c.sampled(options.queries, seed=SAMPLE_SEED) for c in collections]
        with started_server(options, options.profile, console) as address:
            asyncio.run(measure_all(options, collections, address, console))
    except KeyboardInterrupt:
        print("insertrank: interrupted", file=sys.stderr)
        return 130
    except (
        CollectionError,
        MissingGeneratorError,
        GeneratorAlwaysFailedError,
        ServerStartError,
        E2RankError,
    ) as error:
        print(f"insertrank: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
