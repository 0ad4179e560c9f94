"""The command line of the quality benchmark, and how results record it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import FOLDER
from benchmarks.quality.first_stages import FIRST_STAGES
from benchmarks.quality.methods import METHODS
from benchmarks.quality.serving import add_server_options

RESULTS = FOLDER / "quality.json"

_RUN_NAME = re.compile(r"[A-Za-z0-9_-]+")
_TAKEN = {*FIRST_STAGES, *METHODS, "e2rank"}

DESCRIPTION = """\
Measures ranking quality on BEIR-format folders through a server.

    python -m benchmarks.quality FOLDER [FOLDER ...]

For each folder, first stage and profile: the first stage by itself, and its best 100 reranked
by each method. Figures are merged into benchmarks/results/quality.json, each as soon as it is
known; a table and a plot of each collection are written beside it.

First stages: bm25 (over the whole collection), dense (exhaustive, through the server's Embed),
hybrid (both, by reciprocal rank fusion, k = 60), and TREC runs of your own (--run).
A folder's excluded_ids.tsv is heeded twice: those documents are no candidates, and they do not
count when a ranking is measured.
"""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--profiles",
        nargs="+",
        default=["all-minilm-l6-v2"],
        metavar="PROFILE",
        help="one server each, one after the other; default: %(default)s",
    )
    parser.add_argument(
        "--first-stages",
        nargs="+",
        choices=FIRST_STAGES,
        metavar="STAGE",
        help=f"of {', '.join(FIRST_STAGES)}; default: all, or none with --run",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        metavar="METHOD",
        help=f"of {', '.join(METHODS)}; default: all that the server can do",
    )
    parser.add_argument(
        "--run",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a TREC run as a first stage, named as its file; of a single FOLDER; repeatable",
    )
    parser.add_argument(
        "--write-runs", type=Path, metavar="FOLDER", help="write every ranking as a TREC run"
    )
    parser.add_argument(
        "--queries", type=int, help="a sample of so many; saved only if --results says where"
    )
    parser.add_argument(
        "--llm-queries", type=int, help="a sample of so many for llm_listwise, which is slow"
    )
    parser.add_argument(
        "--in-flight",
        type=int,
        default=1,
        help="queries reranked at once; latencies are of one at a time; default: %(default)s",
    )
    add_server_options(parser)
    parser.add_argument("--results", type=Path, help=f"default: {RESULTS.name} of this project")
    parser.add_argument(
        "--resume", action="store_true", help="leave out what this commit has measured already"
    )
    options = parser.parse_args(arguments)
    _check(parser, options)
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    for name in ("queries", "llm_queries", "in_flight"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')}: at least 1, not {value}")
    if options.run and len(options.folders) > 1:
        parser.error("--run: a run is of one collection; name one FOLDER")
    for file in options.run:
        if not _RUN_NAME.fullmatch(file.stem) or file.stem in _TAKEN:
            parser.error(
                f"--run: {file.stem!r} names figures: letters, digits, - and _, "
                f"and none of {', '.join(sorted(_TAKEN))}"
            )
    if len({file.stem for file in options.run}) < len(options.run):
        parser.error("--run: two files of one name")
    if options.first_stages is None:
        options.first_stages = [] if options.run else list(FIRST_STAGES)


def shown_command(options: argparse.Namespace, profile: str) -> str:
    """Return the command as results record it: names only, never paths, addresses or flags."""
    parts = ["python -m benchmarks.quality", *(folder.resolve().name for folder in options.folders)]
    parts.append(f"--profiles {profile}")
    if tuple(options.first_stages) != FIRST_STAGES and options.first_stages:
        parts.append(f"--first-stages {' '.join(options.first_stages)}")
    if options.methods:
        parts.append(f"--methods {' '.join(options.methods)}")
    parts += [f"--run {file.name}" for file in options.run]
    for name in ("queries", "llm_queries"):
        if (value := getattr(options, name)) is not None:
            parts.append(f"--{name.replace('_', '-')} {value}")
    if options.in_flight != 1:
        parts.append(f"--in-flight {options.in_flight}")
    if options.generator_model:
        parts.append(f"--generator-model {Path(options.generator_model).name}")
    return " ".join(parts)
