"""Group commit: writes that wait at the same time share a transaction and its fsync."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import lmdb

from e2rank_server.document_store.lmdb_layout import Transaction, read_counter, write_counter
from e2rank_server.errors import E2RankError

T = TypeVar("T")

# A transaction's changed pages stay in memory until it commits.
_MAX_GROUP_BYTES = 64 * 1024 * 1024
_MAX_GROUP_WRITES = 256


@dataclass(slots=True)
class _Write(Generic[T]):
    """A change to make, and who waits for it. It raises an E2RankError only before it writes."""

    apply: Callable[[Transaction], T]
    num_bytes: int
    done: Future[T] = field(default_factory=Future)


class LmdbWriter:
    """Applies writes to one environment, in order of arrival, in a thread of its own.

    LMDB has one writer at a time, so more threads would only wait for each other.
    """

    def __init__(self, environment: lmdb.Environment, about: lmdb._Database) -> None:
        """Begin; `about` has the writer's own entry, too."""
        self._environment = environment
        self._about = about
        self._waiting: SimpleQueue[_Write[Any] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="document-store-writer", daemon=True)
        self._thread.start()

    async def write(self, apply: Callable[[Transaction], T], num_bytes: int = 0) -> T:
        """Return what `apply` returns, once that is on disk.

        `apply` may raise an E2RankError before it has changed anything, which is
        raised here and fails nothing else. If it fails in another way, all that it
        changed is undone. `num_bytes` is about what it writes. A caller who leaves
        before its write has begun takes it away.
        """
        write = _Write(apply, num_bytes)
        self._waiting.put(write)
        return await asyncio.wrap_future(write.done)

    def close(self) -> None:
        """Finish what waits, and end the thread; blocks."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            group: list[_Write[Any]] = []
            is_open = self._gather(group)
            running = [write for write in group if write.done.set_running_or_notify_cancel()]
            if running:
                self._commit(running)

    def _gather(self, group: list[_Write[Any]]) -> bool:
        """Fill `group` with what waits, at least one; False if that is the end."""
        num_bytes = 0
        while len(group) < _MAX_GROUP_WRITES and num_bytes < _MAX_GROUP_BYTES:
            if group and self._waiting.empty():
                break
            write = self._waiting.get()
            if write is None:
                return False
            group.append(write)
            num_bytes += write.num_bytes
        return True

    def _commit(self, group: list[_Write[Any]]) -> None:
        """Apply all in one transaction; if that fails, each in its own."""
        try:
            outcomes = self._apply(group)
        except Exception as error:  # noqa: BLE001 - raised in the caller; the thread outlives it
            if len(group) == 1:
                group[0].done.set_exception(error)
            else:
                for write in group:
                    self._commit([write])
            return
        for write, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, E2RankError):
                write.done.set_exception(outcome)
            else:
                write.done.set_result(outcome)

    def _apply(self, group: list[_Write[Any]]) -> list[Any]:
        """Return what became of each: its result, or an E2RankError."""
        try:
            with self._environment.begin(write=True) as transaction:
                return [_outcome(write, transaction) for write in group]
        except lmdb.MapFullError:
            # What the last transaction freed may be used by the one after the next: without
            # this, a full file could not be written to again, however much was deleted.
            with self._environment.begin(write=True) as transaction:
                turns = read_counter(transaction, self._about, b"turns")
                write_counter(transaction, self._about, b"turns", turns + 1)
            with self._environment.begin(write=True) as transaction:
                return [_outcome(write, transaction) for write in group]


def _outcome(write: _Write[Any], transaction: Transaction) -> Any:  # noqa: ANN401 - or its error
    try:
        return write.apply(transaction)
    except E2RankError as error:
        return error
