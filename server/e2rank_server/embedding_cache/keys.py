"""Keys of the embedding cache.

A key is a BLAKE2b hash, 128 bits, keyed with the deployment's secret, over the
length-prefixed parts (fingerprint, namespace, namespace epoch, document text).
Length prefixes make the parts unambiguous ("ab", "c" is not "a", "bc"); the
secret keeps a caller who can choose texts from searching for collisions with
somebody else's. It is the text that is hashed, not its token ids, so that a
hit costs no tokenization.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from e2rank_server.errors import ConfigurationError

KEY_BYTES = 16
SECRET_BYTES = 32
_LENGTH_BYTES = 8


def cache_keys(
    secret: bytes, fingerprint: str, namespace: str, epoch: int, texts: Iterable[str]
) -> list[bytes]:
    """Return the key of each document text, `KEY_BYTES` each."""
    prefix = blake2b(key=secret, digest_size=KEY_BYTES)
    for part in (fingerprint.encode(), namespace.encode(), epoch.to_bytes(_LENGTH_BYTES, "little")):
        prefix.update(len(part).to_bytes(_LENGTH_BYTES, "little"))
        prefix.update(part)
    keys = []
    for text in texts:
        encoded = text.encode()
        key = prefix.copy()
        key.update(len(encoded).to_bytes(_LENGTH_BYTES, "little"))
        key.update(encoded)
        keys.append(key.digest())
    return keys


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
