"""Figures as a Markdown table and as a plot, a collection each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]

MEASURES = ("ndcg@10", "mrr@10", "r@100")


def rankings(figures: Mapping[str, float], collection: str) -> dict[str, dict[str, float]]:
    """Group a collection's figures: ranking, say `bm25` → measure → value."""
    grouped: dict[str, dict[str, float]] = {}
    for name, value in figures.items():
        if not name.startswith(f"{collection}."):
            continue
        ranking, _, measure = name.removeprefix(f"{collection}.").rpartition(".")
        grouped.setdefault(ranking, {})[measure] = value
    return grouped


def markdown_table(figures: Mapping[str, float], collection: str) -> str:
    """Make a table of a collection's rankings, best nDCG@10 first."""
    lines = [f"| {collection} | nDCG@10 | MRR@10 | R@100 |", "|---|---|---|---|"]
    for ranking, values in _sorted(rankings(figures, collection)):
        cells = [f"{values[m]:.4f}" if m in values else "" for m in MEASURES]
        lines.append(f"| {ranking} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(figures: Mapping[str, float], collection: str, file: Path) -> None:
    """Draw nDCG@10 of a collection's rankings as a bar each, best on top."""
    grouped = _sorted(rankings(figures, collection))
    names = [name for name, _ in grouped]
    values = [value["ndcg@10"] for _, value in grouped]
    figure = Figure(figsize=(8, 1 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(names, values)
    axes.bar_label(bars, fmt="%.3f", padding=3)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("nDCG@10")
    axes.set_title(collection)
    figure.savefig(file, dpi=120)


def _sorted(grouped: dict[str, dict[str, float]]) -> list[tuple[str, dict[str, float]]]:
    return sorted(grouped.items(), key=lambda item: -item[1]["ndcg@10"])
