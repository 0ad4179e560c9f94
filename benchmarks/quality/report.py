"""Figures as a Markdown table and as a plot, a collection each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]
from matplotlib.patches import Patch  # type: ignore[import-not-found,unused-ignore]

from benchmarks.quality.methods import METHODS

_COLUMNS = (
    "nDCG@10",
    "MRR@10",
    "R@100",
    "minus first stage",
    "minus COSINE",
    "LLM outputs not ok",
    "p50 s",
    "embedded",
    "queries",
)

Values = Mapping[str, float]
Intervals = Mapping[str, Mapping[str, float]]

NOTES = """\
minus: mean difference of nDCG@10 on the same queries, [95 % interval of a bootstrap], p of the
two-sided paired permutation test. p50 s: the server's total of a query, the candidates' vectors
cached. embedded: documents for which that was not so. LLM outputs not ok: share of windows whose
output is not a complete ranking in the form asked for; what is missing keeps its former order."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """A ranking's name in parts: `method` is empty for a first stage by itself."""

    profile: str
    first_stage: str
    method: str

    @classmethod
    def parse(cls, name: str) -> Ranking:
        """Read `<first stage>`, `<profile>.<first stage>` or `<profile>.<first stage>.<method>`.

        A profile's name may have dots, the others have none.
        """
        rest, _, last = name.rpartition(".")
        if last in METHODS or last == "e2rank":
            profile, _, first_stage = rest.rpartition(".")
            return cls(profile, first_stage, last)
        return cls(rest, last, "")

    @property
    def label(self) -> str:
        """For people: `bm25 → cosine`."""
        return f"{self.first_stage} → {self.method}" if self.method else self.first_stage


def rankings(figures: Mapping[str, float], collection: str) -> dict[str, dict[str, float]]:
    """Group a collection's figures: ranking, say `bm25` → measure → value."""
    grouped: dict[str, dict[str, float]] = {}
    for name, value in figures.items():
        if not name.startswith(f"{collection}."):
            continue
        ranking, _, measure = name.removeprefix(f"{collection}.").rpartition(".")
        grouped.setdefault(ranking, {})[measure] = value
    return grouped


def markdown_table(figures: Values, collection: str, intervals: Intervals | None = None) -> str:
    """Make a table of a collection's rankings, best nDCG@10 first."""
    lines = [f"| {collection} | {' | '.join(_COLUMNS)} |", "|---" * (len(_COLUMNS) + 1) + "|"]
    for ranking, values in _sorted(rankings(figures, collection)):
        prefix = f"{collection}.{ranking}"
        cells = [
            *(_number(values, name, ".4f") for name in ("ndcg@10", "mrr@10", "r@100")),
            difference_cell(values, "first_stage", prefix, intervals or {}),
            difference_cell(values, "cosine", prefix, intervals or {}),
            _number(values, "malformed_rate", ".0%"),
            _number(values, "p50_seconds", ".3g"),
            _number(values, "documents_embedded", ".0f"),
            _number(values, "num_queries", ".0f"),
        ]
        lines.append(f"| {ranking} | {' | '.join(cells)} |")
    return "\n".join(lines)


def difference_cell(values: Values, baseline: str, prefix: str, intervals: Intervals) -> str:
    """Write a difference with its interval and p; empty if there is none."""
    name = f"minus_{baseline}"
    if name not in values:
        return ""
    interval = intervals.get(f"{prefix}.{name}")
    shown = f" [{interval['low']:+.3f}, {interval['high']:+.3f}]" if interval else ""
    p = values[f"p_vs_{baseline}"]
    return f"{values[name]:+.4f}{shown} p {'< .001' if p < 0.001 else f'= {p:.3f}'}"


def plot(figures: Values, collection: str, file: Path) -> None:
    """Draw nDCG@10 of a collection's rankings as a bar each, a panel for each first stage.

    The best is on top. A line marks the first stage by itself, for each profile that has its own.
    """
    # `e2rank` is one of the two orders once more.
    grouped = {
        name: values
        for name, values in rankings(figures, collection).items()
        if Ranking.parse(name).method != "e2rank"
    }
    parsed = {name: Ranking.parse(name) for name in grouped}
    stages = sorted({each.first_stage for each in parsed.values()})
    profiles = sorted({each.profile for each in parsed.values() if each.profile})
    colors = {profile: f"C{number}" for number, profile in enumerate(profiles)}
    panels = [[n for n in grouped if parsed[n].first_stage == stage] for stage in stages]
    heights = [len(panel) + 1 for panel in panels]
    figure = Figure(figsize=(9, 1.2 + 0.34 * sum(heights)), layout="constrained")
    all_axes = figure.subplots(
        len(stages), squeeze=False, sharex=True, gridspec_kw={"height_ratios": heights}
    )[:, 0]
    for axes, panel in zip(all_axes, panels, strict=True):
        _draw_panel(axes, {name: grouped[name] for name in panel}, colors)
    all_axes[0].set_xlim(0, 1)
    all_axes[0].set_title(f"{collection}: nDCG@10; dashed: the first stage by itself")
    if profiles:
        handles = [Patch(color=color, label=profile) for profile, color in colors.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    figure.savefig(file, dpi=120)


def _draw_panel(
    axes: Any,  # noqa: ANN401 - matplotlib's Axes, which may not be installed
    grouped: dict[str, dict[str, float]],
    colors: Mapping[str, str],
) -> None:
    ordered = [(Ranking.parse(name), values) for name, values in _sorted(grouped)]
    fills = [colors.get(ranking.profile, "0.6") for ranking, _ in ordered]
    bars = axes.barh(range(len(ordered)), [v["ndcg@10"] for _, v in ordered], color=fills)
    axes.bar_label(bars, fmt="%.3f", padding=3)
    axes.set_yticks(range(len(ordered)), [_bar_label(*each) for each in ordered])
    axes.invert_yaxis()
    for ranking, values in ordered:
        if not ranking.method:
            color = colors.get(ranking.profile, "0.3")
            axes.axvline(values["ndcg@10"], color=color, linestyle="--", linewidth=1)


def _bar_label(ranking: Ranking, values: Values) -> str:
    if ranking.method != "llm_listwise" or "num_queries" not in values:
        return ranking.label
    # An LLM may have had a sample of the queries, which is another scale.
    return f"{ranking.label} ({values['num_queries']:.0f} queries)"


def _number(values: Values, name: str, form: str) -> str:
    return format(values[name], form) if name in values else ""


def _sorted(grouped: dict[str, dict[str, float]]) -> list[tuple[str, dict[str, float]]]:
    return sorted(grouped.items(), key=lambda item: -item[1]["ndcg@10"])
