"""Measures how one gateway process scales: clients, candidates, message sizes, cancellations.

    python -m benchmarks.scale

On fakes, so that it is the gateway that is measured; then, shorter, on the
default profile with Triton and vLLM.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from benchmarks.figures import FOLDER, Provenance, write
from benchmarks.intervals import ratio_of_medians
from benchmarks.overhead.gateway_cost import DOCUMENT_BYTES, NUM_DOCUMENTS
from benchmarks.overhead.messages import rerank_request
from benchmarks.overhead.texts import Texts
from benchmarks.scale.cancellations import cancel_calls
from benchmarks.scale.load import Point, closed_loop
from benchmarks.scale.report import markdown_table, plot
from benchmarks.scale.sizes import measure_sizes
from benchmarks.server_flags import MEMORY_ONLY, ON_FAKES
from e2rank_client.local_server import ServerStartError, local_server

_RESULTS = FOLDER / "scale.json"

CLIENTS = (1, 2, 4, 8, 16, 32, 64)
CLIENTS_ON_DEFAULT = (1, 4, 16)
PROCESS_CLIENTS = 16
PROCESS_ROUNDS = 6
CANDIDATES = (10, 30, 100, 300, 1000)
CANCELLATIONS = 1000
CANCELLATIONS_PER_MINUTE = 1000
_SECONDS = 3.0
_DIFFERENT_REQUESTS = 50


class _Requests:
    """Requests with new queries, over passages that become cached."""

    def __init__(self) -> None:
        self._texts = Texts()
        self._passages = [
            self._texts.passage_of_bytes(DOCUMENT_BYTES) for _ in range(max(CANDIDATES))
        ]

    def of(self, candidates: int) -> list[bytes]:
        """Return requests with so many candidates each."""
        passages = self._passages[:candidates]
        return [
            rerank_request(
                self._texts.query(), self._texts.shuffled(passages), "cosine"
            ).SerializeToString()
            for _ in range(_DIFFERENT_REQUESTS)
        ]


async def _measure_on_fakes(address: str, progress: Progress) -> dict[str, Any]:
    requests = _Requests()
    clients, candidates = {}, {}
    for count in _steps(CLIENTS, "clients", progress):
        hundred = requests.of(NUM_DOCUMENTS)
        clients[count] = await closed_loop(address, hundred, clients=count, seconds=_SECONDS)
    for count in _steps(CANDIDATES, "candidates", progress):
        some = requests.of(count)
        candidates[count] = await closed_loop(address, some, clients=1, seconds=_SECONDS)
    milliseconds, refusal = await measure_sizes(address)
    task = progress.add_task("cancellations", total=CANCELLATIONS)
    cancellations = await cancel_calls(
        address,
        count=CANCELLATIONS,
        per_minute=CANCELLATIONS_PER_MINUTE,
        advance=lambda: progress.advance(task),
    )
    return {
        "clients": _points(clients),
        "candidates": _points(candidates),
        "message_mib_to_p50_ms": milliseconds,
        "one_byte_too_many": refusal,
        "cancellations": asdict(cancellations),
    }


async def _measure_processes(one: str, two: str, progress: Progress) -> dict[str, Any]:
    """Compare one gateway process with two, in turns; here they share the cores with the load."""
    requests = _Requests().of(NUM_DOCUMENTS)
    rates: dict[str, list[float]] = {one: [], two: []}
    cores: dict[str, list[float]] = {one: [], two: []}
    for _ in _steps(range(PROCESS_ROUNDS), "processes", progress):
        for address in (one, two):
            point = await closed_loop(address, requests, clients=PROCESS_CLIENTS, seconds=_SECONDS)
            rates[address].append(point.requests_per_second)
            cores[address].append(point.cores)
    ratio = ratio_of_medians(rates[two], rates[one])
    return {
        "two_over_one_requests_per_second": asdict(ratio),
        "cores_of_one": float(np.median(cores[one])),
        "cores_of_two": float(np.median(cores[two])),
        "cores_of_the_machine": os.cpu_count(),
    }


async def _measure_on_default(address: str, progress: Progress) -> dict[str, Any]:
    requests = _Requests().of(NUM_DOCUMENTS)
    clients = {}
    for count in _steps(CLIENTS_ON_DEFAULT, "default profile: clients", progress):
        clients[count] = await closed_loop(address, requests, clients=count, seconds=_SECONDS)
    task = progress.add_task("default profile: cancellations", total=CANCELLATIONS)
    cancellations = await cancel_calls(
        address,
        count=CANCELLATIONS,
        per_minute=CANCELLATIONS_PER_MINUTE,
        advance=lambda: progress.advance(task),
    )
    return {"clients": _points(clients), "cancellations": asdict(cancellations)}


def _steps(counts: Sequence[int], name: str, progress: Progress) -> Iterator[int]:
    task = progress.add_task(name, total=len(counts))
    for count in counts:
        yield count
        progress.advance(task)


def _points(points: dict[int, Point]) -> dict[int, dict[str, float]]:
    return {
        count: {name: float(f"{value:.4g}") for name, value in asdict(point).items()}
        for count, point in points.items()
    }


def run(results: Path, console: Console) -> None:
    """Measure, and write the file and its plot."""
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    content = asdict(Provenance.of("python -m benchmarks.scale"))
    with Progress(*columns, console=console) as progress:
        with local_server([*ON_FAKES, *MEMORY_ONLY]) as address:
            content["fakes"] = asyncio.run(_measure_on_fakes(address, progress))
        with (
            local_server([*ON_FAKES, *MEMORY_ONLY]) as one,
            local_server([*ON_FAKES, *MEMORY_ONLY, "--processes", "2"]) as two,
        ):
            content["processes"] = asyncio.run(_measure_processes(one, two, progress))
        with local_server(MEMORY_ONLY) as address:
            content["default"] = asyncio.run(_measure_on_default(address, progress))
    write(results, content)
    plot(content, results.with_suffix(".png"))
    console.print(markdown_table(content), markup=False)


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 0 if it succeeded."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=_RESULTS, help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        run(options.results, Console())
    except KeyboardInterrupt:
        print("scale: interrupted", file=sys.stderr)
        return 130
    except ServerStartError as error:
        print(f"scale: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
