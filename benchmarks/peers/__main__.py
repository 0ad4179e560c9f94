"""Measures this server beside what its users would use instead, on the CPU and in float32.

    python -m benchmarks.peers [--only agreement embedding crossencoders] [--large]

agreement: COSINE beside cosines of the peers' vectors, rank for rank.
embedding: texts a second and latency on one model, by batch and clients.
crossencoders: pointwise cross-encoders of the same shape (random weights, for
latency only) beside E2RANK and COSINE: cold, partly known, warm, by Zipf's law.
--large adds cross-encoders of Qwen3-0.6B's shape, minutes a request.

The peers are started and stopped by this command: vLLM's own HTTP server,
infinity-emb (in .venv-peers), and sentence-transformers in a process. Each side
is measured while the others are stopped.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from benchmarks.figures import FOLDER, Section, merge_into_file, value_of
from benchmarks.peers.commands import PEERS
from benchmarks.peers.embedding import CutTextError
from benchmarks.peers.http_answers import WrongAnswerError
from benchmarks.peers.peer_process import PeerError
from benchmarks.peers.report import markdown_tables, plot
from benchmarks.peers.reranking import WrongHitRateError
from benchmarks.peers.sections import AGREEMENT, LARGE, QUICK, SECTIONS, Benchmark, Plan
from benchmarks.peers.stage import Stage
from e2rank_client.local_server import ServerStartError
from e2rank_server.errors import ConfigurationError
from e2rank_server.settings import Settings

_RESULTS = FOLDER / "peers.json"
_FAILURES = (
    PeerError,
    ServerStartError,
    ConfigurationError,
    WrongAnswerError,
    WrongHitRateError,
    CutTextError,
)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION")
    add("--large", action="store_true", help="also cross-encoders of Qwen3-0.6B's shape")
    add(
        "--peers",
        type=_peer_names,
        default=PEERS,
        metavar="NAME,...",
        help=f"compare with these alone (default: {','.join(PEERS)})",
    )
    add("--quick", action="store_true", help="a little of everything; prints, saves nothing")
    add("--results", type=Path, default=_RESULTS, help="default: %(default)s")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, console: Console) -> bool:
    """Measure; save and print each section. Returns whether the peers agree on all rankings."""
    is_agreed = True
    names = [*options.only, *([LARGE] if options.large else [])]
    stage = Stage(console, options.peers)
    benchmark = Benchmark(
        QUICK if options.quick else Plan(),
        stage,
        Settings().data_directory / "models",
        _command(options),
    )
    with closing(benchmark.sections(names)) as sections:
        for section in sections:
            console.print(markdown_tables(section.figures), markup=False, soft_wrap=True)
            is_agreed = is_agreed and agrees(section, options.peers)
            if not options.quick:
                content = merge_into_file(options.results, section)
                plot(content["figures"], options.results.with_suffix(".png"))
    return is_agreed


def agrees(section: Section, peers: Sequence[str]) -> bool:
    """Say whether a section finds no query that a peer ranks otherwise."""
    if section.name != AGREEMENT:
        return True
    return all(value_of(section.figures[f"agreement.{peer}"]) == 1.0 for peer in peers)


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; 0 if it succeeded, 1 if not or if a peer ranks otherwise."""
    options = parse_arguments(arguments)
    # So that SIGTERM, too, stops what was started.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        is_agreed = run(options, Console())
    except KeyboardInterrupt:
        print("peers: interrupted", file=sys.stderr)
        return 130
    except _FAILURES as error:
        print(f"peers: {error}", file=sys.stderr)
        return 1
    if not is_agreed:
        print("peers: a peer's vectors rank otherwise than COSINE", file=sys.stderr)
    return 0 if is_agreed else 1


def _peer_names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if unknown := sorted(set(names) - set(PEERS)):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose from {','.join(PEERS)}")
    return names


def _command(options: argparse.Namespace) -> str:
    parts = ["python -m benchmarks.peers", "--only", *options.only]
    parts += ["--large"] if options.large else []
    parts += ["--peers", ",".join(options.peers)] if options.peers != PEERS else []
    return " ".join(parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
