"""Measures ranking quality on BEIR-format folders through a server.

    python -m benchmarks.quality FOLDER [FOLDER ...]

For each folder: BM25 over the whole collection, exhaustive dense retrieval
through Embed, and BM25's best 100 reranked by each method. Figures are merged
into benchmarks/results/quality.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.bm25 import K1, TOKENIZATION, B, Bm25
from benchmarks.collection import Collection, CollectionError, read_collection
from benchmarks.figures import FOLDER, Provenance, Section, merge_into_file
from benchmarks.measures import measure
from benchmarks.quality.experiment import DEPTH, METHODS, Client, Ranker
from benchmarks.quality.report import markdown_table, plot
from benchmarks.server_flags import MEMORY_ONLY
from e2rank_client import AsyncE2RankClient, E2RankError, Model
from e2rank_client.local_server import ServerStartError, local_server

_RESULTS = FOLDER / "quality.json"


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--profile", default="all-minilm-l6-v2", help="default: %(default)s")
    parser.add_argument(
        "--queries", type=int, help="only the first so many queries; figures are not saved"
    )
    parser.add_argument("--address", help="use this server instead of starting one")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="default: %(default)s")
    options = parser.parse_args(arguments)
    if options.queries is not None and options.queries < 1:
        parser.error("--queries: at least 1")
    return options


def shown_command(options: argparse.Namespace, profile: str) -> str:
    """Return the command as results record it: names only, never paths or addresses."""
    parts = ["python -m benchmarks.quality", *(folder.resolve().name for folder in options.folders)]
    return " ".join([*parts, f"--profile {profile}"])


async def measure_collection(
    client: Client, model: Model, collection: Collection, progress: Progress
) -> dict[str, float]:
    """Rank one collection in all ways; return the figures by their flat names.

    These are `<collection>.<profile>.<first stage>.<method>.<measure>`,
    `<collection>.<profile>.dense.<measure>` and `<collection>.bm25.<measure>`.
    The method `e2rank` is E2RANK in the profile's own prompt order.
    """

    def count(label: str, total: int) -> Callable[[int], None]:
        task = progress.add_task(f"{collection.name}: {label}", total=total)
        return lambda done: progress.advance(task, done)

    profile = model.identity.profile
    ranker = Ranker(client, profile, collection)
    bm25 = Bm25(collection.documents).rank(collection.queries, depth=DEPTH)
    runs = {
        "bm25": bm25,
        f"{profile}.dense": await ranker.dense(count("embed", len(collection.documents))),
    }
    for method in METHODS:
        advance = count(method, len(collection.queries))
        runs[f"{profile}.bm25.{method}"] = await ranker.rerank(method, bm25, advance)
    default_order = f"e2rank_{model.default_prompt_order.lower()}"
    runs[f"{profile}.bm25.e2rank"] = runs[f"{profile}.bm25.{default_order}"]
    return {
        f"{collection.name}.{ranking}.{name}": value
        for ranking, run in runs.items()
        for name, value in measure(collection.qrels, run).items()
    }


@contextlib.contextmanager
def _server(options: argparse.Namespace, console: Console) -> Iterator[str]:
    """Yield the address of the server named, or of one that runs meanwhile."""
    if options.address is not None:
        yield options.address
        return
    # Figures must not depend on vectors that an earlier run left on disk, rounded to float16.
    arguments = ["--profile", options.profile, *MEMORY_ONLY]
    with contextlib.ExitStack() as stack:
        with console.status("starting the server"):
            address = stack.enter_context(local_server(arguments))
        yield address


def _serving(model: Model) -> dict[str, str]:
    identity = model.identity
    return {
        "profile": identity.profile,
        "revision": identity.revision,
        "fingerprint": identity.fingerprint,
        "template_version": identity.template_version,
        "dtype": model.compute_dtype,
        "embedder": identity.embedder_backend,
        "tokenizer": identity.tokenizer_backend,
        "bm25": f"k1 {K1}, b {B}; {TOKENIZATION}",
    }


async def measure_all(
    options: argparse.Namespace,
    collections: Sequence[Collection],
    address: str,
    console: Console,
) -> None:
    """Measure every collection; each one's figures are saved as soon as they are known.

    Those of a part of the queries are only printed: they would stand for the whole.
    """
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    async with AsyncE2RankClient(address) as client:
        await client.wait_until_ready()
        # A server of our own serves nothing else, and --profile may be a file's path.
        model = await client.get_model(options.profile if options.address else "")
        profile = model.identity.profile
        provenance = Provenance.of(shown_command(options, profile))
        for collection in collections:
            with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
                figures = await measure_collection(client, model, collection, progress)
            console.print(markdown_table(figures, collection.name), markup=False)
            if options.queries is not None:
                continue
            name = f"{collection.name} {profile}"
            section = Section(name, provenance, _serving(model), figures)
            merged = merge_into_file(options.results, section)["figures"]
            plot(merged, collection.name, options.results.with_name(f"{collection.name}.png"))


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 0 if it succeeded."""
    options = parse_arguments(arguments)
    console = Console()
    try:
        collections = [read_collection(folder) for folder in options.folders]
        if options.queries is not None:
            collections = [collection.limited(options.queries) for collection in collections]
        with _server(options, console) as address:
            asyncio.run(measure_all(options, collections, address, console))
    except KeyboardInterrupt:
        print("quality: interrupted", file=sys.stderr)
        return 130
    except (CollectionError, ServerStartError, E2RankError) as error:
        print(f"quality: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
