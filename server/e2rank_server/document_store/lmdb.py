"""A document store in one folder of this machine, for one gateway or several processes of it.

    about       b"format" → number; b"raised" → how often any epoch was raised;
                b"turns" → see `lmdb_writer.py`
    namespaces  name → epoch, documents, stored bytes, name, checksum
    records     prefix, id → record (see `records.py`)
    heads       prefix, id → the record's head
    garbage     prefix of a deleted namespace whose records are not all gone → nothing

`prefix` hashes a namespace's name with its epoch. Deleting a namespace raises
the epoch, in one small transaction: from then on nobody can find its records,
which are removed afterwards, so many at a time. If that is cut short it goes on
at the next start or the next deletion.

LMDB is used without any of the flags that trade safety for speed: a commit has
written and fsynced its pages before it fsyncs the one that makes them current,
so that a crash or a loss of power leaves the last commit or the one before.
Removed records are not overwritten; their pages are used again.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import lmdb

from e2rank_server.document_store.lmdb_layout import (
    NamespaceRecord,
    Transaction,
    document_key,
    name_key,
    read_counter,
    write_counter,
)
from e2rank_server.document_store.lmdb_writer import LmdbWriter
from e2rank_server.document_store.protocol import (
    NamespaceStatistics,
    PutOutcome,
    StoredDocument,
)
from e2rank_server.document_store.records import (
    HEAD_BYTES,
    RecordCodec,
    encode_records,
    stored_bytes,
)
from e2rank_server.errors import (
    ConfigurationError,
    DataLossError,
    QuotaExceededError,
    UnavailableError,
)
from e2rank_server.lmdb_lock import allocate_lock_file

T = TypeVar("T")

logger = logging.getLogger(__name__)

_FORMAT = 1
_MAX_DATABASES = 5
# A slot for each thread of each process that may read at once.
_MAX_READERS = 1024
_READ_THREADS = 4
_RECORDS_PER_STEP = 1000
# Not to be cured by waiting; anything else that LMDB reports is, or may be.
_DEFECTS = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.BadValsizeError)


class LmdbDocumentStore:
    """See `DocumentStore`. The folder must be on a disk of this machine, not of the network."""

    def __init__(
        self, environment: lmdb.Environment, max_bytes: int, max_namespace_bytes: int
    ) -> None:
        self._environment = environment
        self._max_bytes = max_bytes
        self._max_namespace_bytes = max_namespace_bytes
        self._about, self._namespaces, self._records, self._heads, self._garbage = (
            environment.open_db(name)
            for name in (b"about", b"namespaces", b"records", b"heads", b"garbage")
        )
        self._writer = LmdbWriter(environment, self._about)
        # A read from a disk that is slow must not stop the event loop.
        self._readers = ThreadPoolExecutor(_READ_THREADS, "document-store-reader")
        self._epochs: tuple[int, Mapping[str, int]] = (0, {})
        self._sweeping: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, folder: Path, *, max_bytes: int, max_namespace_bytes: int
    ) -> LmdbDocumentStore:
        """Open the store in `folder`, or begin one.

        `max_bytes` bounds the file, which grows as it is needed; it takes so much
        address space, not memory. A process must not open a folder twice.

        Raises:
            ConfigurationError: it cannot be opened, or a newer version has written it.
        """
        store = await asyncio.to_thread(_open, cls, folder, max_bytes, max_namespace_bytes)
        store._sweeping = asyncio.create_task(store._sweep_in_background())
        return store

    async def put(
        self, namespace: str, documents: Sequence[StoredDocument]
    ) -> Sequence[PutOutcome]:
        """See `DocumentStore.put`."""
        records = await asyncio.to_thread(encode_records, namespace, documents)
        with _translated(self._max_bytes):
            return await self._writer.write(
                lambda transaction: self._put(transaction, namespace, records),
                num_bytes=sum(map(len, records.values())),
            )

    async def get(self, namespace: str, ids: Sequence[str]) -> Sequence[StoredDocument | None]:
        """See `DocumentStore.get`."""

        def read(transaction: Transaction) -> list[StoredDocument | None]:
            codec = RecordCodec(namespace)
            found = self._find(transaction, namespace, ids, self._records)
            return [
                None if record is None else codec.decode(document_id, record)
                for document_id, record in found
            ]

        return await self._read(read)

    async def digests(self, namespace: str, ids: Sequence[str]) -> Sequence[bytes | None]:
        """See `DocumentStore.digests`."""

        def read(transaction: Transaction) -> list[bytes | None]:
            codec = RecordCodec(namespace)
            found = self._find(transaction, namespace, ids, self._heads)
            return [
                None if head is None else codec.decode_head(document_id, head)
                for document_id, head in found
            ]

        return await self._read(read)

    async def delete(self, namespace: str, ids: Sequence[str]) -> Sequence[bool]:
        """See `DocumentStore.delete`."""
        with _translated(self._max_bytes):
            return await self._writer.write(
                lambda transaction: self._delete(transaction, namespace, ids)
            )

    async def delete_namespace(self, namespace: str) -> NamespaceStatistics:
        """See `DocumentStore.delete_namespace`."""
        with _translated(self._max_bytes):
            held = await self._writer.write(
                lambda transaction: self._raise_epoch(transaction, namespace)
            )
            await self._sweep()
        return held

    async def statistics(self, namespace: str) -> NamespaceStatistics:
        """See `DocumentStore.statistics`."""
        return await self._read(
            lambda transaction: self._statistics_of(self._namespace(transaction, namespace))
        )

    async def epochs(self) -> Mapping[str, int]:
        """See `DocumentStore.epochs`; reads one number unless an epoch was raised."""
        self._epochs = await self._read(self._read_epochs)
        return self._epochs[1]

    async def check_health(self) -> None:
        """See `DocumentStore.check_health`."""
        await self._read(lambda transaction: read_counter(transaction, self._about, b"format"))

    async def swept(self) -> None:
        """Return once what was left of deleted namespaces when it was opened has been removed."""
        if self._sweeping is not None:
            await asyncio.wait([self._sweeping])

    async def close(self) -> None:
        """Finish the writes that wait, and close the files."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])
        await asyncio.to_thread(self._writer.close)
        await asyncio.to_thread(self._readers.shutdown)
        self._environment.close()

    def _put(
        self, transaction: Transaction, namespace: str, records: Mapping[str, bytes]
    ) -> list[PutOutcome]:
        """Write what differs. Quota and namespace are checked before anything is written."""
        entry = self._namespace(transaction, namespace)
        outcomes = []
        changed = []
        needed_bytes = 0
        for document_id, record in records.items():
            key = document_key(entry.prefix, document_id)
            old = transaction.get(key, db=self._records)
            outcome = PutOutcome.NEW
            if old is not None:
                head = transaction.get(key, db=self._heads)
                is_same = old == record and head == record[:HEAD_BYTES]
                outcome = PutOutcome.UNCHANGED if is_same else PutOutcome.REPLACED
                needed_bytes -= stored_bytes(document_id, len(old))
            needed_bytes += stored_bytes(document_id, len(record))
            outcomes.append(outcome)
            if outcome is not PutOutcome.UNCHANGED:
                changed.append((key, record))
        self._check_quota(entry, needed_bytes)
        for key, record in changed:
            transaction.put(key, record, db=self._records)
            transaction.put(key, record[:HEAD_BYTES], db=self._heads)
        if changed:
            entry.documents += outcomes.count(PutOutcome.NEW)
            entry.stored_bytes += needed_bytes
            self._set_namespace(transaction, entry)
        return outcomes

    def _check_quota(self, entry: NamespaceRecord, needed_bytes: int) -> None:
        """Refuse to grow beyond the quota; what shrinks or stays is let in."""
        limit = self._max_namespace_bytes
        if needed_bytes > 0 and entry.stored_bytes + needed_bytes > limit:
            raise QuotaExceededError(entry.name, entry.stored_bytes, needed_bytes, limit)

    def _delete(self, transaction: Transaction, namespace: str, ids: Sequence[str]) -> list[bool]:
        entry = self._namespace(transaction, namespace)
        existed = []
        for document_id in ids:
            key = document_key(entry.prefix, document_id)
            record = transaction.pop(key, db=self._records)
            transaction.delete(key, db=self._heads)
            existed.append(record is not None)
            if record is not None:
                entry.documents -= 1
                entry.stored_bytes -= stored_bytes(document_id, len(record))
        if any(existed):
            self._set_namespace(transaction, entry)
        return existed

    def _raise_epoch(self, transaction: Transaction, namespace: str) -> NamespaceStatistics:
        """Put the namespace's records out of reach; returns what it held."""
        entry = self._namespace(transaction, namespace)
        held = self._statistics_of(entry)
        if entry.documents:
            transaction.put(entry.prefix, b"", db=self._garbage)
        self._set_namespace(transaction, NamespaceRecord(namespace, entry.epoch + 1))
        raised = read_counter(transaction, self._about, b"raised")
        write_counter(transaction, self._about, b"raised", raised + 1)
        return held

    async def _sweep(self) -> None:
        """Remove the records of deleted namespaces, whoever deleted them."""
        while await self._writer.write(self._sweep_step):
            pass

    async def _sweep_in_background(self) -> None:
        try:
            await self._sweep()
        except (lmdb.Error, UnavailableError):
            logger.warning("could not remove all of a deleted namespace", exc_info=True)

    def _sweep_step(self, transaction: Transaction) -> bool:
        """Remove a bounded number of records; False once there is no garbage."""
        with transaction.cursor(db=self._garbage) as cursor:
            if not cursor.first():
                return False
            prefix = cursor.key()
        budget = _RECORDS_PER_STEP
        for database in (self._records, self._heads):
            with transaction.cursor(db=database) as cursor:
                found = cursor.set_range(prefix)
                while found and budget and cursor.key().startswith(prefix):
                    found = cursor.delete()
                    budget -= 1
        if budget:
            transaction.delete(prefix, db=self._garbage)
        return True

    def _read_epochs(self, transaction: Transaction) -> tuple[int, Mapping[str, int]]:
        raised = read_counter(transaction, self._about, b"raised")
        if raised == self._epochs[0]:
            return self._epochs
        with transaction.cursor(db=self._namespaces) as cursor:
            entries = [NamespaceRecord.decode(value) for _, value in cursor]
        return raised, {entry.name: entry.epoch for entry in entries if entry.epoch}

    def _find(
        self,
        transaction: Transaction,
        namespace: str,
        ids: Sequence[str],
        database: lmdb._Database,
    ) -> Iterator[tuple[str, bytes | None]]:
        prefix = self._namespace(transaction, namespace).prefix
        for document_id in ids:
            key = document_key(prefix, document_id)
            yield document_id, transaction.get(key, db=database)

    def _namespace(self, transaction: Transaction, name: str) -> NamespaceRecord:
        value = transaction.get(name_key(name), db=self._namespaces)
        if value is None:
            return NamespaceRecord(name)
        entry = NamespaceRecord.decode(value)
        if entry.name != name:
            raise DataLossError(name, None)
        return entry

    def _set_namespace(self, transaction: Transaction, entry: NamespaceRecord) -> None:
        """Write a namespace's own record; one that says nothing is none."""
        if entry.epoch or entry.documents:
            transaction.put(name_key(entry.name), entry.encode(), db=self._namespaces)
        else:
            transaction.delete(name_key(entry.name), db=self._namespaces)

    def _statistics_of(self, entry: NamespaceRecord) -> NamespaceStatistics:
        return NamespaceStatistics(entry.documents, entry.stored_bytes, self._max_namespace_bytes)

    async def _read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` on the last committed state, in a thread."""

        def run() -> T:
            with self._environment.begin() as transaction:
                return work(transaction)

        with _translated(self._max_bytes):
            return await asyncio.get_running_loop().run_in_executor(self._readers, run)


def _open(
    kind: type[LmdbDocumentStore], folder: Path, max_bytes: int, max_namespace_bytes: int
) -> LmdbDocumentStore:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        allocate_lock_file(folder / "lock.mdb")
        environment = lmdb.open(
            str(folder),
            map_size=max_bytes,
            max_dbs=_MAX_DATABASES,
            max_readers=_MAX_READERS,
            mode=0o600,
            readahead=False,  # look-ups are at random; reading ahead would only evict others
        )
        try:
            environment.reader_check()  # readers that were killed keep old pages from reuse
            _check_format(environment)
            # LMDB syncs its files, but not that they exist.
            for path in (folder, folder.parent):
                _sync_folder(path)
            return kind(environment, max_bytes, max_namespace_bytes)
        except BaseException:
            environment.close()
            raise
    except (lmdb.Error, OSError) as error:
        raise ConfigurationError([f"document store {folder}: {error}"]) from error


def _check_format(environment: lmdb.Environment) -> None:
    """Note this version's format in a new store; refuse a newer one."""
    about = environment.open_db(b"about")
    with environment.begin(write=True) as transaction:
        found = read_counter(transaction, about, b"format")
        if found > _FORMAT:
            raise ConfigurationError(
                [
                    f"document store {environment.path()}: has format {found}, written by a "
                    f"newer version; this one knows {_FORMAT}"
                ]
            )
        write_counter(transaction, about, b"format", _FORMAT)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated(max_bytes: int) -> Iterator[None]:
    """Turn LMDB's errors into ours."""
    try:
        yield
    except _DEFECTS:
        raise
    except lmdb.MapFullError as error:
        raise UnavailableError(
            "document_store", f"its file has reached the limit of {max_bytes} bytes"
        ) from error
    except lmdb.Error as error:
        raise UnavailableError("document_store", str(error)) from error
