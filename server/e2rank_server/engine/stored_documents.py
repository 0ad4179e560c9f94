"""Documents that a request names by id alone: what they are now, read from the store each time.

First only the digests of their texts are read, which are enough to find their
vectors; the texts of those that are shown in a prompt or have to be embedded
come later. A document that was replaced in between fails that second read, and
the request begins anew: a text is never paired with another text's vector. If
that happens again, texts are read at once with their digests.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from e2rank_server.document_store.protocol import DocumentStore, StoredDocument
from e2rank_server.errors import FieldViolation, InvalidRequestError, UnknownDocumentsError
from e2rank_server.types import Document

T = TypeVar("T")

# With digests first, before all is read at once: that costs more, but cannot fail.
_FRUGAL_ATTEMPTS = 2


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
        at_once: bool,
        field: str = "documents",
        first: int = 0,
    ) -> Resolved:
        """Find what is named by id; the texts stay unread unless all are wanted `at_once`.

        The documents are those of the request's `field` from position `first`.

        Raises:
            UnknownDocumentsError: some are not stored, and are not to be dropped.
            InvalidRequestError: this server has no store, or the texts exceed what a
                request may hold.
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
        store = self._get_store(field, first + rows[0])
        known = await self._find(store, namespace, [documents[row] for row in rows], at_once)
        unknown = [row for row, document in zip(rows, known, strict=True) if document is None]
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
        for row, document in zip(rows, known, strict=True):
            if document is not None:
                found[row] = document
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
        stored = await self._get(self._store, namespace, [documents[row].id for row in unread])
        for row, found in zip(unread, stored, strict=True):
            if found is None or found.digest != documents[row].digest:
                raise _ChangedError
            documents[row] = _known(documents[row], found.digest, found.text, found.title)
        return time.monotonic() - started

    async def steadily(self, attempt: Callable[[bool], Awaitable[T]]) -> T:
        """Run `attempt`, again if documents changed while it ran.

        It is told whether to `resolve` at once, after which nothing is left to change.
        """
        for _ in range(_FRUGAL_ATTEMPTS):
            try:
                return await attempt(False)
            except _ChangedError:
                continue
        return await attempt(True)

    async def _find(
        self, store: DocumentStore, namespace: str, documents: Sequence[Document], at_once: bool
    ) -> list[Document | None]:
        """Return what is known of each document named by id, None for those not stored."""
        ids = [document.id for document in documents]
        if at_once:
            stored = await self._get(store, namespace, ids)
            return [
                None if found is None else _known(each, found.digest, found.text, found.title)
                for each, found in zip(documents, stored, strict=True)
            ]
        digests = await store.digests(namespace, ids)
        return [
            None if digest is None else _known(each, digest)
            for each, digest in zip(documents, digests, strict=True)
        ]

    async def _get(
        self, store: DocumentStore, namespace: str, ids: Sequence[str]
    ) -> Sequence[StoredDocument | None]:
        """Read whole documents, up to what a request may hold."""
        stored = await store.get(namespace, ids)
        num_bytes = sum(each.num_bytes for each in stored if each is not None)
        if num_bytes > self._max_request_bytes:
            raise InvalidRequestError.of(
                "documents",
                f"name stored texts of {num_bytes} bytes that have to be read together, more "
                f"than the limit of {self._max_request_bytes} bytes",
            )
        return stored

    def _get_store(self, field: str, row: int) -> DocumentStore:
        if self._store is None:
            raise InvalidRequestError.of(
                f"{field}[{row}]", "names a stored document, but this server stores none"
            )
        return self._store


def require_texts(
    documents: Sequence[Document], positions: Sequence[int], rows: Iterable[int], reader: str
) -> None:
    """See that candidates have texts; `reader` says who reads them, as "the prompt shows".

    `positions` are the candidates' places in the request.

    Raises:
        InvalidRequestError: naming each that has none.
    """
    violations = [
        FieldViolation(
            f"documents[{positions[row]}].text",
            f"is needed, since {reader} this document; a vector alone will not do",
        )
        for row in sorted(rows)
        if documents[row].text is None
    ]
    if violations:
        raise InvalidRequestError(violations)


def is_named_by_id(document: Document) -> bool:
    """Say whether all that is known of a document so far is its id, or its text's digest."""
    return document.text is None and document.vector is None


def _known(
    document: Document, digest: bytes, text: str | None = None, title: str | None = None
) -> Document:
    """Return a document that was named by id with what the store says of it.

    A request has a hundred, for each of which `dataclasses.replace` would take ten times as long.
    """
    return Document(document.id, text, title, None, document.first_stage_score, digest)
