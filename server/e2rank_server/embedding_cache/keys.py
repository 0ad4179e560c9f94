"""Keys of the embedding cache.

A key joins three BLAKE2b hashes, each keyed with the deployment's secret and
over length-prefixed parts: of the namespace and its epoch (128 bits), of the
model's fingerprint (64 bits) and of the document's title and text (128 bits).
The first makes a namespace a range of keys, which can be deleted; the last is
what the document store keeps, so that a document named by id needs no hashing.
Length prefixes make the parts unambiguous ("ab", "c" is not "a", "bc"); the
secret keeps a caller who can choose texts from searching for collisions with
somebody else's. It is the text that is hashed, not its token ids, so that a
hit costs no tokenization.
"""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from e2rank_server.errors import ConfigurationError

TAG_BYTES = 16
DIGEST_BYTES = 16
_MODEL_BYTES = 8
KEY_BYTES = TAG_BYTES + _MODEL_BYTES + DIGEST_BYTES
SECRET_BYTES = 32
_LENGTH_BYTES = 8


def namespace_tag(secret: bytes, namespace: str, epoch: int) -> bytes:
    """Return the first `TAG_BYTES` of all keys of a namespace in one epoch."""
    return _hash(secret, b"namespace", TAG_BYTES, namespace.encode(), str(epoch).encode())


class TextHasher:
    """Names documents' texts, a hundred a request: what all have in common is hashed once."""

    def __init__(self, secret: bytes) -> None:
        self._titled = _empty_hash(secret, b"text", DIGEST_BYTES)
        self._untitled = self._titled.copy()
        self._untitled.update(bytes(_LENGTH_BYTES))

    def digest(self, title: str | None, text: str) -> bytes:
        """Return what names a text in all namespaces and models, `DIGEST_BYTES`."""
        if title:
            first = title.encode()
            hasher = self._titled.copy()
            # The title's length tells where the text begins.
            hasher.update(len(first).to_bytes(_LENGTH_BYTES, "little") + first)
        else:
            hasher = self._untitled.copy()
        hasher.update(text.encode())
        return hasher.digest()


def text_digest(secret: bytes, title: str | None, text: str) -> bytes:
    """Return `TextHasher.digest` of one text."""
    return TextHasher(secret).digest(title, text)


def cache_keys(
    tag: bytes, secret: bytes, fingerprint: str, digests: Iterable[bytes]
) -> list[bytes]:
    """Return the key of each document, given its namespace's tag and its text's digest."""
    prefix = tag + _hash(secret, b"model", _MODEL_BYTES, fingerprint.encode())
    return [prefix + digest for digest in digests]


def _hash(secret: bytes, purpose: bytes, num_bytes: int, *parts: bytes) -> bytes:
    hasher = _empty_hash(secret, purpose, num_bytes).copy()
    for part in parts:
        hasher.update(len(part).to_bytes(_LENGTH_BYTES, "little"))
        hasher.update(part)
    return hasher.digest()


@functools.lru_cache(maxsize=16)
def _empty_hash(secret: bytes, purpose: bytes, num_bytes: int) -> blake2b:
    """Return a hash that has taken in the key, which costs as much as 128 bytes of text."""
    return blake2b(key=secret, digest_size=num_bytes, person=purpose)


def load_or_create_secret(file: Path) -> bytes:
    """Return the secret in `file`, made on first use and readable by its owner alone.

    Safe when several processes start at once: all get the one that was linked first.

    Raises:
        ConfigurationError: the file holds something else, or cannot be read or made.
    """
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_name(f"{file.name}.{os.getpid()}")
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(secrets.token_bytes(SECRET_BYTES))
                stream.flush()
                os.fsync(stream.fileno())
            try:
                os.link(draft, file)
            except FileExistsError:
                pass  # another process was first; its secret counts
            finally:
                draft.unlink()
        secret = file.read_bytes()
    except OSError as error:
        raise ConfigurationError([f"cache secret {file}: {error.strerror}"]) from error
    if len(secret) != SECRET_BYTES:
        raise ConfigurationError(
            [f"cache secret {file}: {len(secret)} bytes, expected {SECRET_BYTES}"]
        )
    return secret
