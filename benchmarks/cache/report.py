"""Figures as a table and as plots."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]

from benchmarks.figures import Figures, value_of

_AT_SIZE = re.compile(r"(.+)\.at_(\d+)_percent")
_POLICIES = {
    "zipf_scan_hit_rate": "S3-FIFO (the first tier)",
    "zipf_scan_hit_rate_lru": "LRU of as many entries",
    "zipf_scan_hit_rate_ideal": "ideal: the most popular stay",
}
_TIERS = {"l1_lookup": "memory", "lmdb_warm": "LMDB, warm", "valkey": "Valkey, Unix socket"}


def table(figures: Figures) -> str:
    """Return a line for each figure, without those of single sizes."""
    shown = {name: value_of(each) for name, each in figures.items() if not _AT_SIZE.fullmatch(name)}
    width = max(map(len, shown), default=0)
    return "\n".join(f"{name:{width}}  {number:.4g}" for name, number in shown.items())


def hit_rates_by_size(figures: Mapping[str, float]) -> dict[str, dict[int, float]]:
    """Group hit rates: figure → cache size in percent of the documents → rate."""
    curves: dict[str, dict[int, float]] = {}
    for name, value in figures.items():
        if match := _AT_SIZE.fullmatch(name):
            curves.setdefault(match[1], {})[int(match[2])] = value
    return {name: dict(sorted(curve.items())) for name, curve in curves.items()}


def plot_hit_rates(figures: Mapping[str, float], file: Path) -> None:
    """Draw hit rate against cache size, a line a policy; nothing without such figures."""
    curves = hit_rates_by_size(figures)
    if not curves:
        return
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, label in _POLICIES.items():
        axes.plot(list(curves[name]), list(curves[name].values()), marker="o", label=label)
    sizes = list(curves["zipf_scan_hit_rate"])
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size} %" for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("cache size, of the documents that are asked for again")
    axes.set_ylabel("hit rate")
    axes.set_ylim(0)
    axes.set_title("Zipf requests mixed with scans")
    axes.legend()
    figure.savefig(file, dpi=120)


def plot_lookups(figures: Mapping[str, float], file: Path) -> None:
    """Draw how long 100 keys take in each tier that was measured; nothing without figures."""
    measured = {t: label for t, label in _TIERS.items() if f"{t}_100_us_p50" in figures}
    if not measured:
        return
    figure = Figure(figsize=(7, 1.2 + 0.7 * len(measured)), layout="constrained")
    axes = figure.subplots()
    for offset, percentile in ((-0.2, "p50"), (0.2, "p99")):
        values = [figures[f"{tier}_100_us_{percentile}"] for tier in measured]
        places = [place + offset for place in range(len(measured))]
        bars = axes.barh(places, values, height=0.35, label=percentile)
        axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.set_yticks(range(len(measured)), measured.values())
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("microseconds for 100 vectors of 384 float16 elements, decoded")
    axes.legend()
    figure.savefig(file, dpi=120)


def plot_by_id(figures: Mapping[str, float], file: Path) -> None:
    """Draw a rerank by id beside one by text for each store and method; nothing without figures."""
    prefix = "by_id_p50_ms."
    names = [name.removeprefix(prefix) for name in figures if name.startswith(prefix)]
    if not names:
        return
    figure = Figure(figsize=(7, 1.2 + 0.7 * len(names)), layout="constrained")
    axes = figure.subplots()
    for offset, side in ((-0.2, "by id"), (0.2, "by text")):
        values = [figures[f"{side.replace(' ', '_')}_p50_ms.{name}"] for name in names]
        places = [place + offset for place in range(len(names))]
        size = figures[f"{side.replace(' ', '_')}_request_bytes"]
        label = f"{side}, {size / 1000:.1f} kB a request"
        bars = axes.barh(places, values, height=0.35, label=label)
        axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set_yticks(range(len(names)), [name.replace(".", ", ") for name in names])
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("milliseconds (p50) without the model's: 100 cached documents of 2 KB")
    axes.legend()
    figure.savefig(file, dpi=120)
