"""The LMDB files of an embedding cache on disk, and who may change which of them exist."""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import lmdb

from e2rank_server.errors import ConfigurationError
from e2rank_server.lmdb_lock import allocate_lock_file

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
NUM_SEGMENTS = 4
MIN_BYTES = 4 << 20

_FORMAT_KEY = b"format"
_FILE_NAME = re.compile(r"segment-(\d{10})\.lmdb")

# What LMDB raises about a file that is not as it left it.
CORRUPTION = (
    lmdb.BadTxnError,
    lmdb.CorruptedError,
    lmdb.CursorFullError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.PageFullError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
)
# And about one that says of itself that it is larger than can be.
_CORRUPTION_ON_OPENING = (*CORRUPTION, lmdb.MapResizedError, lmdb.MemoryError)


@dataclass(slots=True, eq=False)
class Segment:
    """An open file: `values` maps keys to values."""

    number: int
    path: Path
    inode: int
    env: lmdb.Environment
    values: lmdb._Database
    is_corrupt: bool = field(default=False)
    """Set by who finds it out; readers pass it over until it is moved aside."""


class SegmentFolder:
    """A folder of numbered segments, each of at most a quarter of `max_bytes`.

    Several processes may have it open, each once, and with the same `max_bytes`.
    A file lock is held while files are listed, opened, made and removed; the
    values in them need none beyond LMDB's own. All methods block, and are for
    one thread at a time; `segments` may be read by any.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Open what is there.

        Raises:
            ConfigurationError: the folder cannot be used, is in use by this process,
                has a newer format, or `max_bytes` is too small.
        """
        if max_bytes < MIN_BYTES:
            raise ConfigurationError(
                [f"embedding cache {folder}: {max_bytes} bytes, expected at least {MIN_BYTES}"]
            )
        self._folder = folder
        self._max_bytes = max_bytes
        self._listed_mtime_ns = -1
        self.segment_bytes = max_bytes // NUM_SEGMENTS // 4096 * 4096
        self.segments: tuple[Segment, ...] = ()
        """Newest first."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.refresh()
        except OSError as error:
            raise ConfigurationError([f"embedding cache {folder}: {error.strerror}"]) from error
        except lmdb.Error as error:
            raise ConfigurationError([f"embedding cache {folder}: {error}"]) from error

    def is_stale(self) -> bool:
        """Return whether files came or went since they were listed."""
        return self._folder.stat().st_mtime_ns != self._listed_mtime_ns

    def refresh(self) -> None:
        """List the files anew if any came or went."""
        if self.is_stale():
            with self._locked():
                self._list()

    def newest(self) -> Segment:
        """Return the segment to write into."""
        self.refresh()
        return self.segments[0] if self.segments else self.begin_segment(None)

    def begin_segment(self, full: Segment | None) -> Segment:
        """Return a segment newer than `full`, removing the oldest ones to make room for it.

        If another process has begun one by now, it is that one.
        """
        with self._locked():
            self._list()
            if self.segments and self.segments[0] is not full:
                return self.segments[0]
            number = self.segments[0].number + 1 if self.segments else 1
            while self._has_no_room():
                self._remove(self.segments[-1])
            path = self._folder / f"segment-{number:010d}.lmdb"
            try:
                begun = self._open(number, path)
            except (OSError, lmdb.Error):
                _unlink(path)  # what there is of it, on a full disk
                raise
            self.segments = (begun, *self.segments)
            self._list()
            return begun

    def remove(self, segment: Segment) -> None:
        """Remove a segment with all that is in it."""
        with self._locked():
            self._remove(segment)
            self._list()

    def move_aside(self, segment: Segment, reason: str) -> None:
        """Take a corrupt segment out of use; the last one is kept to be looked at."""
        segment.is_corrupt = True
        with self._locked():
            if segment.path.exists() and segment.path.stat().st_ino == segment.inode:
                self._move_aside(segment.path, reason)
            self._list()

    def reopen(self, segment: Segment) -> None:
        """Open a segment anew, after an error that only that gets it out of."""
        with self._locked():
            self.segments = tuple(each for each in self.segments if each is not segment)
            segment.env.close()
            self._list()

    def close(self) -> None:
        """Sync and close all segments."""
        for segment in self.segments:
            with suppress(lmdb.Error):  # it is a cache, and there is nobody left to tell
                segment.env.sync(force=True)
            segment.env.close()
        self.segments = ()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            # A child forked meanwhile has a copy of the descriptor, so closing is not enough.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _list(self) -> None:
        """Bring `segments` up to date with the folder."""
        mtime_ns = self._folder.stat().st_mtime_ns
        is_open = {segment.inode: segment for segment in self.segments}
        found: dict[int, Segment] = {}
        for path in list(self._folder.iterdir()):
            if match := _FILE_NAME.fullmatch(path.name):
                number = int(match[1])
                try:
                    found[number] = is_open.get(path.stat().st_ino) or self._open(number, path)
                except _CORRUPTION_ON_OPENING as error:
                    self._move_aside(path, str(error))
        # Segments that are gone close when the last reader lets go of them.
        self.segments = tuple(found[number] for number in sorted(found, reverse=True))
        self._listed_mtime_ns = mtime_ns

    def _open(self, number: int, path: Path) -> Segment:
        """Open a segment, made if it does not exist."""
        allocate_lock_file(_lock_file(path))
        env = lmdb.open(
            str(path),
            map_size=self.segment_bytes,
            subdir=False,
            mode=0o600,
            metasync=False,
            readahead=False,
            max_dbs=1,
            max_spare_txns=1,
            lib_version=0,
        )
        try:
            _fill_up(path, env, self.segment_bytes)
            env.reader_check()
            return Segment(number, path, path.stat().st_ino, env, _values(env, path))
        except BaseException:
            env.close()
            raise

    def _move_aside(self, path: Path, reason: str) -> None:
        aside = self._folder / "corrupt.lmdb"
        path.replace(aside)
        _lock_file(path).unlink(missing_ok=True)
        logger.error(
            "embedding cache: %s is corrupt (%s); moved to %s, its entries are lost",
            path,
            reason,
            aside,
        )

    def _remove(self, segment: Segment) -> None:
        _unlink(segment.path)
        self.segments = tuple(each for each in self.segments if each is not segment)

    def _has_no_room(self) -> bool:
        """Return whether a segment must go before another is begun."""
        stored = sum(segment.path.stat().st_size for segment in self.segments)
        is_over = stored + self.segment_bytes > self._max_bytes
        return len(self.segments) >= NUM_SEGMENTS or (is_over and bool(self.segments))


def _lock_file(path: Path) -> Path:
    return path.with_name(path.name + "-lock")


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
    _lock_file(path).unlink(missing_ok=True)


def _fill_up(path: Path, env: lmdb.Environment, max_missing_bytes: int) -> None:
    """Give a file that was cut short its length back.

    Reading a mapped page beyond the end of its file kills the process; a page
    of zeros is refused as corrupt. A file can also be short without harm, by
    pages that were never used.
    """
    size = path.stat().st_size
    length = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if length > size + max_missing_bytes:
        raise lmdb.CorruptedError(f"{length} bytes by its own account, {size} on disk")
    if length > size:
        os.truncate(path, length)


def _values(env: lmdb.Environment, path: Path) -> lmdb._Database:
    """Return the database of values, made in a new file.

    Raises:
        ConfigurationError: the format is newer than this server's.
        lmdb.Error: the file is not a segment.
    """
    with env.begin(write=True) as txn:
        stored = txn.get(_FORMAT_KEY)
        if stored is None and txn.stat()["entries"] == 0:
            stored = b"%d" % FORMAT_VERSION
            txn.put(_FORMAT_KEY, stored)
        if stored is None or not stored.isdigit() or int(stored) < FORMAT_VERSION:
            raise lmdb.InvalidError(f"format {stored!r}")
        if int(stored) > FORMAT_VERSION:
            raise ConfigurationError(
                [
                    f"embedding cache {path}: format {int(stored)} is newer than {FORMAT_VERSION}, "
                    "the newest that this server reads; move it away or use a newer server"
                ]
            )
        return env.open_db(b"values", txn=txn)
