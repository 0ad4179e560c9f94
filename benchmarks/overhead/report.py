"""Figures as a Markdown table, and the ratios beside their targets as a plot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]

from benchmarks.intervals import Estimate


@dataclass(frozen=True, slots=True)
class Target:
    """A bound that a ratio has to keep."""

    figure: str
    side: Literal["at most", "at least"]
    bound: float

    def is_met(self, value: float) -> bool:
        """Say whether `value` keeps it."""
        return value <= self.bound if self.side == "at most" else value >= self.bound


TARGETS = (
    Target("smollm2.warm_rerank_over_encode_p50", "at most", 1.10),
    Target("default.warm_rerank_over_passes_p50", "at most", 1.25),
    Target("gateway_over_echo", "at least", 0.30),
)

# The figures by which the targets are known, and the names under which they are measured.
_HEADLINES = {
    "smollm2.warm_rerank_over_encode_p50": "smollm2.e2rank.warm_rerank_over_passes_p50",
    "default.warm_rerank_over_passes_p50": "default.e2rank.warm_rerank_over_passes_p50",
    "triton_share_of_rerank": "default.e2rank.triton_share_of_rerank",
    "cold_over_warm_p50": "default.cold_over_warm_p50",
    "embed_over_bare_engine": "default.embed_over_bare_engine",
}


def headlines(figures: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Return the figures with those that have a short name under that name."""
    short = {measured: name for name, measured in _HEADLINES.items()}
    return {short.get(name, name): estimate for name, estimate in figures.items()}


def markdown_table(figures: Mapping[str, Estimate]) -> str:
    """Make a table of figures, with the target beside those that have one."""
    targets = {target.figure: target for target in TARGETS}
    lines = ["| figure | median | 95 % interval | iterations | target |", "|---|---|---|---|---|"]
    for name, estimate in figures.items():
        target = targets.get(name)
        wanted = ""
        if target is not None:
            verdict = "met" if target.is_met(estimate.value) else "missed"
            wanted = f"{target.side} {target.bound:g}: {verdict}"
        lines.append(
            f"| {name} | {estimate.value:.4g} | {estimate.low:.4g} to {estimate.high:.4g} "
            f"| {estimate.iterations} | {wanted} |"
        )
    return "\n".join(lines)


def plot(content: Mapping[str, Any], file: Path) -> None:
    """Draw each ratio that has a target, with its interval, as a share of that target."""
    shown = [target for target in TARGETS if target.figure in content["figures"]]
    values = [content["figures"][target.figure] for target in shown]
    intervals = [content["intervals"][target.figure] for target in shown]
    figure = Figure(figsize=(8, 1.2 + 0.5 * len(shown)), layout="constrained")
    axes = figure.subplots()
    labels = [f"{t.figure}\n({t.side} {t.bound:g})" for t in shown]
    below = [value - each["low"] for value, each in zip(values, intervals, strict=True)]
    above = [each["high"] - value for value, each in zip(values, intervals, strict=True)]
    bars = axes.barh(labels, values, xerr=[below, above], capsize=3)
    axes.bar_label(bars, fmt="%.3f", padding=6)
    for row, target in enumerate(shown):
        axes.plot([target.bound] * 2, [row - 0.4, row + 0.4], color="black", linestyle="--")
    axes.invert_yaxis()
    axes.set_xlim(0, max([*values, *(target.bound for target in shown)]) * 1.2)
    axes.set_title("Overhead, and its targets (dashed)")
    figure.savefig(file, dpi=120)
