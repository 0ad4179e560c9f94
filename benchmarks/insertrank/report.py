"""Figures as a Markdown table and a plot, and in words how far an LLM's orders are its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]

from benchmarks.insertrank.settings import METHODS, ORDERS, SCALES
from benchmarks.quality.report import Intervals, Values, difference_cell

_COLUMNS = (
    "system",
    "method",
    "windows",
    "order",
    "scores",
    "nDCG@10",
    "MRR@10",
    "minus no scores",
    "minus first stage",
    "outputs not ok",
    "which",
    "queries",
)
_KINDS = ("malformed", "repetition", "missing", "refused", "failed")

NOTES = """\
minus: mean difference of nDCG@10 on the same queries, [95 % interval of a bootstrap], p of the
two-sided paired permutation test. no scores: the same setting, the template without scores.
outputs not ok: share of windows whose output is not a complete ranking in the form asked for;
what such an output leaves out keeps its initial order."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A setting and scale, read back from a figure's name."""

    system: str
    method: str
    windows: str
    order: str
    scale: str

    @property
    def setting(self) -> str:
        """All but the scale, for people."""
        parts = (self.method, self.windows.replace("_", " "), self.order.replace("_", " "))
        return f"{self.system}: {', '.join(part for part in parts if part)}"


def cells(figures: Values, collection: str) -> dict[Cell, dict[str, float]]:
    """Group a collection's figures by setting and scale."""
    grouped: dict[Cell, dict[str, float]] = {}
    for name, value in figures.items():
        if not name.startswith(f"{collection}."):
            continue
        ranking, _, measure = name.removeprefix(f"{collection}.").rpartition(".")
        if (cell := _parse(ranking)) is not None:
            grouped.setdefault(cell, {})[measure] = value
    order = {name: place for place, name in enumerate([*METHODS, *ORDERS, *SCALES])}
    return dict(
        sorted(
            grouped.items(),
            key=lambda each: (
                each[0].system,
                order[each[0].method],
                each[0].windows,
                order[each[0].order],
                order[each[0].scale],
            ),
        )
    )


def _parse(ranking: str) -> Cell | None:
    """Read `<system>.<method>[.<windows>].<order>.<scale>`; a system's name may have dots."""
    parts = ranking.split(".")
    if len(parts) < 4 or parts[-1] not in SCALES:
        return None
    *rest, order, scale = parts
    windows = "" if rest[-1] in METHODS else rest.pop()
    method = rest.pop()
    return Cell(".".join(rest), method, windows, order, scale)


def markdown_table(figures: Values, collection: str, intervals: Intervals) -> str:
    """Make a table of a collection's settings, a row each scale."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    for cell, values in cells(figures, collection).items():
        prefix = ".".join(part for part in (collection, *_parts(cell)) if part)
        row = [
            *_parts(cell, shown=True),
            f"{values['ndcg@10']:.4f}",
            f"{values['mrr@10']:.4f}",
            difference_cell(values, "no_scores", prefix, intervals),
            difference_cell(values, "first_stage", prefix, intervals),
            f"{values['malformed_rate']:.0%}" if "malformed_rate" in values else "",
            _kinds(values),
            f"{values['num_queries']:.0f}",
        ]
        lines.append(f"| {' | '.join(row)} |")
    first_stage = figures.get(f"{collection}.bm25.ndcg@10")
    if first_stage is not None:
        lines.append(f"\n{collection}: the first stage, BM25, has nDCG@10 {first_stage:.4f}.")
    return "\n".join(lines)


def _parts(cell: Cell, *, shown: bool = False) -> list[str]:
    parts = [cell.system, cell.method, cell.windows, cell.order, cell.scale]
    return parts if shown else [part for part in parts if part]


def _kinds(values: Values) -> str:
    counts = {kind: values.get(f"outputs_{kind}", 0) for kind in _KINDS}
    return ", ".join(f"{kind} {count:.0f}" for kind, count in counts.items() if count)


def outputs_in_words(figures: Values, collection: str) -> str:
    """Say of each LLM how many of its outputs were as asked: how far its orders are its own."""
    windows: dict[str, float] = {}
    wrong: dict[str, float] = {}
    for cell, values in cells(figures, collection).items():
        if "windows" in values:
            number = values["windows"]
            windows[cell.system] = windows.get(cell.system, 0) + number
            bad = values["malformed_rate"] * number
            wrong[cell.system] = wrong.get(cell.system, 0) + bad
    lines = []
    for system, number in windows.items():
        share = wrong[system] / number
        line = f"{system}: {wrong[system]:.0f} of {number:.0f} outputs ({share:.0%}) were not as"
        line += " the template demands."
        if share > 0.5:
            line += (
                " Its orders are then mostly those that it was given, and a difference between"
                " scales says little of the method."
            )
        lines.append(line)
    return "\n".join(lines)


def plot(figures: Values, collection: str, file: Path) -> None:
    """Draw nDCG@10 by setting, a bar each scale, with the share of outputs that were not ok."""
    grouped = cells(figures, collection)
    settings = list(dict.fromkeys(cell.setting for cell in grouped))
    if not settings:
        return
    height = 0.8 / len(SCALES)
    figure = Figure(figsize=(10, 1.5 + 0.9 * len(settings)), layout="constrained")
    axes = figure.subplots()
    for place, scale in enumerate(SCALES):
        found = {cell.setting: values for cell, values in grouped.items() if cell.scale == scale}
        rows = [row for row, setting in enumerate(settings) if setting in found]
        values = [found[settings[row]] for row in rows]
        bars = axes.barh(
            [row + (place - 1.5) * height for row in rows],
            [each["ndcg@10"] for each in values],
            height=height,
            label="no scores" if scale == "none" else scale.replace("_", "-"),
        )
        axes.bar_label(bars, labels=[_bar_label(each) for each in values], padding=3, fontsize=8)
    if (first_stage := figures.get(f"{collection}.bm25.ndcg@10")) is not None:
        axes.axvline(first_stage, color="0.3", linestyle="--", linewidth=1, label="BM25")
    axes.set_yticks(range(len(settings)), settings)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("nDCG@10 (share of LLM outputs that were not as asked)")
    axes.set_title(f"{collection}: first-stage scores in the prompt")
    figure.legend(loc="outside lower center", ncols=len(SCALES) + 1)
    figure.savefig(file, dpi=120)


def _bar_label(values: Mapping[str, float]) -> str:
    rate = f" ({values['malformed_rate']:.0%})" if "malformed_rate" in values else ""
    return f"{values['ndcg@10']:.3f}{rate}"
