"""The second tier on this machine's disk: LMDB, in the server's process."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import lmdb

from e2rank_server.embedding_cache.lmdb_segments import (
    CORRUPTION,
    NUM_SEGMENTS,
    Segment,
    SegmentFolder,
)
from e2rank_server.embedding_cache.protocol import Place
from e2rank_server.errors import ConfigurationError

A = TypeVar("A")
R = TypeVar("R")

logger = logging.getLogger(__name__)

# Read on the event loop without letting others run: some 150 us when warm and
# found in the newest segment, 500 us when in none of them.
_KEYS_A_STEP = 128
# Longer than a warm step takes; pages that take longer come from the disk.
_WARM_SECONDS = 0.002
# Bounds how long one commit, and so the wait for the write lock, takes.
_MAX_ENTRIES_A_COMMIT = 512
_DELETIONS_A_COMMIT = 256


@dataclass(frozen=True, slots=True)
class _Found:
    values: list[bytes | None]
    ageing: list[bytes]
    """Keys whose values were in the segment to be removed next."""


class LmdbTier:
    """Keeps values in a folder, in at most `max_bytes` of disk, across restarts.

    Of the disk about half is values, if these have 800 bytes.

    Entries are written into the newest of four segments, each an LMDB file.
    When it is full, a new one is begun and the oldest is removed: eviction is
    one `unlink`, gives its disk back at once and leaves no list of free pages to
    grow and be rewritten with every commit. An entry that is found in the
    oldest segment is written again, so what is asked for outlives what is not.
    Beside the segments there may be one that was found corrupt and moved aside.

    What survives what: a commit writes its pages, waits for the disk, then
    writes the root that makes them visible, without waiting (`metasync=False`).
    Whatever dies in between, root and pages on disk belong together; a killed
    process loses what it had not committed, a machine that loses power also the
    last commit. `sync=False` would be faster in the writer thread, which nobody
    waits for, but after a loss of power could leave a root whose pages were
    never written. A writable map (`writemap`) would turn a full disk into
    SIGBUS. LMDB pages have no checksum: the values bring their own, and what is
    not a page any more is refused. Against a disk that puts a whole page in
    another's place nothing helps: LMDB may end the process at the next write.

    Warm reads run on the event loop, where 100 take some 120 us: a thread answers
    in 180 us on an idle machine, but in seconds beside a busy event loop, since it
    has to win the interpreter lock back for each key. Reads that take longer
    than warm ones do (a page comes from the disk in 50 us to 1 ms, and the loop
    would wait for it) go on in a thread. Writing always is in one, and beside an
    event loop that is never idle gets through some tens of entries a second.

    Use it in the process that opens it: an LMDB file must not be used across a
    fork. Other processes may have the same folder open at the same time.
    """

    place = Place.DISK

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Open the folder; blocks.

        Raises:
            ConfigurationError: see `SegmentFolder`.
        """
        self._folder = SegmentFolder(folder, max_bytes)
        self._max_commit_bytes = self._folder.segment_bytes // 8
        self._writer = ThreadPoolExecutor(1, "embedding-cache-writer")
        self._reader = ThreadPoolExecutor(1, "embedding-cache-reader")
        self._upkeep: Future[None] | None = None
        self._last_error: Exception | None = None

    async def get(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """See `SecondTier.get`."""
        values: list[bytes | None] = []
        ageing: list[bytes] = []
        while len(values) < len(keys):
            step = keys[len(values) : len(values) + _KEYS_A_STEP]
            found = self._read(step, time.monotonic() + _WARM_SECONDS)
            if found is None:
                rest = keys[len(values) :]
                found = await self._in_thread(self._reader, self._read_all, rest)
            values += found.values
            ageing += found.ageing
            if len(values) < len(keys):
                await asyncio.sleep(0)
        if ageing or self._folder.is_stale():
            self._keep_up(ageing)
        return values

    async def put(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """See `SecondTier.put`."""
        await self._in_thread(self._writer, self._write, list(zip(keys, values, strict=True)))

    async def purge(self, namespace_tag: bytes) -> None:
        """See `SecondTier.purge`. Removes a segment whole if it has no room to delete in."""
        await self._in_thread(self._writer, self._delete, namespace_tag)

    async def check_health(self) -> None:
        """Raise if the folder is gone, or what the last attempt to write raised."""
        self._folder.is_stale()
        if self._last_error is not None:
            raise self._last_error

    async def close(self) -> None:
        """See `SecondTier.close`."""
        for executor in (self._reader, self._writer):
            await asyncio.to_thread(executor.shutdown)
        await asyncio.to_thread(self._folder.close)

    async def _in_thread(
        self, executor: ThreadPoolExecutor, work: Callable[[A], R], argument: A
    ) -> R:
        return await asyncio.get_running_loop().run_in_executor(executor, work, argument)

    def _read_all(self, keys: Sequence[bytes]) -> _Found:
        found = self._read(keys, math.inf)
        assert found is not None
        return found

    def _read(self, keys: Sequence[bytes], deadline: float) -> _Found | None:
        """Look in all segments, the newest first; None if that takes beyond `deadline`."""
        found = _Found([None] * len(keys), [])
        segments = self._folder.segments
        missing: Sequence[int] = range(len(keys))
        for segment in segments:
            if not missing:
                break
            if segment.is_corrupt:
                continue
            try:
                still_missing = _read_segment(segment, keys, missing, found.values, deadline)
            except CORRUPTION as error:
                logger.error("embedding cache: %s: %s", segment.path, error)
                segment.is_corrupt = True
                self._keep_up([])
                continue
            if still_missing is None:
                return None
            if segment.number == segments[0].number - NUM_SEGMENTS + 1:
                found.ageing.extend(keys[at] for at in set(missing).difference(still_missing))
            missing = still_missing
        return found

    def _keep_up(self, ageing: list[bytes]) -> None:
        """Have the writer put things in order that a look-up came across, unless it is at it."""
        if self._upkeep is None or self._upkeep.done():
            self._upkeep = self._writer.submit(self._put_in_order, ageing)

    def _put_in_order(self, ageing: list[bytes]) -> None:
        try:
            for segment in self._folder.segments:
                if segment.is_corrupt:
                    self._folder.move_aside(segment, "found while reading")
            self._folder.refresh()
            # Read again, since a purge may have come in between.
            values = self._read_all(ageing).values
            self._write(
                [
                    (key, value)
                    for key, value in zip(ageing, values, strict=True)
                    if value is not None
                ]
            )
        except (OSError, lmdb.Error, ConfigurationError) as error:
            self._last_error = error

    def _write(self, entries: list[tuple[bytes, bytes]]) -> None:
        try:
            for some in _batches(entries, self._max_commit_bytes):
                self._commit(some)
        except Exception as error:
            self._last_error = error
            raise
        self._last_error = None

    def _commit(self, entries: list[tuple[bytes, bytes]]) -> None:
        segment = self._folder.newest()
        try:
            _insert(segment, entries)
            return
        except lmdb.MapFullError:
            segment = self._folder.begin_segment(segment)
        except CORRUPTION as error:
            self._folder.move_aside(segment, str(error))
            segment = self._folder.newest()
        except (lmdb.PanicError, lmdb.MapResizedError):
            self._folder.reopen(segment)
            segment = self._folder.newest()
        _insert(segment, entries)

    def _delete(self, tag: bytes) -> None:
        self._folder.refresh()
        for segment in self._folder.segments:
            try:
                while _delete_some(segment, tag):
                    pass
                segment.env.sync(force=True)
            except lmdb.MapFullError:
                # Changed pages are copied, and there may be none left to copy to.
                self._folder.remove(segment)
            except CORRUPTION as error:
                self._folder.move_aside(segment, str(error))


def _read_segment(
    segment: Segment,
    keys: Sequence[bytes],
    missing: Sequence[int],
    values: list[bytes | None],
    deadline: float,
) -> list[int] | None:
    """Fill in the values of missing keys; return those still missing, None after `deadline`."""
    still_missing = []
    with segment.env.begin(db=segment.values) as txn:
        for at in missing:
            values[at] = txn.get(keys[at])
            if values[at] is None:
                still_missing.append(at)
            if time.monotonic() > deadline:
                return None
    return still_missing


def _insert(segment: Segment, entries: list[tuple[bytes, bytes]]) -> None:
    with segment.env.begin(write=True, db=segment.values) as txn:
        txn.cursor().putmulti(entries)


def _delete_some(segment: Segment, tag: bytes) -> bool:
    """Delete the next entries of a namespace; return whether there may be more."""
    with segment.env.begin(write=True, db=segment.values) as txn:
        cursor = txn.cursor()
        if not cursor.set_range(tag):
            return False
        for _ in range(_DELETIONS_A_COMMIT):
            if not cursor.key().startswith(tag):
                return False
            cursor.delete()
        return True


def _batches(
    entries: Sequence[tuple[bytes, bytes]], max_bytes: int
) -> Iterator[list[tuple[bytes, bytes]]]:
    """Split entries into what is committed at once."""
    batch: list[tuple[bytes, bytes]] = []
    num_bytes = 0
    for key, value in entries:
        num_bytes += len(key) + len(value)
        if batch and (num_bytes > max_bytes or len(batch) == _MAX_ENTRIES_A_COMMIT):
            yield batch
            batch, num_bytes = [], len(key) + len(value)
        batch.append((key, value))
    if batch:
        yield batch
