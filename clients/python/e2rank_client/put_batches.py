"""The documents of a file, in batches that a server takes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from e2rank_client.document_file import DocumentFileError, read_stored_document
from e2rank_client.errors import FieldViolation, InvalidRequestError
from e2rank_client.file_lines import FileLines
from e2rank_client.put_resume import Acknowledged
from e2rank_client.types import ModelLimits, StoredDocument

# Tags and lengths of a document, and the request's own fields, beside its texts.
_DOCUMENT_OVERHEAD_BYTES = 32
_REQUEST_OVERHEAD_BYTES = 4096
_DOCUMENT_PATH = re.compile(r"\bdocuments\[(\d+)\]\.?")


@dataclass(slots=True)
class Batch:
    """Documents by their ids, and the lines that they are from, in the same order."""

    documents: dict[str, StoredDocument] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    num_bytes: int = _REQUEST_OVERHEAD_BYTES
    num_superseded: int = 0
    end: Acknowledged | None = None
    position_bytes: int = 0
    is_stored: bool = False

    def place(self, error: InvalidRequestError) -> InvalidRequestError:
        """Return the error with documents named by their lines."""
        violations = tuple(
            FieldViolation(self._to_lines(violation.field), violation.description)
            for violation in error.violations
        )
        message = self._to_lines(error.call.message)
        return type(error)(dataclasses.replace(error.call, message=message, violations=violations))

    def _to_lines(self, text: str) -> str:
        lines = list(self.lines.values())

        def to_line(found: re.Match[str]) -> str:
            index = int(found[1])
            return f"line {lines[index]}: " if index < len(lines) else found[0]

        return _DOCUMENT_PATH.sub(to_line, text)


class Batches:
    """Reads a file once, in bounded memory; `num_blank` is how many documents it left out.

    Args:
        lines: Of the file.
        limits: The server's.
        batch_size: Most documents in a batch.
        skip_blank: Leave documents without a text out.
    """

    def __init__(
        self, lines: FileLines, limits: ModelLimits, *, batch_size: int, skip_blank: bool
    ) -> None:
        self.num_blank = 0
        self._lines = lines
        self._limits = limits
        self._max_documents = max(1, min(batch_size, limits.max_documents_per_request))
        self._skip_blank = skip_blank

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches; those before a line that is no document come before its error.

        Raises:
            DocumentFileError: naming the line.
        """
        batch = Batch()
        try:
            for number, line in self._lines:
                if not line.strip():
                    continue
                document = read_stored_document(number, line)
                if self._skip_blank and not document.text.strip():
                    self.num_blank += 1
                    continue
                size = self._size_bytes(number, document)
                if self._is_full(batch, document, size):
                    yield batch
                    batch = Batch()
                self._add(batch, number, document, size)
        except DocumentFileError:
            if batch.documents:
                yield batch
            raise
        if batch.documents:
            yield batch

    def _is_full(self, batch: Batch, document: StoredDocument, size: int) -> bool:
        if not batch.documents:
            return False
        is_one_more = document.id not in batch.documents
        return (is_one_more and len(batch.documents) == self._max_documents) or (
            batch.num_bytes + size > self._limits.max_request_bytes
        )

    def _add(self, batch: Batch, number: int, document: StoredDocument, size: int) -> None:
        if batch.documents.pop(document.id, None):
            # The server refuses an id twice in a call.
            del batch.lines[document.id]
            batch.num_superseded += 1
        batch.documents[document.id] = document
        batch.lines[document.id] = number
        batch.num_bytes += size
        batch.end = Acknowledged(self._lines.mark(), document.id)
        batch.position_bytes = self._lines.position_bytes

    def _size_bytes(self, number: int, document: StoredDocument) -> int:
        try:
            num_id = len(document.id.encode())
            num_text = len(document.text.encode()) + len((document.title or "").encode())
        except UnicodeEncodeError as error:
            # JSON can escape what UTF-8, and so the wire, cannot have.
            raise DocumentFileError(
                f"line {number}: has half of a surrogate pair, which is no character"
            ) from error
        # A request of this document alone might exceed what grpc takes, without a word of why.
        if num_text > self._limits.max_document_bytes > 0:
            raise DocumentFileError(
                f"line {number}: text: has {num_text} bytes with its title, more than the "
                f"server's limit of {self._limits.max_document_bytes}"
            )
        return num_id + num_text + _DOCUMENT_OVERHEAD_BYTES
