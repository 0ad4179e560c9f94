"""The lock file that LMDB keeps beside its data."""

from __future__ import annotations

import os
from pathlib import Path

_LOCK_FILE_BYTES = 1 << 17
"""More than room for a thousand readers of 64 bytes each."""


def allocate_lock_file(lock_file: Path) -> None:
    """Give a lock file its disk before it is mapped.

    LMDB makes it with a hole, and writing into a mapped hole when the disk is
    full kills the process.

    Raises:
        OSError: the disk is full, or the file cannot be made.
    """
    descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _LOCK_FILE_BYTES)
    finally:
        os.close(descriptor)
