"""The document store seam: texts named by id, durable, in namespaces.

Unlike the embedding cache, what it acknowledges is kept: `put` and the deletes
return once their effect would survive the loss of power. It holds no vectors;
they are in the cache under the text's digest, so that a vector can never be
paired with a text other than its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as it was put; `digest` is `embedding_cache.keys.text_digest` of it."""

    id: str
    text: str
    title: str | None
    digest: bytes

    @property
    def num_bytes(self) -> int:
        """Bytes of text and title in UTF-8."""
        return len(self.text.encode()) + len((self.title or "").encode())


class PutOutcome(StrEnum):
    """What putting a document did."""

    NEW = "NEW"
    UNCHANGED = "UNCHANGED"
    """It was there with the same text and title."""
    REPLACED = "REPLACED"


@dataclass(frozen=True, slots=True)
class NamespaceStatistics:
    """How full a namespace is.

    `stored_bytes` counts ids, titles and texts in UTF-8 plus a fixed overhead a
    document; `max_bytes` is the quota, which a put must not exceed.
    """

    documents: int
    stored_bytes: int
    max_bytes: int


class DocumentStore(Protocol):
    """Keeps documents by namespace and id.

    All calls read what was last acknowledged, by whichever replica. A call that
    writes several documents writes all or none.

    Errors: UnavailableError("document_store") when the store is away or its disk
    is full; QuotaExceededError when a put would exceed the namespace's quota.
    """

    async def put(
        self, namespace: str, documents: Sequence[StoredDocument]
    ) -> Sequence[PutOutcome]:
        """Write documents with distinct ids; returns when they are durable."""
        ...

    async def get(self, namespace: str, ids: Sequence[str]) -> Sequence[StoredDocument | None]:
        """Return documents in the order of `ids`, None for unknown ones."""
        ...

    async def digests(self, namespace: str, ids: Sequence[str]) -> Sequence[bytes | None]:
        """Return what names each document's text, without reading the text."""
        ...

    async def delete(self, namespace: str, ids: Sequence[str]) -> Sequence[bool]:
        """Delete documents; True for those that existed."""
        ...

    async def delete_namespace(self, namespace: str) -> NamespaceStatistics:
        """Delete everything in a namespace, raise its epoch, and say what it held."""
        ...

    async def statistics(self, namespace: str) -> NamespaceStatistics:
        """Return how full a namespace is; an unknown one is empty."""
        ...

    async def epochs(self) -> Mapping[str, int]:
        """Return the epochs of all namespaces that were ever deleted; others are in epoch 0."""
        ...

    async def check_health(self) -> None:
        """Raise UnavailableError if the store is away."""
        ...

    async def close(self) -> None:
        """Let go of it."""
        ...
