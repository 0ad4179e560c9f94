"""Keys of the LMDB document store, and what it keeps of each namespace."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from struct import Struct
from typing import TypeAlias

import lmdb

from e2rank_server.errors import DataLossError

Transaction: TypeAlias = "lmdb.Transaction[bytes]"

_COUNTER_BYTES = 8
_PREFIX_BYTES = 16
_CHECKSUM_BYTES = 8
_COUNTS = Struct("<QQQ")
# LMDB's keys have at most 511 bytes.
_MAX_VERBATIM_BYTES = 400


@dataclass(slots=True)
class NamespaceRecord:
    """A namespace's own record."""

    name: str
    epoch: int = 0
    documents: int = 0
    stored_bytes: int = 0

    @property
    def prefix(self) -> bytes:
        """What the keys of its documents begin with; another one in each epoch."""
        epoch = self.epoch.to_bytes(_COUNTER_BYTES, "little")
        return blake2b(epoch + self.name.encode(), digest_size=_PREFIX_BYTES).digest()

    def encode(self) -> bytes:
        """Return the bytes to keep."""
        counts = _COUNTS.pack(self.epoch, self.documents, self.stored_bytes)
        content = counts + self.name.encode()
        return content + _checksum(content)

    @classmethod
    def decode(cls, value: bytes) -> NamespaceRecord:
        """Read what `encode` returned.

        Raises:
            DataLossError: it is something else.
        """
        content = value[:-_CHECKSUM_BYTES]
        name = content[_COUNTS.size :].decode(errors="replace")
        if _checksum(content) != value[-_CHECKSUM_BYTES:]:
            raise DataLossError(name, None)
        return cls(name, *_COUNTS.unpack_from(content))


def document_key(prefix: bytes, document_id: str) -> bytes:
    """Return the key of a document in the namespace of `prefix`."""
    return prefix + _verbatim_or_hashed(document_id.encode())


def name_key(namespace: str) -> bytes:
    """Return the key of a namespace's own record."""
    return _verbatim_or_hashed(namespace.encode())


def read_counter(transaction: Transaction, database: lmdb._Database, name: bytes) -> int:
    """Return a number that is kept under `name`; 0 if there is none."""
    return int.from_bytes(transaction.get(name, b"", db=database), "little")


def write_counter(
    transaction: Transaction, database: lmdb._Database, name: bytes, value: int
) -> None:
    """Keep a number under `name`."""
    transaction.put(name, value.to_bytes(_COUNTER_BYTES, "little"), db=database)


def _verbatim_or_hashed(name: bytes) -> bytes:
    """Return at most `_MAX_VERBATIM_BYTES` + 1 bytes that are different for each name.

    Names as they are keep documents that are put together together on disk.
    """
    if len(name) <= _MAX_VERBATIM_BYTES:
        return b"\0" + name
    return b"\1" + blake2b(name, digest_size=32).digest()


def _checksum(content: bytes) -> bytes:
    return blake2b(content, digest_size=_CHECKSUM_BYTES).digest()
