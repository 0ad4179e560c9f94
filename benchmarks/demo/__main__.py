"""Starts a server, reranks a small collection, shows what happened, stops the server.

    python -m benchmarks.demo

Cold means that no document's vector is cached; warm, that all are. vLLM's
prefix cache is off, so that a repeated prompt is computed again, and nothing is
kept on disk, so that another run is as cold.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from benchmarks.bm25 import TOKENIZATION, Bm25
from benchmarks.collection import read_collection
from benchmarks.demo import report
from benchmarks.demo.measuring import MethodName, PassError, rerank_cold_and_warm
from benchmarks.server_flags import MEMORY_ONLY
from e2rank_client import E2RankClient, E2RankError
from e2rank_client.local_server import ServerStartError, local_server

_COLLECTION = Path(__file__).parent / "collection"
_SHOWN_QUERY = "q03"
_NUM_CANDIDATES = 20
_METHODS: tuple[MethodName, ...] = ("COSINE", "E2RANK")
_STATUS_CHARACTERS = 100


def run_demo(console: Console, profile: str) -> None:
    """Run it all; the server is stopped whatever happens."""
    collection = read_collection(_COLLECTION)
    console.print(f"BM25 ({TOKENIZATION}) takes {_NUM_CANDIDATES} candidates a query")
    candidates = Bm25(collection.documents).rank(collection.queries, depth=_NUM_CANDIDATES)
    started = time.monotonic()
    with console.status("starting the server") as status:

        def show(line: str) -> None:
            shown = escape(line[-_STATUS_CHARACTERS:])
            status.update(f"starting the server, {time.monotonic() - started:.0f} s: {shown}")

        arguments = ["--profile", profile, "--prefix-caching", "off", *MEMORY_ONLY]
        with local_server(arguments, on_progress=show) as address, E2RankClient(address) as client:
            client.wait_until_ready()
            console.print(f"server     started in {time.monotonic() - started:.0f} s on {address}")
            model = client.get_model()
            console.print("\n".join(report.server_lines(model)), highlight=False, markup=False)
            outcomes = []
            for method in _METHODS:
                status.update(f"{method}: {len(candidates)} queries, cold and then warm")
                outcomes.append(
                    rerank_cold_and_warm(client, collection, candidates, method, namespace="demo")
                )
            status.update("stopping the server")
    console.print("server     stopped\n", highlight=False)
    _show(console, report.Demonstration(model, collection, candidates, outcomes))


def _show(console: Console, demonstration: report.Demonstration) -> None:
    collection = demonstration.collection
    shown_query = collection.queries[_SHOWN_QUERY]
    size = f"{len(collection.queries)} queries, {len(collection.documents)} documents"
    parts = {
        f"“{shown_query}” (** answers it, * is related)": report.ranking_table(
            demonstration, _SHOWN_QUERY
        ),
        f"mean nDCG@10 over {size}": report.quality_table(demonstration),
        "median milliseconds in the server; stages overlap, so they do not add up": (
            report.latency_table(demonstration.outcomes)
        ),
    }
    for heading, table in parts.items():
        console.print(heading, style="bold", markup=False, highlight=False)
        console.print(table)
        console.print()
    for remark in report.remarks(demonstration):
        console.print(remark, markup=False)


def main() -> int:
    """Run the demo; 0 if it succeeded."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--profile", default="all-minilm-l6-v2", help="default: %(default)s")
    profile = parser.parse_args().profile
    try:
        run_demo(Console(), profile)
    except KeyboardInterrupt:
        print("demo: interrupted; the server is stopped", file=sys.stderr)
        return 130
    except (ServerStartError, E2RankError, PassError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
