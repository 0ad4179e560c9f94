"""Documents that a request names by id alone: what they are now, read from the store each time.

First only the digests of their texts are read, which are enough to find their
vectors; the texts of those that are shown in a prompt or have to be embedded
come later. A document that was replaced in between fails that second read, and
the request begins anew: a text is never paired with another text's vector.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from e2rank_server.document_store.protocol import DocumentStore
from e2rank_server.errors import (
    FieldViolation,
    InvalidRequestError,
    UnavailableError,
    UnknownDocumentsError,
)
from e2rank_server.types import Document

T = TypeVar("T")

_MAX_ATTEMPTS = 5


class _ChangedError(Exception):
    """A document is another than it was when the request began."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """The documents of a request that exist, and where they stand in it.

    `positions` has the index in the request of each of `documents`, `unknown`
    those of documents that were dropped.
    """

    documents: list[Document]
    positions: Sequence[int]
    unknown: Sequence[int]
    num_stored: int
    seconds: float


class StoredDocuments:
    """Reads from a store; without one, naming documents by id is an error."""

    def __init__(self, store: DocumentStore | None, max_request_bytes: int) -> None:
        """`max_request_bytes` bounds the texts that are read for one request."""
        self._store = store
        self._max_request_bytes = max_request_bytes

    async def resolve(
        self,
        namespace: str,
        documents: Sequence[Document],
        *,
        drop_unknown: bool,
        field: str = "documents",
        first: int = 0,
    ) -> Resolved:
        """Find what is named by id; the texts stay unread.

        The documents are those of the request's `field` from position `first`.

        Raises:
            UnknownDocumentsError: some are not stored, and are not to be dropped.
            InvalidRequestError: this server has no store.
            UnavailableError: the store is away.
        """
        rows = [
            row
            for row, each in enumerate(documents)
            if each.text is None and each.vector is None  # named by id, said inline: 100 a request
        ]
        if not rows:
            positions: Sequence[int] = range(first, first + len(documents))
            return Resolved(list(documents), positions, (), 0, 0.0)
        started = time.monotonic()
        digests = await self._get_store(field, first + rows[0]).digests(
            namespace, [documents[row].id for row in rows]
        )
        unknown = [row for row, digest in zip(rows, digests, strict=True) if digest is None]
        if unknown and not drop_unknown:
            raise UnknownDocumentsError(
                [
                    FieldViolation(
                        f"{field}[{first + row}].id", f"{documents[row].id!r} is not stored"
                    )
                    for row in unknown
                ]
            )
        found = list(documents)
        for row, digest in zip(rows, digests, strict=True):
            found[row] = _known(found[row], digest)
        dropped = set(unknown)
        kept = [row for row in range(len(documents)) if row not in dropped]
        return Resolved(
            [found[row] for row in kept],
            [first + row for row in kept],
            [first + row for row in unknown],
            len(rows) - len(unknown),
            time.monotonic() - started,
        )

    async def read(self, namespace: str, documents: list[Document], rows: Iterable[int]) -> float:
        """Give the stored ones among `rows` their texts, in place; return the seconds it took.

        Call it within `steadily`.

        Raises:
            InvalidRequestError: their texts exceed what a request may hold.
            UnavailableError: the store is away.
        """
        unread = [row for row in rows if is_named_by_id(documents[row])]
        if not unread or self._store is None:
            return 0.0
        started = time.monotonic()
        stored = await self._store.get(namespace, [documents[row].id for row in unread])
        num_bytes = 0
        for row, found in zip(unread, stored, strict=True):
            if found is None or found.digest != documents[row].digest:
                raise _ChangedError
            num_bytes += len(found.text) + len(found.title or "")
            documents[row] = _known(documents[row], found.digest, found.text, found.title)
        if num_bytes > self._max_request_bytes:
            raise InvalidRequestError.of(
                "documents",
                f"name stored texts of {num_bytes} characters that have to be read together, more "
                f"than the limit of {self._max_request_bytes} bytes",
            )
        return time.monotonic() - started

    async def steadily(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Run `attempt`, again if documents changed while it ran.

        Raises:
            UnavailableError: they changed each time.
        """
        for _ in range(_MAX_ATTEMPTS):
            try:
                return await attempt()
            except _ChangedError:
                continue
        raise UnavailableError(
            "document_store",
            f"documents of the request changed in each of {_MAX_ATTEMPTS} attempts to serve it",
        )

    def _get_store(self, field: str, row: int) -> DocumentStore:
        if self._store is None:
            raise InvalidRequestError.of(
                f"{field}[{row}]", "names a stored document, but this server stores none"
            )
        return self._store


def is_named_by_id(document: Document) -> bool:
    """Say whether all that is known of a document so far is its id, or its text's digest."""
    return document.text is None and document.vector is None


def _known(
    document: Document, digest: bytes | None, text: str | None = None, title: str | None = None
) -> Document:
    """Return a document that was named by id with what the store says of it.

    A request has a hundred, for each of which `dataclasses.replace` would take ten times as long.
    """
    return Document(document.id, text, title, None, document.first_stage_score, digest)
