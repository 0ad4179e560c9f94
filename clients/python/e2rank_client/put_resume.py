"""Where a put of a file stopped, kept beside the file, so that the next one goes on there."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from e2rank_client.file_lines import Mark

SUFFIX = ".e2rank-put"
_FORMAT = 1
_MAX_BYTES = 64 << 10


class CannotResumeError(Exception):
    """The earlier put cannot be gone on with; the message says why."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """All documents before `mark` are stored; the last of them has the id `last_id`."""

    mark: Mark
    last_id: str


class ResumeFile:
    """The file beside `documents`. It is of one call: where to, and with what.

    Args:
        documents: The file that is put.
        call: What must be the same for the next put to go on.
    """

    def __init__(self, documents: Path, call: Mapping[str, Any]) -> None:
        self.path = documents.with_name(documents.name + SUFFIX)
        self._call = dict(call)

    def load(self) -> Acknowledged | None:
        """Return how far an earlier put came; None if there was none.

        Raises:
            CannotResumeError: It was another call's, or cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                value = json.loads(file.read(_MAX_BYTES))
            if value["format"] != _FORMAT:
                raise CannotResumeError(f"{self.path} is of another version of this program")
            call, last_id, mark = value["call"], value["last_id"], Mark(**value["mark"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise CannotResumeError(f"{self.path} cannot be read") from error
        if not _is_sane(mark, last_id):
            raise CannotResumeError(f"{self.path} cannot be read")
        if call != self._call:
            raise CannotResumeError("the earlier put was to another address, namespace or model")
        return Acknowledged(mark, last_id)

    def save(self, acknowledged: Acknowledged) -> None:
        """Replace the file at once, so that whoever stops the program leaves a whole one.

        Raises:
            OSError: It cannot be written.
        """
        value = {
            "format": _FORMAT,
            "call": self._call,
            "last_id": acknowledged.last_id,
            "mark": asdict(acknowledged.mark),
        }
        draft = self.path.with_name(self.path.name + ".tmp")
        draft.write_text(json.dumps(value))
        os.replace(draft, self.path)  # noqa: PTH105 - says that it replaces

    def remove(self) -> None:
        """Remove the file, if there is one and it can be."""
        with contextlib.suppress(OSError):
            self.path.unlink()


def _is_sane(mark: Mark, last_id: Any) -> bool:  # noqa: ANN401 - out of a file
    numbers = (mark.offset, mark.line)
    return (
        all(type(number) is int and number >= 0 for number in numbers)
        and isinstance(mark.digest, str)
        and isinstance(last_id, str)
    )
