"""The file of figures: a section's are replaced as a whole, with what is needed to judge them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.overhead.intervals import Estimate


@dataclass(frozen=True, slots=True)
class Section:
    """Figures that were measured together: where, from which commit, how, and what served."""

    name: str
    machine: dict[str, Any]
    commit: str
    command: str
    date: str
    serving: dict[str, str]
    figures: dict[str, Estimate]


def merge(existing: Mapping[str, Any], section: Section) -> dict[str, Any]:
    """Return the file's new content.

    `figures` are plain numbers; `intervals` has the same names and the 95 %
    interval and the number of iterations of each; `runs` says of each section
    where its figures come from.
    """
    others = [run for run in existing.get("runs", []) if run["name"] != section.name]
    kept = {name for run in others for name in run["figures"]}
    figures = {name: value for name, value in existing.get("figures", {}).items() if name in kept}
    intervals = {
        name: value for name, value in existing.get("intervals", {}).items() if name in kept
    }
    for name, estimate in section.figures.items():
        figures[name] = _rounded(estimate.value)
        intervals[name] = {
            "low": _rounded(estimate.low),
            "high": _rounded(estimate.high),
            "iterations": estimate.iterations,
        }
    return {
        "figures": dict(sorted(figures.items())),
        "intervals": dict(sorted(intervals.items())),
        "runs": [*others, {**asdict(section), "figures": sorted(section.figures)}],
    }


def merge_into_file(file: Path, section: Section) -> dict[str, Any]:
    """Merge a section into a file, which need not exist; return its content."""
    existing = json.loads(file.read_text()) if file.exists() else {}
    content = merge(existing, section)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".tmp")
    draft.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    draft.replace(file)
    return content


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
