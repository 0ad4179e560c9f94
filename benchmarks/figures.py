"""The files of figures: what was measured, and of each figure where it comes from."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.intervals import Estimate
from benchmarks.machine import current_commit, describe_machine

FOLDER = Path(__file__).resolve().parent / "results"

Figures: TypeAlias = Mapping[str, "float | Estimate"]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where, from which commit, how and when something was measured."""

    machine: dict[str, Any]
    commit: str
    command: str
    date: str

    @classmethod
    def of(cls, command: str) -> Provenance:
        """Describe a measurement that begins now; `command` names no path and no address."""
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls(describe_machine(), current_commit(), command, date)


@dataclass(frozen=True, slots=True)
class Section:
    """Figures that were measured together, and `conditions`: of what, or what served."""

    name: str
    provenance: Provenance
    conditions: dict[str, Any]
    figures: Figures


def value_of(figure: float | Estimate) -> float:
    """Return a figure without its interval."""
    return figure.value if isinstance(figure, Estimate) else figure


def merge(existing: Mapping[str, Any], section: Section) -> dict[str, Any]:
    """Return a file's new content.

    `figures` are plain numbers. `intervals` has the 95 % interval and the number
    of iterations of those that have one. `runs` says of each section where its
    figures come from. On top is where the latest come from.

    A section takes the place of the earlier one of its name, and its figures that
    of others of theirs; a section that has lost them all goes.
    """
    earlier = []
    for run in existing.get("runs", []):
        kept = [name for name in run["figures"] if name not in section.figures]
        if kept and run.get("name") != section.name:
            earlier.append({**run, "figures": kept})
    names = {name for run in earlier for name in run["figures"]}
    old = {
        part: {name: each for name, each in existing.get(part, {}).items() if name in names}
        for part in ("figures", "intervals")
    }
    figures = {name: _rounded(value_of(each)) for name, each in section.figures.items()}
    intervals = {
        name: _interval(each)
        for name, each in section.figures.items()
        if isinstance(each, Estimate)
    }
    provenance = asdict(section.provenance)
    run = {"name": section.name, **provenance, "conditions": section.conditions}
    return {
        **provenance,
        "figures": dict(sorted((old["figures"] | figures).items())),
        "intervals": dict(sorted((old["intervals"] | intervals).items())),
        "runs": [*earlier, {**run, "figures": sorted(figures)}],
    }


def merge_into_file(file: Path, section: Section) -> dict[str, Any]:
    """Merge a section into a file, which need not exist; return its content."""
    existing = json.loads(file.read_text()) if file.exists() else {}
    content = merge(existing, section)
    write(file, content)
    return content


def write(file: Path, content: Mapping[str, Any]) -> None:
    """Write a file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".tmp")
    draft.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    draft.replace(file)


def _interval(estimate: Estimate) -> dict[str, float]:
    return {
        "low": _rounded(estimate.low),
        "high": _rounded(estimate.high),
        "iterations": estimate.iterations,
    }


def _rounded(number: float) -> float:
    return float(f"{number:.6g}")
