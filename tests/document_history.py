"""What a document may have been at a moment: writes that take effect some time before they end."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Write:
    """A document is given a text, or None; it takes effect between `began` and `ended`.

    One that never ends may take effect at any time, and at none.
    """

    text: str | None
    began: int
    ended: float = math.inf


class History:
    """All writes of documents in namespaces, none of which is stored at first.

    Several threads may use it.
    """

    def __init__(self, names: Iterable[tuple[str, str]]) -> None:
        self._clock = itertools.count()
        self._writes = {name: [Write(None, self.now(), self.now())] for name in names}

    def now(self) -> int:
        """Return a number that is larger than all before."""
        return next(self._clock)

    def begin(self, namespace: str, texts: Mapping[str, str | None]) -> list[Write]:
        """Note that documents are being written."""
        began = self.now()
        writes = []
        for document_id, text in texts.items():
            writes.append(Write(text, began))
            self._writes[namespace, document_id].append(writes[-1])
        return writes

    def end(self, writes: Sequence[Write]) -> None:
        """Note that writes were acknowledged."""
        ended = self.now()
        for write in writes:
            write.ended = ended

    def possible(self, namespace: str, document_id: str, since: int) -> set[str | None]:
        """Return what the document may have been at a moment from `since` until now."""
        writes = list(self._writes[namespace, document_id])
        return {
            write.text
            for write in writes
            if not any(write.ended < later.began and later.ended < since for later in writes)
        }

    def settle(self, namespace: str, document_id: str, text: str | None) -> None:
        """Nothing is being written any more, and this is what the document has become."""
        assert text in self.possible(namespace, document_id, self.now())
        self._writes[namespace, document_id] = [Write(text, self.now(), self.now())]
