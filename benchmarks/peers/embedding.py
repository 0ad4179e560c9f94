"""Embedding throughput and latency: our Embed beside vLLM's HTTP server and the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from benchmarks.intervals import Estimate, median, ratio_of_medians
from benchmarks.overhead.texts import Texts
from benchmarks.peers.sides import Batch, EmbeddingSide, Run
from benchmarks.peers.turns import alone, order

PASSAGE_WORDS = 100


class CutTextError(Exception):
    """A text is longer than what a side keeps of it, so the sides would not do the same."""


@dataclass(frozen=True, slots=True)
class Load:
    """Clients that each have one request after another answered, `batch` texts in each."""

    batch: int
    clients: int
    requests_per_client: int
    turns: int

    @property
    def name(self) -> str:
        """What its figures are called."""
        return f"batch_{self.batch}.clients_{self.clients}"

    @property
    def num_texts(self) -> int:
        """Texts in a turn."""
        return self.batch * self.clients * self.requests_per_client

    def batches(self, texts: Texts) -> list[Batch]:
        """Make the batches of a turn; every text is new."""
        return [
            [texts.passage(PASSAGE_WORDS) for _ in range(self.batch)]
            for _ in range(self.clients * self.requests_per_client)
        ]


HEADLINE = Load(batch=32, clients=8, requests_per_client=2, turns=5)
LOADS = (
    Load(batch=1, clients=1, requests_per_client=40, turns=5),
    Load(batch=1, clients=8, requests_per_client=10, turns=5),
    Load(batch=1, clients=32, requests_per_client=4, turns=5),
    Load(batch=32, clients=1, requests_per_client=4, turns=5),
    HEADLINE,
    # A turn is a thousand texts, half a minute of the slowest side's.
    Load(batch=32, clients=32, requests_per_client=1, turns=3),
)


async def measure_embedding(
    sides: Sequence[EmbeddingSide], loads: Sequence[Load], advance: Callable[[], None]
) -> dict[str, Estimate]:
    """Return the figures of each load and side; all sides embed the same texts, in turns.

    `advance` is called after each turn of all sides.
    """
    texts = Texts()
    for side in sides:
        with alone(side, sides):  # warms up
            await side.run([[texts.passage(PASSAGE_WORDS) for _ in range(8)] for _ in range(16)], 8)
    figures: dict[str, Estimate] = {}
    for load in loads:
        runs: dict[str, list[Run]] = {side.name: [] for side in sides}
        for turn in range(load.turns):
            batches = load.batches(texts)
            for side in order(sides, turn):
                with alone(side, sides):
                    runs[side.name].append(await side.run(batches, load.clients))
            advance()
        figures |= load_figures(load, runs)
    return figures


def load_figures(load: Load, runs: dict[str, list[Run]]) -> dict[str, Estimate]:
    """Return throughput and latency of each side, and of the first over each other."""
    figures: dict[str, Estimate] = {}
    seconds = {name: [run.seconds for run in found] for name, found in runs.items()}
    for name, found in runs.items():
        figures[f"embed.{load.name}.{name}.texts_per_second"] = median(
            [load.num_texts / run.seconds for run in found]
        )
        figures[f"embed.{load.name}.{name}.p50_seconds"] = median(
            [float(np.median(run.request_seconds)) for run in found]
        )
    ours, *peers = seconds
    for peer in peers:
        ratio = ratio_of_medians(seconds[peer], seconds[ours])
        figures[f"embed_over_{peer}.{load.name}"] = ratio
    return figures


def headlines(figures: dict[str, Estimate]) -> dict[str, Estimate]:
    """Return those of the headline's load under their short names: `embed_over_<peer>`."""
    suffix = f".{HEADLINE.name}"
    return {
        name.removesuffix(suffix): estimate
        for name, estimate in figures.items()
        if name.startswith("embed_over_") and name.endswith(suffix)
    }


def count_tokens(tokenizer_json: Path, texts: Sequence[str], max_tokens: int) -> list[int]:
    """Return each text's tokens, special ones included.

    Raises:
        CutTextError: one has more than `max_tokens`.
    """
    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    counts = [len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))]
    if max(counts) > max_tokens:
        raise CutTextError(f"a text has {max(counts)} tokens, of which {max_tokens} are kept")
    return counts
