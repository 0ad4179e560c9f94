"""The lines of a file, plain or gzip, and how far they were read."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from e2rank_client.document_file import DocumentFileError

MAX_LINE_BYTES = 64 << 20
"""Above what a server takes of a document, however its text is escaped in JSON."""

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a file's content: the bytes and lines before it, and a digest of them."""

    offset: int
    line: int
    digest: str


class FileLines:
    """Reads a file once, line by line, in bounded memory.

    Args:
        content: Its content, uncompressed.
        file: What lies on the disk, in which `position_bytes` is; None for a pipe.
        num_bytes: Its size; None for a pipe.
    """

    def __init__(self, content: BinaryIO, file: BinaryIO | None, num_bytes: int | None) -> None:
        self.num_bytes = num_bytes
        self._content = content
        self._file = file
        self._offset = 0
        self._line = 0
        self._hash = hashlib.blake2b(digest_size=_DIGEST_BYTES)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Yield the lines that are left, with their numbers from 1.

        Raises:
            DocumentFileError: The file cannot be read on, or a line is too long.
        """
        while line := self._read(self._content.readline, MAX_LINE_BYTES + 1):
            self._line += 1
            if len(line) > MAX_LINE_BYTES:
                raise DocumentFileError(
                    f"line {self._line}: longer than the limit of {MAX_LINE_BYTES} bytes"
                )
            yield self._line, line

    @property
    def position_bytes(self) -> int:
        """How far it was read, on the disk."""
        return self._file.tell() if self._file else self._offset

    def mark(self) -> Mark:
        """Return the place behind what was read."""
        return Mark(self._offset, self._line, self._hash.hexdigest())

    def skip_to(self, mark: Mark) -> bool:
        """Go to a place of an earlier reading; False, and at the beginning, if it has changed."""
        while self._offset < mark.offset and self._read(
            self._content.read, min(_CHUNK_BYTES, mark.offset - self._offset)
        ):
            pass
        if (self._offset, self._hash.hexdigest()) == (mark.offset, mark.digest):
            self._line = mark.line
            return True
        self.rewind()
        return False

    def rewind(self) -> None:
        """Begin again."""
        self._content.seek(0)
        self._offset = 0
        self._line = 0
        self._hash = hashlib.blake2b(digest_size=_DIGEST_BYTES)

    def _read(self, read: Callable[[int], bytes], max_bytes: int) -> bytes:
        try:
            data = read(max_bytes)
        except (OSError, EOFError, zlib.error) as error:
            message = f"cannot read on behind line {self._line}: {error}"
            raise DocumentFileError(message) from error
        self._offset += len(data)
        self._hash.update(data)
        return data


@contextlib.contextmanager
def open_lines(name: str) -> Iterator[FileLines]:
    """Open a file, whose first bytes say whether it is gzip; `-` is standard input.

    Raises:
        DocumentFileError: It cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        if name == "-":
            yield FileLines(_uncompressed(sys.stdin.buffer), None, None)
            return
        path = Path(name)
        try:
            file = stack.enter_context(path.open("rb"))
            num_bytes = path.stat().st_size
            content = _uncompressed(file)
        except OSError as error:
            raise DocumentFileError(f"cannot read {name}: {error.strerror}") from error
        yield FileLines(content, file, num_bytes)


def _uncompressed(file: Any) -> Any:  # noqa: ANN401 - typeshed has one type for no two of these
    is_gzip = file.peek(len(_GZIP_MAGIC)).startswith(_GZIP_MAGIC)
    return gzip.GzipFile(fileobj=file) if is_gzip else file
