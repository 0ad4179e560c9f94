"""Processes of other projects' servers: started, waited for, and stopped with all they started."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.overhead.processes import family
from e2rank_client.local_server import stop_session

START_TIMEOUT_SECONDS = 600.0
_STOP_TIMEOUT_SECONDS = 15.0
_POLL_SECONDS = 0.2
_ANSWER_TIMEOUT_SECONDS = 5.0
_SHOWN_LOG_LINES = 30


class PeerError(Exception):
    """A peer did not start, or answered wrongly; the message says which, and why."""


@dataclass(frozen=True, slots=True)
class PeerCommand:
    """How a peer is started: a program and variables added to its environment.

    `is_ready` is the path at which it answers 200 once it serves.
    """

    name: str
    arguments: Sequence[str]
    variables: Mapping[str, str]
    port: int
    is_ready: str = "/health"

    def line(self, names: Mapping[str, str]) -> str:
        """Return it as a line for a shell, with `names` in place of what a machine calls them."""
        words = [f"{name}={shlex.quote(value)}" for name, value in self.variables.items()]
        for word in self.arguments:
            shown = "PORT" if word == str(self.port) else word
            for found, name in names.items():
                shown = shown.replace(found, name)
            words.append(shlex.quote(shown))
        return " ".join(words)


class RunningPeer:
    """A peer's process; it may not answer yet."""

    def __init__(self, command: PeerCommand, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = command.name
        self.url = f"http://127.0.0.1:{command.port}"
        self._ready_url = self.url + command.is_ready
        self._process = process
        self._log = log

    def wait_until_ready(
        self,
        on_progress: Callable[[str], None] = lambda _: None,
        timeout_seconds: float = START_TIMEOUT_SECONDS,
    ) -> None:
        """Return once it answers; `on_progress` gets the last line of its log meanwhile.

        Raises:
            PeerError: It ended, or did not answer in time; with the end of its log.
        """
        end = time.monotonic() + timeout_seconds
        while not self._answers():
            if (code := self._process.poll()) is not None:
                raise self.failure(f"ended with code {code}")
            if time.monotonic() > end:
                raise self.failure(f"did not answer within {timeout_seconds:g} s")
            on_progress(self.log_tail(1))
            time.sleep(_POLL_SECONDS)

    def processes(self) -> list[psutil.Process]:
        """Return its process and all below it."""
        return family(psutil.Process(self._process.pid))

    def failure(self, what: str) -> PeerError:
        """Make an error of something that it did, with the end of its log."""
        return PeerError(f"{self.name} {what}; leave it out with --peers.\n{self.log_tail()}")

    def log_tail(self, lines: int = _SHOWN_LOG_LINES) -> str:
        """Return the last lines of what it printed."""
        return "\n".join(self._log.read_text(errors="replace").rstrip().splitlines()[-lines:])

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self._ready_url, timeout=_ANSWER_TIMEOUT_SECONDS) as answer:  # noqa: S310 - http, made here
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False


@contextlib.contextmanager
def running_peer(command: PeerCommand) -> Iterator[RunningPeer]:
    """Run a peer while the block runs; it is started, not waited for.

    It has a session of its own, all of which is killed at the end.

    Raises:
        PeerError: It is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="e2rank-peer-") as name:
        log = Path(name) / "log"
        process = _start(command, log)
        try:
            yield RunningPeer(command, process, log)
        finally:
            stop_session(process, _STOP_TIMEOUT_SECONDS)


def _start(command: PeerCommand, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        try:
            return subprocess.Popen(
                command.arguments,
                env=os.environ | dict(command.variables),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise PeerError(
                f"{command.name} cannot be started ({error}): install it with "
                "`python3 deploy/setup.py bench peers`, or leave it out with --peers"
            ) from error


def free_port() -> int:
    """Return a port of this machine that nothing listens at now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
