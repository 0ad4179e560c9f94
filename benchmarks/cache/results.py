"""The file of figures: a section's are replaced as a whole, with what is needed to judge them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Section:
    """Figures that were measured together: where, from which commit, how, and of what."""

    name: str
    machine: dict[str, Any]
    commit: str
    command: str
    date: str
    conditions: dict[str, Any]
    figures: dict[str, float]


def merge(existing: Mapping[str, Any], section: Section) -> dict[str, Any]:
    """Return the file's new content; `runs` says of each section where its figures come from."""
    others = [run for run in existing.get("runs", []) if run["name"] != section.name]
    kept = {name for run in others for name in run["figures"]}
    figures = {name: value for name, value in existing.get("figures", {}).items() if name in kept}
    figures |= {name: _rounded(value) for name, value in section.figures.items()}
    return {
        "figures": dict(sorted(figures.items())),
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
