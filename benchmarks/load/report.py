"""The figures as a table, and as plots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes  # type: ignore[import-not-found,unused-ignore]
from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]

from benchmarks.load.sections import BACKBONE, PERCENT_OF_CAPACITY, SERIES

_COLUMNS = ("p50_seconds", "p95_seconds", "p99_seconds", "rps", "error_rate", "hit_rate")
_ROWS = (
    "rerank_warm",
    "rerank_cold",
    "rerank_zipf",
    "embed",
    "smollm2.rerank_warm",
    "llm_listwise",
)
_RATIO = "llm_listwise_over_rerank_warm_p95"
_LATENCIES = _COLUMNS[:3]
_STAGES = (
    "queue",
    "store",
    "lookup",
    "tokenize",
    "documents",
    "prompt",
    "embed",
    "generate",
    "score",
)


def markdown_table(content: Mapping[str, Any]) -> str:
    """Make a table of the scenarios in a results file, and lines for what is to be said of them."""
    figures = content["figures"]
    shown = [row for row in _ROWS if f"{row}.rps" in figures]
    lines = [f"| scenario | {' | '.join((*_COLUMNS, 'generator_cpu_share'))} |"]
    lines.append("|---" * (2 + len(_COLUMNS)) + "|")
    for row in shown:
        cells = (figures.get(f"{row}.{column}") for column in (*_COLUMNS, "generator_cpu_share"))
        texts = ("" if cell is None else f"{cell:.3g}" for cell in cells)
        lines.append(f"| {row} | {' | '.join(texts)} |")
    if _RATIO in figures:
        interval = content["intervals"][_RATIO]
        lines += [
            "",
            f"{_RATIO}: {figures[_RATIO]:.3g} ({interval['low']:.3g} to {interval['high']:.3g}, "
            f"{interval['iterations']} requests of the slower side)",
        ]
    return "\n".join([*lines, *_doubts(content)])


def _doubts(content: Mapping[str, Any]) -> Iterable[str]:
    for run in content["runs"]:
        for name, part in _loads(run["name"], run["conditions"]):
            if part["is_generator_saturated"]:
                yield f"{name}: the load generator was saturated; latencies may be its own"
            if part["unsent"]:
                yield f"{name}: {part['unsent']} requests were due and not sent, for want of users"
            if part["failures"]:
                yield f"{name}: failed by status: {part['failures']}"


def _loads(name: str, conditions: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Return what `conditions_of` made of each load of a section."""
    if "is_generator_saturated" in conditions:
        return [(name, conditions)]
    parts = ((key, each) for key, each in conditions.items() if isinstance(each, Mapping))
    return [(f"{name} {key}", each) for key, each in parts if "is_generator_saturated" in each]


def plot_all(content: Mapping[str, Any], folder: Path) -> None:
    """Draw what the figures have, a file each: load_candidates, load_offered, load_stages."""
    figures, intervals = content["figures"], content["intervals"]
    if any(name.startswith("candidates.") for name in figures):
        plot_candidates(figures, intervals, folder / "load_candidates.png")
    if "offered_load.capacity_rps" in figures:
        plot_offered_load(figures, folder / "load_offered.png")
    if any(".stage." in name for name in figures):
        plot_stages(figures, folder / "load_stages.png")


def plot_candidates(
    figures: Mapping[str, float], intervals: Mapping[str, Mapping[str, float]], file: Path
) -> None:
    """Draw each method's median latency by number of candidates, with its interval."""
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    ticks: set[int] = set()
    for series in SERIES:
        points = _points(series, figures)
        if not points:
            continue
        values = list(points.values())
        names = [f"candidates.{series}.{count}.p50_seconds" for count in points]
        below = [v - intervals[name]["low"] for v, name in zip(values, names, strict=True)]
        above = [intervals[name]["high"] - v for v, name in zip(values, names, strict=True)]
        axes.errorbar(
            list(points), values, yerr=[below, above], marker="o", capsize=3, label=series
        )
        ticks |= points.keys()
    axes.set_xscale("log")
    axes.set_xticks(sorted(ticks), [str(count) for count in sorted(ticks)])
    axes.minorticks_off()
    _finish(axes, "candidates", f"Latency of one client, {BACKBONE} for all methods")
    figure.savefig(file, dpi=120)


def _points(series: str, figures: Mapping[str, float]) -> dict[int, float]:
    prefix, suffix = f"candidates.{series}.", ".p50_seconds"
    found = {
        int(name.removeprefix(prefix).removesuffix(suffix)): value
        for name, value in figures.items()
        if name.startswith(prefix)
    }
    return dict(sorted(found.items()))


def plot_offered_load(figures: Mapping[str, float], file: Path) -> None:
    """Draw latency percentiles since a request was due by the share of capacity offered."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for latency in _LATENCIES:
        values = {
            percent: figures[name]
            for percent in PERCENT_OF_CAPACITY
            if (name := f"offered_load.{percent}_percent.{latency}") in figures
        }
        axes.plot(list(values), list(values.values()), marker="o", label=latency.split("_")[0])
    axes.set_xticks(PERCENT_OF_CAPACITY)
    capacity = figures["offered_load.capacity_rps"]
    label = f"offered load, % of what closed arrivals reach ({capacity:.3g} requests/s)"
    _finish(axes, label, "rerank_warm, Poisson arrivals, default profile")
    figure.savefig(file, dpi=120)


def _finish(axes: Axes, label: str, title: str) -> None:
    axes.set_yscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("seconds")
    axes.set_title(title)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()


def plot_stages(figures: Mapping[str, float], file: Path) -> None:
    """Draw the mean time of each stage as a share of the whole time in the server."""
    rows = [row for row in _ROWS if f"{row}.stage.total_seconds" in figures]
    totals = [figures[f"{row}.stage.total_seconds"] for row in rows]
    figure = Figure(figsize=(9, 1.5 + 0.6 * len(rows)), layout="constrained")
    axes = figure.subplots()
    ends = [0.0] * len(rows)
    for stage in _STAGES:
        parts = [
            figures.get(f"{row}.stage.{stage}_seconds", 0.0) / total
            for row, total in zip(rows, totals, strict=True)
        ]
        axes.barh(rows, parts, left=ends, label=stage)
        ends = [end + part for end, part in zip(ends, parts, strict=True)]
    for row, (end, total) in enumerate(zip(ends, totals, strict=True)):
        axes.text(max(end, 1.0) + 0.02, row, f"{total:.3g} s", va="center")
    axes.axvline(1, color="black", linestyle="--", linewidth=1)
    axes.set_xlim(0, max([1.0, *ends]) * 1.15)
    axes.invert_yaxis()
    axes.set_xlabel(
        "share of the time in the server, beside which it stands; more where stages overlap"
    )
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file, dpi=120)
