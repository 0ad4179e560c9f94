"""The command line of the InsertRank benchmark, and how results record it."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path

from benchmarks.figures import FOLDER
from benchmarks.insertrank.settings import METHODS, NO_SCORES, ORDERS, SCALES, WINDOWS
from benchmarks.quality.serving import add_server_options, generator_name
from e2rank_client import Model

_RESULTS = FOLDER / "insertrank.json"
_FEWEST_CANDIDATES, _MOST_CANDIDATES = 4, 100

DESCRIPTION = """\
Measures what first-stage scores in the prompt do to a ranking (InsertRank, arXiv:2506.14086).

    python -m benchmarks.insertrank FOLDER [FOLDER ...] --generator-model NAME

BM25's best candidates of each query, with scores of the whole collection, are ranked anew: by an
LLM (LLM_LISTWISE) with each template that has a place for scores and with the one that it was
made from, in windows and all at once, and by E2RANK, which was never trained with scores. Scores
are raw, min-max, 0 to 100 or absent; candidates in the first stage's order, reversed or shuffled.
Each is compared with the same without scores. Figures go to benchmarks/results/insertrank.json.

48 settings for an LLM: on a small machine, fewer --candidates, --queries, --orders, --windows.
"""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.insertrank",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--profile", default="all-minilm-l6-v2", help="default: %(default)s")
    _add_choice(parser, "methods", METHODS, "default: all that the server can do")
    _add_choice(parser, "scales", SCALES, f"default: all; {NO_SCORES} is always measured")
    _add_choice(parser, "orders", ORDERS, "default: all")
    _add_choice(parser, "windows", WINDOWS, "of an LLM; default: both")
    parser.add_argument(
        "--candidates", type=int, default=_MOST_CANDIDATES, help="default: %(default)s"
    )
    parser.add_argument(
        "--queries", type=int, help="a sample of so many; the figures' names then say how many"
    )
    parser.add_argument("--max-words", type=int, help="of a passage in an LLM's prompt")
    parser.add_argument(
        "--reasoning-tokens", type=int, help="in an LLM's answer, where it is to reason first"
    )
    parser.add_argument("--in-flight", type=int, default=1, help="queries at once; default: 1")
    add_server_options(parser)
    parser.add_argument("--results", type=Path, default=_RESULTS, help="default: %(default)s")
    parser.add_argument(
        "--resume", action="store_true", help="leave out what this commit has measured already"
    )
    options = parser.parse_args(arguments)
    _check(parser, options)
    return options


def _add_choice(
    parser: argparse.ArgumentParser, name: str, choices: Collection[str], end: str
) -> None:
    parser.add_argument(
        f"--{name}",
        nargs="+",
        choices=choices,
        metavar=name.removesuffix("s").upper(),
        help=f"of {', '.join(choices)}; {end}",
    )


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if not _FEWEST_CANDIDATES <= options.candidates <= _MOST_CANDIDATES:
        parser.error(
            f"--candidates: {_FEWEST_CANDIDATES} to {_MOST_CANDIDATES}, not {options.candidates}"
        )
    for name in ("queries", "max_words", "reasoning_tokens", "in_flight"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')}: at least 1, not {value}")
    options.scales = list(dict.fromkeys([NO_SCORES, *(options.scales or SCALES)]))
    options.orders = options.orders or list(ORDERS)
    options.windows = options.windows or list(WINDOWS)


def shown_command(options: argparse.Namespace, model: Model) -> str:
    """Return the command as results record it: names only, never paths, addresses or flags."""
    names = [folder.resolve().name for folder in options.folders]
    parts = ["python -m benchmarks.insertrank", *names, f"--profile {model.identity.profile}"]
    if options.methods:
        parts.append(f"--methods {' '.join(options.methods)}")
    for name, all_of_them in (("scales", SCALES), ("orders", ORDERS), ("windows", WINDOWS)):
        if (chosen := getattr(options, name)) != list(all_of_them):
            parts.append(f"--{name} {' '.join(chosen)}")
    numbers = ("candidates", "queries", "max_words", "reasoning_tokens")
    values = {name: getattr(options, name) for name in numbers}
    parts += [f"--{n.replace('_', '-')} {v}" for n, v in values.items() if v is not None]
    if generator := generator_name(model):
        parts.append(f"--generator-model {generator}")
    return " ".join(parts)
