"""The file of figures: a run's are merged into it, with what is needed to judge them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class QualityRun:
    """One run: where, from which commit and how it was started, and its figures.

    Figures are named `<collection>.<profile>.<first stage>.<method>.<measure>`,
    `<collection>.<profile>.dense.<measure>` and `<collection>.bm25.<measure>`.
    """

    machine: dict[str, Any]
    commit: str
    command: str
    date: str
    serving: dict[str, str]
    """What served: dtype, backends, model revision and fingerprint."""
    figures: dict[str, float]


def merge(existing: Mapping[str, Any], run: QualityRun) -> dict[str, Any]:
    """Return the file's new content.

    Figures of the run replace those of the same name. `runs` keeps, for every
    figure, the run that it came from; one all of whose figures were replaced goes.
    """
    earlier = []
    for entry in existing.get("runs", []):
        kept = [name for name in entry["figures"] if name not in run.figures]
        if kept:
            earlier.append({**entry, "figures": kept})
    figures = {**existing.get("figures", {}), **run.figures}
    return {
        "machine": run.machine,
        "commit": run.commit,
        "command": run.command,
        "date": run.date,
        "figures": dict(sorted(figures.items())),
        "runs": [*earlier, {**asdict(run), "figures": sorted(run.figures)}],
    }


def merge_into_file(file: Path, run: QualityRun) -> dict[str, Any]:
    """Merge a run into a file, which need not exist; return its content."""
    existing = json.loads(file.read_text()) if file.exists() else {}
    content = merge(existing, run)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".tmp")
    draft.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    draft.replace(file)
    return content
