"""The E2Rank paper's latency experiment: the same model embeds, and lists as an LLM.

    python -m benchmarks.latency [--shapes smollm2-100w,qwen3-0.6b-100w]

One query at a time, 100 candidates, 20 of them in E2RANK's prompt and in each
of the LLM's 9 windows (RankQwen3's prompt, stride 10, outputs of exactly an
order's length), through the real server, with prefix caching off. Beside them
the same token ids on vLLM without a server, which bounds the speedup.
Shapes: smollm2-100w and qwen3-0.6b-100w have passages of 100 words,
smollm2-350t of 350 tokens; qwen3-0.6b-100w has Qwen3-0.6B's shape and random
weights, made for the run. Each is saved when it is done.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from benchmarks.figures import FOLDER, Provenance, Section, merge, merge_into_file
from benchmarks.latency.engines import RestlessEngineError
from benchmarks.latency.experiment import UnequalWorkError
from benchmarks.latency.measurement import measure
from benchmarks.latency.report import markdown_table, plot
from benchmarks.latency.shapes import CANDIDATES, PROMPT_DOCUMENTS, SHAPES, Shape
from e2rank_client.local_server import ServerStartError
from e2rank_server.errors import ConfigurationError

_RESULTS = FOLDER / "latency.json"


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--shapes",
        type=_shapes,
        default=list(SHAPES.values()),
        metavar="NAME,...",
        help=f"of {', '.join(SHAPES)}; default: all, one after the other",
    )
    parser.add_argument(
        "--queries",
        type=int,
        metavar="N",
        help="queries for the LLM; default: "
        + ", ".join(f"{shape.queries} of {shape.name}" for shape in SHAPES.values()),
    )
    parser.add_argument(
        "--candidates",
        type=int,
        default=CANDIDATES,
        metavar="N",
        help="default: %(default)s; figures of another number are printed and not saved",
    )
    parser.add_argument("--results", type=Path, default=_RESULTS, help="default: %(default)s")
    options = parser.parse_args(arguments)
    if options.queries is not None and options.queries < 1:
        parser.error(f"--queries: {options.queries} is less than 1")
    if options.candidates < PROMPT_DOCUMENTS:
        parser.error(f"--candidates: {options.candidates} is less than {PROMPT_DOCUMENTS}")
    return options


def _shapes(names: str) -> list[Shape]:
    unknown = [name for name in names.split(",") if name not in SHAPES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no shape {unknown[0]!r}; there are {', '.join(SHAPES)}")
    return [SHAPES[name] for name in names.split(",")]


def _command(shape: Shape, options: argparse.Namespace) -> str:
    command = f"python -m benchmarks.latency --shapes {shape.name}"
    return command if options.queries is None else f"{command} --queries {options.queries}"


def run(options: argparse.Namespace, console: Console) -> None:
    """Measure the shapes; each one's figures are saved as soon as they are known."""
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    for named in options.shapes:
        shape = replace(named, queries=options.queries or named.queries)
        minutes = named.expected_minutes
        console.print(f"{shape.name}: some {minutes} minutes on two cores without AVX-512")
        provenance = Provenance.of(_command(shape, options))
        with Progress(*columns, console=console) as progress:
            figures, conditions = asyncio.run(measure(shape, options.candidates, progress))
        section = Section(shape.name, provenance, conditions, figures)
        if options.candidates != CANDIDATES:
            console.print(
                markdown_table(merge({}, section)["figures"]), markup=False, soft_wrap=True
            )
            continue
        content = merge_into_file(options.results, section)
        console.print(markdown_table(content["figures"]), markup=False, soft_wrap=True)
        plot(content["figures"], options.results.with_suffix(".png"))


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 0 if it succeeded."""
    options = parse_arguments(arguments)
    try:
        run(options, Console())
    except KeyboardInterrupt:
        print("latency: interrupted", file=sys.stderr)
        return 130
    except (
        ConfigurationError,
        ServerStartError,
        UnequalWorkError,
        RestlessEngineError,
    ) as error:
        print(f"latency: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
