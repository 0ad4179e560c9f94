"""Puts load on a server of its own with Locust. Percentiles are of all requests, none averaged.

    python -m benchmarks.load [--scenarios rerank_warm,offered_load]

rerank_warm, rerank_cold, rerank_zipf, embed: closed arrivals on the default profile.
offered_load: rerank_warm by a Poisson process at shares of what closed arrivals reach.
llm_listwise: a listwise rerank by SmolLM2 beside a warm E2RANK of the same passages on the
same backbone, in turns; 100 candidates take about a minute a request on two cores.
candidates: latency by number of candidates for every method, on SmolLM2.

All of them take about ten minutes. Each is saved as soon as it is measured.
`locust -f benchmarks/locustfile.py` puts any of these loads on any server.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from benchmarks.figures import FOLDER, Provenance, Section, merge_into_file
from benchmarks.load.locust_process import LoadRunError
from benchmarks.load.parameters import MAX_CANDIDATES, MAX_DOCUMENT_WORDS
from benchmarks.load.recording import RecordingError
from benchmarks.load.report import markdown_table, plot_all
from benchmarks.load.sections import (
    BACKBONE,
    SCENARIOS_ON_BACKBONE,
    SCENARIOS_ON_DEFAULT,
    LoadPlan,
    LoadSections,
    Measured,
    num_loads,
    parts_of,
)
from benchmarks.server_flags import MEMORY_ONLY
from benchmarks.serving import what_serves
from e2rank_client import E2RankClient, E2RankError
from e2rank_client.local_server import ServerStartError, local_server

_RESULTS = FOLDER / "load.json"
SCENARIOS = (*SCENARIOS_ON_DEFAULT, *SCENARIOS_ON_BACKBONE)
_MAX_CLIENTS = 1000
_MAX_LLM_REQUESTS = 1000

# Warm means the embedding cache alone.
_FLAGS = (*MEMORY_ONLY, "--prefix-caching", "off")
SERVERS = (
    ((), SCENARIOS_ON_DEFAULT),
    (("--profile", BACKBONE, "--generator-model", BACKBONE), SCENARIOS_ON_BACKBONE),
)
"""Flags of the servers to start, and what is measured on each."""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--scenarios",
        type=_scenarios,
        default=SCENARIOS,
        metavar="A,B",
        help=f"of {', '.join(SCENARIOS)}; default: all",
    )
    for flag, default, most, help_text in (
        ("--clients", 4, _MAX_CLIENTS, "closed clients of a scenario on the default profile"),
        ("--candidates", 100, MAX_CANDIDATES, "documents of a rerank; an embed has 32 texts"),
        ("--document-words", 100, MAX_DOCUMENT_WORDS, "words of a document"),
        ("--llm-requests", 3, _MAX_LLM_REQUESTS, "requests of llm_listwise"),
    ):
        parser.add_argument(
            flag,
            type=_Within(1, most),
            default=default,
            metavar="N",
            help=f"{help_text}; default: %(default)s",
        )
    parser.add_argument("--results", type=Path, default=_RESULTS, help="default: %(default)s")
    return parser.parse_args(arguments)


def _scenarios(text: str) -> tuple[str, ...]:
    names = text.split(",")
    if unknown := [name for name in names if name not in SCENARIOS]:
        raise argparse.ArgumentTypeError(
            f"{', '.join(map(repr, unknown))}: not among {', '.join(SCENARIOS)}"
        )
    return tuple(names)


class _Within:
    """Reads a whole number."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high

    def __call__(self, text: str) -> int:
        if not text.isdecimal() or not self._low <= (value := int(text)) <= self._high:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number within {self._low}..{self._high}"
            )
        return value


def shown_command(options: argparse.Namespace, scenario: str) -> str:
    """Return the command as results record it: names only, never paths or addresses."""
    return (
        f"python -m benchmarks.load --scenarios {scenario} --clients {options.clients} "
        f"--candidates {options.candidates} --document-words {options.document_words} "
        f"--llm-requests {options.llm_requests}"
    )


class LoadBenchmark:
    """One command."""

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        self._options = options
        self._console = console
        self._table = ""
        self._plan = LoadPlan(
            clients=options.clients,
            candidates=options.candidates,
            document_words=options.document_words,
            llm_requests=options.llm_requests,
        )

    def run(self) -> None:
        """Start a server after the other, and measure what was asked for on each."""
        for flags, scenarios in SERVERS:
            asked = [name for name in scenarios if name in self._options.scenarios]
            if not asked:
                continue
            with contextlib.ExitStack() as stack:
                with self._console.status("starting the server"):
                    address = stack.enter_context(local_server([*_FLAGS, *flags]))
                self._measure(address, asked)

    def _measure(self, address: str, scenarios: Sequence[str]) -> None:
        serving = _describe(address)
        parts = [(scenario, part) for scenario in scenarios for part in parts_of(scenario)]
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as progress:
            total = sum(num_loads(part, self._plan) for _, part in parts)
            task = progress.add_task("", total=total)
            sections = LoadSections(address, self._plan, lambda: progress.advance(task))
            for scenario, part in parts:
                progress.update(task, description=part)
                provenance = Provenance.of(shown_command(self._options, scenario))
                self._save(sections.measure(part), provenance, serving)
        self._console.print(self._table, markup=False, highlight=False, soft_wrap=True)

    def _save(self, measured: Measured, provenance: Provenance, serving: dict[str, Any]) -> None:
        conditions = {"server": serving, **measured.conditions}
        section = Section(measured.name, provenance, conditions, measured.figures)
        content = merge_into_file(self._options.results, section)
        plot_all(content, self._options.results.parent)
        self._table = markdown_table(content)


def _describe(address: str) -> dict[str, Any]:
    with E2RankClient(address) as client:
        model = client.get_model()
    generated_by = {}
    if model.generator is not None:
        generated_by = {
            "generator": model.generator.model,
            "template": model.generator.default_template,
        }
    return {
        **what_serves(model),
        "prefix_caching": "off",
        **generated_by,
    }


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 0 if it succeeded."""
    options = parse_arguments(arguments)
    try:
        LoadBenchmark(options, Console()).run()
    except KeyboardInterrupt:
        print("load: interrupted", file=sys.stderr)
        return 130
    except (ServerStartError, E2RankError, LoadRunError, RecordingError) as error:
        print(f"load: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
