"""Measures what the server adds to the work that it stands for. Ratios, both sides in one run.

    python -m benchmarks.overhead [--only gateway default smollm2]

gateway: the gateway on fakes beside an echo, by processor time a request.
default: a rerank on the default profile beside its own model passes; cold
beside warm; Embed beside the bare engine.
smollm2: a rerank with a prompt of about 2,000 tokens beside its own pass.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from benchmarks.figures import FOLDER, Provenance, Section, merge_into_file
from benchmarks.intervals import Estimate
from benchmarks.overhead import gateway_cost
from benchmarks.overhead.embedding import ITERATIONS as EMBED_ITERATIONS
from benchmarks.overhead.embedding import measure_embedding
from benchmarks.overhead.gateway_cost import measure_gateway
from benchmarks.overhead.passes import PassesPlan, UnequalWorkError, measure_passes
from benchmarks.overhead.report import headlines, markdown_table, plot
from benchmarks.overhead.rig import open_rig
from e2rank_client.local_server import ServerStartError

_RESULTS = FOLDER / "overhead.json"

PLANS = {
    "default": PassesPlan(
        profile="all-minilm-l6-v2",
        methods=("e2rank", "cosine"),
        passage_words=100,
        prompt_documents=5,
        iterations=40,
        cold_iterations=6,
    ),
    # A pass takes seconds on a small machine.
    "smollm2": PassesPlan(
        profile="smollm2-135m",
        methods=("e2rank",),
        passage_words=72,
        prompt_documents=20,
        iterations=10,
    ),
}
SECTIONS = ("gateway", *PLANS)

Measured = tuple[dict[str, str], dict[str, Estimate]]
"""What served, and the figures."""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="default: %(default)s")
    return parser.parse_args(arguments)


async def _measure(section: str, progress: Progress) -> Measured:
    if section == "gateway":
        task = progress.add_task("gateway ÷ echo", total=gateway_cost.ITERATIONS)
        figures = await measure_gateway(lambda: progress.advance(task))
        return {"embedder": "FAKE", "tokenizer": "IN_PROCESS"}, figures
    plan = PLANS[section]
    starting = progress.add_task(f"{section}: starting server and engine", total=None)
    async with open_rig(plan.profile) as rig:
        progress.remove_task(starting)
        task = progress.add_task(f"{section}: rerank ÷ passes", total=plan.steps)
        figures = await measure_passes(rig, plan, section, lambda: progress.advance(task))
        if section == "default":
            task = progress.add_task("default: Embed ÷ bare engine", total=EMBED_ITERATIONS)
            figures |= await measure_embedding(rig, section, lambda: progress.advance(task))
    return rig.serving, figures


def run(options: argparse.Namespace, console: Console) -> None:
    """Measure the sections; each one's figures are saved as soon as they are known."""
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    for name in options.only:
        provenance = Provenance.of(f"python -m benchmarks.overhead --only {name}")
        with Progress(*columns, console=console) as progress:
            serving, measured = asyncio.run(_measure(name, progress))
        figures = headlines(measured)
        content = merge_into_file(options.results, Section(name, provenance, serving, figures))
        console.print(markdown_table(figures), markup=False)
    plot(content, options.results.with_suffix(".png"))


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 0 if it succeeded."""
    options = parse_arguments(arguments)
    try:
        run(options, Console())
    except KeyboardInterrupt:
        print("overhead: interrupted", file=sys.stderr)
        return 130
    except (ServerStartError, UnequalWorkError) as error:
        print(f"overhead: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
