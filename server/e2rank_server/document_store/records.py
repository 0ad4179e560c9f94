"""How a document is written down, the same in every store.

    head    format 1 | digest 16 | checksum of title and text 8 | checksum of the head 8
    record  head | length of the title 4, all ones for none | title | text

Stores keep the record and, apart from it, a copy of the head: most by-id
requests need only the digest. Integers are little-endian. Checksums are
BLAKE2b over namespace and id, too, so that bytes are believed only where they
were put.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from e2rank_server.document_store.protocol import StoredDocument
from e2rank_server.errors import DataLossError

_FORMAT = b"\x01"
_DIGEST_BYTES = 16
_CHECKSUM_BYTES = 8
_LENGTH_BYTES = 4
_NO_TITLE = 2 ** (8 * _LENGTH_BYTES) - 1
_TEXT_CHECKSUM_AT = len(_FORMAT) + _DIGEST_BYTES
_HEAD_CHECKSUM_AT = _TEXT_CHECKSUM_AT + _CHECKSUM_BYTES
HEAD_BYTES = _HEAD_CHECKSUM_AT + _CHECKSUM_BYTES

DOCUMENT_OVERHEAD_BYTES = 128
"""What `stored_bytes` counts for a document beside its id, title and text: about what either
store's index takes."""

UNCOUNTED_BYTES = DOCUMENT_OVERHEAD_BYTES - HEAD_BYTES - _LENGTH_BYTES
"""What `stored_bytes` adds to the lengths of id and record."""


class RecordCodec:
    """Writes and reads the records of one namespace."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        name = namespace.encode()
        name = len(name).to_bytes(_LENGTH_BYTES, "little") + name
        # The hash of what all have in common, to go on from.
        self._head_hash = blake2b(name, digest_size=_CHECKSUM_BYTES, person=b"head")
        self._text_hash = blake2b(name, digest_size=_CHECKSUM_BYTES, person=b"text")

    def encode(self, document: StoredDocument) -> bytes:
        """Return the record of a document; its first `HEAD_BYTES` are its head."""
        title = None if document.title is None else document.title.encode()
        title_bytes = _NO_TITLE if title is None else len(title)
        content = b"".join(
            (title_bytes.to_bytes(_LENGTH_BYTES, "little"), title or b"", document.text.encode())
        )
        if len(document.digest) != _DIGEST_BYTES:
            raise ValueError(f"a digest has {_DIGEST_BYTES} bytes, not {len(document.digest)}")
        head = _FORMAT + document.digest + _checksum(self._text_hash, document.id, content)
        return b"".join((head, _checksum(self._head_hash, document.id, head), content))

    def decode(self, document_id: str, record: bytes) -> StoredDocument:
        """Return the document whose record this is.

        Raises:
            DataLossError: it is not what was put.
        """
        digest = self.decode_head(document_id, record[:HEAD_BYTES])
        content = record[HEAD_BYTES:]
        stated = record[_TEXT_CHECKSUM_AT:_HEAD_CHECKSUM_AT]
        if _checksum(self._text_hash, document_id, content) != stated:
            raise DataLossError(self._namespace, document_id)
        title_bytes = int.from_bytes(content[:_LENGTH_BYTES], "little")
        title = None
        text_at = _LENGTH_BYTES
        if title_bytes != _NO_TITLE:
            text_at += title_bytes
            title = content[_LENGTH_BYTES:text_at].decode()
        return StoredDocument(document_id, content[text_at:].decode(), title, digest)

    def decode_head(self, document_id: str, head: bytes) -> bytes:
        """Return the digest in the head of a document's record.

        Raises:
            DataLossError: it is not what was put.
        """
        covered = head[:_HEAD_CHECKSUM_AT]
        stated = head[_HEAD_CHECKSUM_AT:]
        if stated != _checksum(self._head_hash, document_id, covered) or head[:1] != _FORMAT:
            raise DataLossError(self._namespace, document_id)
        return covered[len(_FORMAT) : _TEXT_CHECKSUM_AT]


def encode_records(namespace: str, documents: Sequence[StoredDocument]) -> dict[str, bytes]:
    """Return the records of documents by their ids; takes tens of ms for tens of MB."""
    codec = RecordCodec(namespace)
    return {document.id: codec.encode(document) for document in documents}


def stored_bytes(document_id: str, record_length: int) -> int:
    """Return what a document counts towards its namespace's `stored_bytes`.

    Taken from the length alone, so that a damaged record can still be replaced
    and deleted with the statistics right.
    """
    return len(document_id.encode()) + record_length + UNCOUNTED_BYTES


def _checksum(namespace_hash: blake2b, document_id: str, content: bytes) -> bytes:
    name = document_id.encode()
    hasher = namespace_hash.copy()
    hasher.update(len(name).to_bytes(_LENGTH_BYTES, "little") + name)
    hasher.update(content)
    return hasher.digest()
