"""The paper's table beside ours, and the seconds of both methods as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]

from benchmarks.latency.bounds import TARGET_SHARE_OF_BOUND
from benchmarks.latency.paper import PAPER
from benchmarks.latency.shapes import SHAPES

_NOTE = (
    "Seconds a query. Cold: no document's vector is cached; warm: all are. The paper's rows are "
    "the paper's own: an A100, passages of about 350 tokens; its warm column is what its seconds "
    "come to with cached documents. In ours the prompt pass lies within the documents' time, so "
    "that they do not add up to the cold total. A bound is what bare engines on the same machine "
    "allow: the windows one after the other ÷ the prompt pass (cold: the documents and then the "
    "prompt)."
)


def figures_of_shape(figures: Mapping[str, float], shape: str) -> dict[str, float]:
    """Return a shape's figures under their own names."""
    prefix = f"{shape}."
    return {
        name.removeprefix(prefix): value
        for name, value in figures.items()
        if name.startswith(prefix)
    }


def measured_shapes(figures: Mapping[str, float]) -> list[str]:
    """Return the shapes that a file has figures of, in their order."""
    return [name for name in SHAPES if figures_of_shape(figures, name)]


def markdown_table(figures: Mapping[str, float]) -> str:
    """Make the table, with the target below it."""
    columns = (
        *("documents encoded", "prompt pass", "E2RANK cold", "E2RANK warm", "LLM listwise"),
        *("cold speedup", "its bound", "warm speedup", "its bound"),
    )
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for row in PAPER:
        seconds = (row.documents, row.prompt_and_score, row.total, row.prompt_and_score, row.llm)
        times = (f"{row.cold_speedup:.1f}x", "", f"{row.warm_speedup:.0f}x", "")
        lines.append(_line(f"the paper, {row.size}", [*(f"{s:.2f}" for s in seconds), *times]))
    verdicts = []
    for name in measured_shapes(figures):
        own = figures_of_shape(figures, name)
        lines.append(_line(SHAPES[name].title, _cells(own)))
        verdicts += [_verdict(name, kind, own) for kind in ("cold", "warm")]
    return "\n".join([*lines, "", _NOTE, "", *verdicts])


def _cells(own: Mapping[str, float]) -> list[str]:
    seconds = ("documents", "prompt_pass", "cold", "warm", "llm")
    times = ("cold_speedup", "cold_bound", "warm_speedup", "warm_bound")
    cells = [f"{own[f'{name}_seconds']:.3g}" for name in seconds]
    return cells + [f"{own[name]:.1f}x" for name in times]


def _verdict(name: str, kind: str, own: Mapping[str, float]) -> str:
    share = own[f"{kind}_share_of_bound"]
    verdict = "met" if share >= TARGET_SHARE_OF_BOUND else "missed"
    return (
        f"- {name}, {kind}: {share:.2f} of the bound; at least {TARGET_SHARE_OF_BOUND}: {verdict}. "
        f"E2RANK took {own[f'{kind}_over_passes']:.2f} x its bare passes, the LLM "
        f"{own['llm_over_windows']:.2f} x its bare windows"
    )


def _line(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | {' | '.join(cells)} |"


def plot(figures: Mapping[str, float], file: Path) -> None:
    """Draw each shape's seconds: E2RANK warm and cold, and the LLM window by window."""
    shapes = measured_shapes(figures)
    bars = [_paper_bars(), *(_bars(SHAPES[n].title, figures_of_shape(figures, n)) for n in shapes)]
    figure = Figure(figsize=(9, 1.2 + 1.3 * len(bars)), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    smallest = min(parts[0][1] for group in bars for parts in group.values())
    largest = max(parts[-1][1] for group in bars for parts in group.values())
    ticks, labels = [], []
    for number, group in enumerate(bars):
        for row, (label, parts) in enumerate(group.items()):
            position = number * (len(group) + 1) + row
            ticks.append(position)
            labels.append(label)
            _draw(axes, position, parts, smallest / 3)
    axes.set_yticks(ticks, labels)
    axes.invert_yaxis()
    axes.set_xlim(smallest / 3, largest * 4)
    axes.set_xlabel("seconds a query (logarithmic)")
    axes.set_title("100 candidates, the same model both ways")
    _legend(axes)
    figure.savefig(file, dpi=120)


_PROMPT, _DOCUMENTS, _WINDOW = "prompt pass", "documents", "LLM, window by window"
_COLORS = {_PROMPT: "tab:green", _DOCUMENTS: "tab:olive", _WINDOW: "tab:red"}
_NUM_WINDOWS = 9

_Parts = Sequence[tuple[str, float]]
"""Kinds, and where each part of a bar ends, in seconds."""


def _paper_bars() -> dict[str, _Parts]:
    row = PAPER[0]
    own = {"warm": row.prompt_and_score, "cold": row.total, "llm": row.llm}
    return _bars(
        f"the paper, {row.size}, A100", {f"{name}_seconds": value for name, value in own.items()}
    )


def _bars(title: str, own: Mapping[str, float]) -> dict[str, _Parts]:
    warm, cold, llm = (own[f"{name}_seconds"] for name in ("warm", "cold", "llm"))
    windows = [(_WINDOW, llm * number / _NUM_WINDOWS) for number in range(1, _NUM_WINDOWS + 1)]
    return {
        f"{title}\nE2RANK warm": [(_PROMPT, warm)],
        "E2RANK cold": [(_PROMPT, warm), (_DOCUMENTS, cold)],
        "LLM listwise": windows,
    }


def _draw(axes: Any, position: int, parts: _Parts, start: float) -> None:  # noqa: ANN401 - matplotlib's Axes
    left = start
    for kind, end in parts:
        color = _COLORS[kind]
        axes.barh(position, end - left, left=left, color=color, edgecolor="white", linewidth=0.6)
        left = end
    axes.annotate(
        f"{left:.3g} s", (left, position), (4, 0), textcoords="offset points", va="center"
    )


def _legend(axes: Any) -> None:  # noqa: ANN401 - matplotlib's Axes
    for kind, color in _COLORS.items():
        axes.barh(0, 0, left=1, color=color, label=kind)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=len(_COLORS), frameon=False)
