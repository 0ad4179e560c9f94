"""Figures as Markdown tables and as a plot."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]

from benchmarks.figures import Figures, value_of
from benchmarks.intervals import Estimate

_NAMES = {
    "e2rank": "E2Rank Server",
    "vllm_http": "vLLM's HTTP server",
    "infinity": "infinity-emb",
    "sentence_transformers": "sentence-transformers, in process",
}
_THROUGHPUT = re.compile(r"embed\.batch_(\d+)\.clients_(\d+)\.(\w+)\.texts_per_second")
_CROSS_ENCODER = re.compile(r"crossencoder\.minilm\.(\w+)\.p50_seconds")
_OURS = re.compile(r"rerank\.(\w+)\.(\w+)\.p50_seconds")
_NEEDED_RATIO = 1.0
_OUR_COLOUR, _THEIR_COLOUR = "tab:blue", "tab:grey"


def markdown_tables(figures: Figures) -> str:
    """Make a table of throughput by load and side, and one of all other figures."""
    parts = [_throughput_table(figures), _figure_table(figures)]
    return "\n\n".join(part for part in parts if part)


def throughput(figures: Mapping[str, float]) -> dict[tuple[int, int], dict[str, float]]:
    """Group texts a second: (batch, clients) → side → texts a second."""
    grouped: dict[tuple[int, int], dict[str, float]] = {}
    for name, value in figures.items():
        if match := _THROUGHPUT.fullmatch(name):
            grouped.setdefault((int(match[1]), int(match[2])), {})[match[3]] = value
    return dict(sorted(grouped.items()))


def rerank_seconds(figures: Mapping[str, float]) -> dict[str, float]:
    """Return what 100 candidates take by label, ours first, each group from slow to quick."""
    ours, theirs = {}, {}
    for name, value in figures.items():
        if match := _OURS.fullmatch(name):
            ours[f"{match[1].upper()}, {_state(match[2])}"] = value
        elif match := _CROSS_ENCODER.fullmatch(name):
            theirs[f"cross-encoder, {_NAMES[match[1]]}"] = value
    return _slow_first(ours) | _slow_first(theirs)


def plot(figures: Mapping[str, float], file: Path) -> None:
    """Draw throughput by load and side, and latency of reranking; nothing without figures."""
    loads, seconds = throughput(figures), rerank_seconds(figures)
    if not loads or not seconds:
        return
    figure = Figure(figsize=(13, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    sides = [side for side in _NAMES if any(side in of_load for of_load in loads.values())]
    width = 0.8 / len(sides)
    for number, side in enumerate(sides):
        places = [place + (number - (len(sides) - 1) / 2) * width for place in range(len(loads))]
        values = [of_load.get(side, 0) for of_load in loads.values()]
        bars = left.bar(places, values, width, label=_NAMES[side])
        left.bar_label(bars, fmt="%.0f", padding=2, fontsize=7)
    labels = [_load(*load) for load in loads]
    left.set_xticks(range(len(loads)), labels)
    left.set_xlabel("requests at once, and texts in each")
    left.set_ylabel("texts of 100 words a second")
    left.set_title("Embedding, all-MiniLM-L6-v2 (higher is better)")
    left.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    colours = [_THEIR_COLOUR if "cross" in label else _OUR_COLOUR for label in seconds]
    bars = right.barh(list(seconds), list(seconds.values()), color=colours)
    right.bar_label(bars, fmt="%.2f", padding=3)
    right.invert_yaxis()
    right.margins(x=0.12)
    right.set_xlabel("seconds for a query with 100 candidates of 100 words (p50)")
    right.set_title("Reranking, the same shape for all (lower is better)")
    figure.savefig(file, dpi=120)


def _throughput_table(figures: Figures) -> str:
    loads = throughput({name: value_of(each) for name, each in figures.items()})
    if not loads:
        return ""
    sides = list(next(iter(loads.values())))
    heading = [
        "texts a second, by requests at once and texts in each",
        *(_NAMES[side] for side in sides),
    ]
    lines = [_row(heading), _row(["---"] * len(heading))]
    for (batch, clients), of_load in loads.items():
        lines.append(_row([_load(batch, clients), *(f"{of_load[side]:.1f}" for side in sides)]))
    return "\n".join(lines)


def _figure_table(figures: Figures) -> str:
    lines = [_row(["figure", "value", "95 % interval", "turns", "target"]), _row(["---"] * 5)]
    for name, each in figures.items():
        if _THROUGHPUT.fullmatch(name):
            continue
        interval, turns = "", ""
        if isinstance(each, Estimate):
            interval, turns = f"{each.low:.4g} to {each.high:.4g}", str(each.iterations)
        value = value_of(each)
        lines.append(_row([name, f"{value:.4g}", interval, turns, _verdict(name, value)]))
    return "\n".join(lines) if len(lines) > 2 else ""


def _verdict(name: str, value: float) -> str:
    if not name.startswith("embed_over_") or "." in name:
        return ""
    return f"at least {_NEEDED_RATIO:g}: {'met' if value >= _NEEDED_RATIO else 'missed'}"


def _load(batch: int, clients: int) -> str:
    return f"{clients} of {batch}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _state(name: str) -> str:
    rate = name.removeprefix("hit_rate_")
    return name if rate == name else f"{rate} % cached"


def _slow_first(seconds: dict[str, float]) -> dict[str, float]:
    return dict(sorted(seconds.items(), key=lambda each: -each[1]))
