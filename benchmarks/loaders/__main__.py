"""Downloads a collection and writes it as a folder for `benchmarks.quality`. Needs the internet.

    python -m benchmarks.loaders beir scifact FOLDER
    python -m benchmarks.loaders bright biology FOLDER [--reasoning gpt4]
    python -m benchmarks.loaders r2med Biology FOLDER

beir: BeIR/NAME and BeIR/NAME-qrels. bright: a task of xlangai/BRIGHT. r2med: R2MED/NAME.
Instructions for BEIR's collections go by the folder's name, so call it as the collection.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from benchmarks.loaders.conversion import (
    ConversionError,
    Converted,
    from_beir,
    from_bright,
    from_r2med,
)
from benchmarks.loaders.folder import Written, write_folder
from benchmarks.loaders.hub import DownloadError, SizedTable, load_table

BRIGHT_REASONINGS = ("Gemini-1.0", "claude-3-opus", "gpt4", "grit", "llama3-70b")
"""Models whose reasoning xlangai/BRIGHT has instead of the original queries."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Load = Callable[[str, str | None, str], SizedTable]
"""Of repository, configuration and split, as `load_table`."""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.loaders",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", choices=("beir", "bright", "r2med"))
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--split", default="test", help="of BEIR's judgments; default: %(default)s")
    parser.add_argument(
        "--reasoning",
        choices=BRIGHT_REASONINGS,
        help="of BRIGHT: queries reasoned out by this model, not the original ones",
    )
    options = parser.parse_args(arguments)
    if not _NAME.fullmatch(options.name):
        parser.error(f"NAME: {options.name!r} is not letters, digits, dots, - and _")
    if options.reasoning and options.source != "bright":
        parser.error("--reasoning: only BRIGHT has reasoned queries")
    return options


def convert(options: argparse.Namespace, load: Load) -> tuple[Converted, int]:
    """Load a collection's tables; return it and the number of its documents."""
    name = options.name
    if options.source == "beir":
        repository = f"BeIR/{name}"
        corpus = load(repository, "corpus", "corpus")
        queries = load(repository, "queries", "queries")
        qrels = load(f"{repository}-qrels", None, options.split)
        return from_beir(corpus, queries, qrels), len(corpus)
    if options.source == "bright":
        documents = load("xlangai/BRIGHT", "documents", name)
        examples = f"{options.reasoning}_reason" if options.reasoning else "examples"
        return from_bright(documents, load("xlangai/BRIGHT", examples, name)), len(documents)
    repository = f"R2MED/{name}"
    corpus = load(repository, "corpus", "corpus")
    query = load(repository, "query", "query")
    return from_r2med(corpus, query, load(repository, "qrels", "qrels")), len(corpus)


def run(options: argparse.Namespace, load: Load, console: Console) -> Written:
    """Download a collection, write its folder, and say what is in it."""
    converted, num_documents = convert(options, load)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"{options.name}: documents", total=num_documents)
        written = write_folder(options.folder, converted, lambda: progress.advance(task))
    console.print(
        f"{options.folder.name}: {written.documents} documents, {written.queries} queries, "
        f"{written.judgments} judgments",
        markup=False,
    )
    if written.repeated_documents or written.judgments_without_query:
        console.print(
            f"left out: {written.repeated_documents} documents whose id was there before, "
            f"{written.judgments_without_query} judgments of queries that are not there",
            markup=False,
        )
    return written


def main(arguments: Sequence[str], load: Load = load_table) -> int:
    """Run the command; 0 if it succeeded."""
    options = parse_arguments(arguments)
    try:
        run(options, load, Console())
    except KeyboardInterrupt:
        print("loaders: interrupted", file=sys.stderr)
        return 130
    except (ConversionError, DownloadError, OSError) as error:
        print(f"loaders: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
