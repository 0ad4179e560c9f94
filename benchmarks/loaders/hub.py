"""Tables from the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, cast

from benchmarks.loaders.conversion import Row


class DownloadError(Exception):
    """A table cannot be had; the message names it and why."""


class SizedTable(Protocol):
    """Rows whose number is known."""

    def __len__(self) -> int:
        """How many rows."""
        ...

    def __iter__(self) -> Iterator[Row]:
        """Each row."""
        ...


def load_table(repository: str, configuration: str | None, split: str) -> SizedTable:
    """Download a table, or take it from the hub's local cache; shows its own progress.

    Raises:
        DownloadError: There is no such table, no way to the hub, or no package to reach it with.
    """
    try:
        import datasets  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        raise DownloadError(f"needs the package `datasets`: make setup-bench ({error})") from error
    name = " ".join(part for part in (repository, configuration, split) if part)
    try:
        table: Any = datasets.load_dataset(repository, configuration, split=split)
    except ConnectionError as error:
        raise DownloadError(
            f"{name}: the Hugging Face hub cannot be reached, and its local cache has no copy: "
            f"{error}"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise DownloadError(f"{name}: {error}") from error
    return cast("SizedTable", table)
