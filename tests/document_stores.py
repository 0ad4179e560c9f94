"""The document stores under test, each on data that outlives what is opened on it."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import redis

from e2rank_server.document_store.lmdb import LmdbDocumentStore
from e2rank_server.document_store.protocol import DocumentStore, StoredDocument
from e2rank_server.document_store.valkey import ValkeyDocumentStore
from e2rank_server.embedding_cache.keys import text_digest
from tests.fake_document_store import FakeDocumentStore
from tests.valkey_server import ValkeyProcess, running_valkey

SECRET = b"s" * 32
QUOTA = 100_000
MAX_BYTES = 64 * 1024 * 1024


def stored(document_id: str, text: str = "a text", title: str | None = None) -> StoredDocument:
    return StoredDocument(document_id, text, title, text_digest(SECRET, title, text))


class Place(Protocol):
    """Where a store's data is; `open` may be called again once what it gave is closed."""

    async def open(self) -> DocumentStore: ...

    def wipe(self) -> None: ...


class FakePlace:
    def __init__(self) -> None:
        self.wipe()

    async def open(self) -> DocumentStore:
        return self._store

    def wipe(self) -> None:
        self._store = FakeDocumentStore(QUOTA)


class LmdbPlace:
    def __init__(self, folder: Path, quota: int = QUOTA, max_bytes: int = MAX_BYTES) -> None:
        self.folder = folder
        self.quota = quota
        self.max_bytes = max_bytes

    async def open(self) -> LmdbDocumentStore:
        return await LmdbDocumentStore.open(
            self.folder, max_bytes=self.max_bytes, max_namespace_bytes=self.quota
        )

    def wipe(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class ValkeyPlace:
    def __init__(self, url: str) -> None:
        self.url = url

    async def open(self, timeout_seconds: float = 5.0) -> ValkeyDocumentStore:
        return await ValkeyDocumentStore.open(
            self.url, max_namespace_bytes=QUOTA, timeout_seconds=timeout_seconds
        )

    def wipe(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushall()


def durable_valkey() -> AbstractContextManager[ValkeyProcess]:
    """Run a real Valkey with the settings that the store asks for."""
    return running_valkey(
        appendonly="yes", appendfsync="always", maxmemory_policy="noeviction", save=""
    )
