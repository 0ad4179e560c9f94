"""A document store in a dict, which can be told to be away or to change while it is read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from e2rank_server.document_store.protocol import (
    NamespaceStatistics,
    PutOutcome,
    StoredDocument,
)
from e2rank_server.document_store.records import DOCUMENT_OVERHEAD_BYTES
from e2rank_server.errors import QuotaExceededError, UnavailableError


class FakeDocumentStore:
    """See `DocumentStore`; durable for as long as the object lives."""

    def __init__(self, max_namespace_bytes: int = 1 << 30) -> None:
        self.is_available = True
        self.num_epoch_reads = 0
        self.num_reads = 0
        """Calls of `get`."""
        self.before_get: Callable[[], Awaitable[None]] | None = None
        self._max_namespace_bytes = max_namespace_bytes
        self._namespaces: dict[str, dict[str, StoredDocument]] = {}
        self._epochs: dict[str, int] = {}

    async def put(
        self, namespace: str, documents: Sequence[StoredDocument]
    ) -> Sequence[PutOutcome]:
        await self._enter()
        held = self._namespaces.get(namespace, {})
        after = {**held, **{document.id: document for document in documents}}
        before_bytes = _bytes(held)
        needed = _bytes(after) - before_bytes
        if needed > 0 and before_bytes + needed > self._max_namespace_bytes:
            raise QuotaExceededError(namespace, before_bytes, needed, self._max_namespace_bytes)
        self._namespaces[namespace] = after
        return [_outcome(held.get(document.id), document) for document in documents]

    async def get(self, namespace: str, ids: Sequence[str]) -> Sequence[StoredDocument | None]:
        self.num_reads += 1
        if self.before_get is not None:
            await self.before_get()
        return await self._find(namespace, ids)

    async def digests(self, namespace: str, ids: Sequence[str]) -> Sequence[bytes | None]:
        found = await self._find(namespace, ids)
        return [None if document is None else document.digest for document in found]

    async def _find(self, namespace: str, ids: Sequence[str]) -> list[StoredDocument | None]:
        await self._enter()
        held = self._namespaces.get(namespace, {})
        return [held.get(document_id) for document_id in ids]

    async def delete(self, namespace: str, ids: Sequence[str]) -> Sequence[bool]:
        await self._enter()
        held = self._namespaces.get(namespace, {})
        return [held.pop(document_id, None) is not None for document_id in ids]

    async def delete_namespace(self, namespace: str) -> NamespaceStatistics:
        held = await self.statistics(namespace)
        self._namespaces.pop(namespace, None)
        self._epochs[namespace] = self._epochs.get(namespace, 0) + 1
        return held

    async def statistics(self, namespace: str) -> NamespaceStatistics:
        await self._enter()
        held = self._namespaces.get(namespace, {})
        return NamespaceStatistics(len(held), _bytes(held), self._max_namespace_bytes)

    async def epochs(self) -> Mapping[str, int]:
        self.num_epoch_reads += 1
        await self._enter()
        return dict(self._epochs)

    async def check_health(self) -> None:
        await self._enter()

    async def close(self) -> None:
        pass

    async def _enter(self) -> None:
        await asyncio.sleep(0)
        if not self.is_available:
            raise UnavailableError("document_store", "is away")


def _outcome(old: StoredDocument | None, new: StoredDocument) -> PutOutcome:
    if old is None:
        return PutOutcome.NEW
    return PutOutcome.UNCHANGED if old == new else PutOutcome.REPLACED


def _bytes(documents: Mapping[str, StoredDocument]) -> int:
    return sum(
        DOCUMENT_OVERHEAD_BYTES
        + len((document.id + (document.title or "") + document.text).encode())
        for document in documents.values()
    )
