"""What a run has measured: each section is saved at once, and need not be measured again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.figures import Figures, Provenance, Section, merge, write


class SavedSections:
    """Merges sections into `file` as they come; with None they are only kept in memory.

    With `is_resumed`, a section counts as held if the file has it from the same
    commit under the same conditions. A checkout with changes is no commit.
    """

    def __init__(self, file: Path | None, provenance: Provenance, *, is_resumed: bool) -> None:
        self._file = file
        self._provenance = provenance
        self._content: dict[str, Any] = {}
        if file is not None and file.exists():
            self._content = json.loads(file.read_text())
        is_commit = bool(provenance.commit) and not provenance.commit.endswith("-dirty")
        self._may_skip = is_resumed and is_commit
        self._added: set[str] = set()

    @property
    def figures(self) -> Mapping[str, float]:
        """All figures, those of the file included."""
        figures: Mapping[str, float] = self._content.get("figures", {})
        return figures

    @property
    def intervals(self) -> Mapping[str, Mapping[str, float]]:
        """The intervals of those that have one: `low`, `high` and `iterations`."""
        intervals: Mapping[str, Mapping[str, float]] = self._content.get("intervals", {})
        return intervals

    def holds(self, name: str, conditions: Mapping[str, Any]) -> bool:
        """Say whether a section need not be measured: this run did, or resumes one that did."""
        return name in self._added or (
            self._may_skip
            and any(
                run.get("name") == name
                and run["commit"] == self._provenance.commit
                and run["conditions"] == conditions
                for run in self._content.get("runs", [])
            )
        )

    def add(self, name: str, conditions: dict[str, Any], figures: Figures) -> None:
        """Merge a section, and save it."""
        section = Section(name, self._provenance, conditions, figures)
        self._content = merge(self._content, section)
        self._added.add(name)
        if self._file is not None:
            write(self._file, self._content)
