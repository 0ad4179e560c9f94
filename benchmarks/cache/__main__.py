"""Measures the embedding cache: how fast, how large, how well it chooses, what rounding costs.

    python -m benchmarks.cache [FOLDER] [--only memory hit_rate second_tiers by_id element_types]

memory: a look-up of 100 keys among a million, and memory over the raw vectors.
hit_rate: requests by Zipf's law mixed with scans, beside an LRU.
second_tiers: the same look-up in LMDB and in a Valkey of its own.
by_id: reranks of stored documents by their ids alone, beside the same by their
texts, through a gateway on fakes.
element_types: needs FOLDER, a collection in BEIR layout; its best 100 of BM25
ranked by cosine with vectors as float16 and int8, beside float32.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from benchmarks.cache import by_id, lookups, report
from benchmarks.cache.element_types import (
    CollectionVectors,
    embed_collection,
    measure_element_types,
)
from benchmarks.cache.hit_rate import Workload, measure_hit_rates
from benchmarks.collection import Collection, CollectionError, read_collection
from benchmarks.figures import FOLDER, Figures, Provenance, Section, merge_into_file
from benchmarks.server_flags import MEMORY_ONLY
from e2rank_client import E2RankClient, E2RankError
from e2rank_client.local_server import ServerStartError, local_server

_RESULTS = FOLDER / "cache.json"
_VECTORS_FOLDER = Path("data") / "bench-cache"
Measured = tuple[dict[str, Any], Figures]
"""Of what, and the figures."""


def _measure_memory(_: argparse.Namespace, progress: Progress) -> Measured:
    task = progress.add_task("memory", total=lookups.MEMORY_ENTRIES)
    conditions = _lookup_conditions(lookups.MEMORY_ENTRIES)
    coroutine = lookups.measure_memory_tier(lambda done: progress.advance(task, done))
    return conditions, asyncio.run(coroutine)


def _measure_second_tiers(_: argparse.Namespace, progress: Progress) -> Measured:
    task = progress.add_task("second tiers", total=2 * lookups.SECOND_TIER_ENTRIES)
    conditions = _lookup_conditions(lookups.SECOND_TIER_ENTRIES)
    coroutine = lookups.measure_second_tiers(lambda done: progress.advance(task, done))
    return conditions, asyncio.run(coroutine)


def _measure_by_id(_: argparse.Namespace, progress: Progress) -> Measured:
    task = progress.add_task("by id ÷ by text", total=by_id.STEPS)
    conditions = {
        "documents": by_id.NUM_DOCUMENTS,
        "document_bytes": by_id.DOCUMENT_BYTES,
        "embedder": "FAKE",
        "tokenizer": "IN_PROCESS",
        "load_before": _load(),
    }
    return conditions, asyncio.run(by_id.measure_by_id(lambda: progress.advance(task)))


def _lookup_conditions(entries: int) -> dict[str, Any]:
    return {
        "entries": entries,
        "dimension": lookups.DIMENSION,
        "element_type": str(lookups.ELEMENT_TYPE),
        "lookups": lookups.LOOKUPS,
        "load_before": _load(),
    }


def _load() -> float:
    return round(os.getloadavg()[0], 1)


def _measure_hit_rates(_: argparse.Namespace, progress: Progress) -> Measured:
    workload = Workload()
    task = progress.add_task("hit rate", total=workload.num_batches * len(workload.percentages))
    coroutine = measure_hit_rates(workload, lambda done: progress.advance(task, done))
    return asdict(workload), asyncio.run(coroutine)


def _measure_element_types(options: argparse.Namespace, progress: Progress) -> Measured:
    collection = read_collection(options.folder)
    vectors = _collection_vectors(options, collection, progress)
    conditions = {
        "collection": collection.name,
        "profile": vectors.profile,
        "fingerprint": vectors.fingerprint,
    }
    return conditions, measure_element_types(collection, vectors)


SECTIONS: Mapping[str, Callable[[argparse.Namespace, Progress], Measured]] = {
    "memory": _measure_memory,
    "hit_rate": _measure_hit_rates,
    "second_tiers": _measure_second_tiers,
    "by_id": _measure_by_id,
    "element_types": _measure_element_types,
}


def _collection_vectors(
    options: argparse.Namespace, collection: Collection, progress: Progress
) -> CollectionVectors:
    """Return vectors kept by an earlier run, or made by a server."""
    name = f"{collection.name}-{Path(options.profile).stem}.npz"
    file = options.vectors_folder / name
    if (kept := CollectionVectors.load(file, collection)) is not None:
        return kept
    total = len(collection.documents) + len(collection.queries)
    with _server(options, progress) as address, E2RankClient(address) as client:
        client.wait_until_ready()
        task = progress.add_task(f"embed {collection.name}", total=total)
        # A server of our own serves nothing else, and --profile may be a file's path.
        model = options.profile if options.address else ""
        vectors = embed_collection(
            client, model, collection, lambda done: progress.advance(task, done)
        )
    vectors.save(file)
    return vectors


@contextlib.contextmanager
def _server(options: argparse.Namespace, progress: Progress) -> Iterator[str]:
    if options.address is not None:
        yield options.address
        return
    starting = progress.add_task("starting the server", total=None)
    # Vectors as they were computed, not as a cache rounded them.
    arguments = ["--profile", options.profile, "--cache-element-type", "float32", *MEMORY_ONLY]
    with local_server(arguments) as address:
        progress.remove_task(starting)
        yield address


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cache",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--profile", default="all-minilm-l6-v2", help="default: %(default)s")
    parser.add_argument("--address", help="embed by this server instead of starting one")
    parser.add_argument(
        "--vectors-folder",
        type=Path,
        default=_VECTORS_FOLDER,
        help="where the collection's vectors are kept for another run; default: %(default)s",
    )
    parser.add_argument("--results", type=Path, default=_RESULTS, help="default: %(default)s")
    options = parser.parse_args(arguments)
    if options.only is None:
        options.only = [name for name in SECTIONS if name != "element_types" or options.folder]
    elif "element_types" in options.only and not options.folder:
        parser.error("element_types needs a FOLDER")
    return options


def shown_command(options: argparse.Namespace, section: str) -> str:
    """Return the command as results record it: names only, never paths or addresses."""
    folder = f" {options.folder.resolve().name}" if section == "element_types" else ""
    return f"python -m benchmarks.cache{folder} --only {section}"


def run(options: argparse.Namespace, console: Console) -> None:
    """Measure the sections; each one's figures are saved as soon as they are known."""
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    for name in options.only:
        provenance = Provenance.of(shown_command(options, name))
        with Progress(*columns, console=console) as progress:
            conditions, figures = SECTIONS[name](options, progress)
        section = Section(name, provenance, conditions, figures)
        merged = merge_into_file(options.results, section)["figures"]
        console.print(report.table(figures), markup=False, highlight=False)
        report.plot_hit_rates(merged, options.results.with_name("cache_hit_rate.png"))
        report.plot_lookups(merged, options.results.with_name("cache_lookup.png"))
        report.plot_by_id(merged, options.results.with_name("cache_by_id.png"))


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 0 if it succeeded."""
    options = parse_arguments(arguments)
    try:
        run(options, Console())
    except KeyboardInterrupt:
        print("cache: interrupted", file=sys.stderr)
        return 130
    except (CollectionError, ServerStartError, E2RankError, by_id.UnequalAnswersError) as error:
        print(f"cache: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
