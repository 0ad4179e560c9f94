"""A server of one's own: started as a subprocess, stopped with everything that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

START_TIMEOUT_SECONDS = 600.0
"""Preparing a model for the first time and starting its engine take minutes on a slow machine."""

_STOP_TIMEOUT_SECONDS = 30.0
_POLL_SECONDS = 0.2
_SHOWN_LOG_LINES = 30


class ServerStartError(Exception):
    """The server ended, or did not answer in time; the message ends with its last log lines."""


def _ignore(last_log_line: str) -> None:
    """Report no progress."""


@contextlib.contextmanager
def local_server(
    arguments: Sequence[str] = (),
    *,
    on_progress: Callable[[str], None] = _ignore,
    timeout_seconds: float = START_TIMEOUT_SECONDS,
) -> Iterator[str]:
    """Run `python -m e2rank_server` on a free port while the block runs; yield its address.

    Args:
        arguments: Further flags of the server.
        on_progress: Called several times a second until the server answers, with the
            last line of its log.
        timeout_seconds: How long it may take until it answers.

    Raises:
        ServerStartError: It did not start.
    """
    with tempfile.TemporaryDirectory(prefix="e2rank-") as name:
        folder = Path(name)
        log, address_file = folder / "server.log", folder / "address"
        command = [sys.executable, "-m", "e2rank_server", "--listen", "127.0.0.1:0"]
        command += ["--address-file", str(address_file), *arguments]
        with log.open("wb") as output:
            # A session of its own: Ctrl-C reaches this process alone, which then stops the
            # server in order, and whatever a crashed server left behind can be found.
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            with _termination_as_exit():
                yield _wait_for_address(process, address_file, log, on_progress, timeout_seconds)
        finally:
            stop_session(process, _STOP_TIMEOUT_SECONDS)


@contextlib.contextmanager
def _termination_as_exit() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that it, too, stops the server.

    Only a process's main thread can; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _wait_for_address(
    process: subprocess.Popen[bytes],
    address_file: Path,
    log: Path,
    on_progress: Callable[[str], None],
    timeout_seconds: float,
) -> str:
    end = time.monotonic() + timeout_seconds
    while not (address := _read_address(address_file)):
        if process.poll() is not None:
            raise ServerStartError(
                f"the server ended with code {process.returncode}:\n{_tail(log)}"
            )
        if time.monotonic() > end:
            raise ServerStartError(
                f"the server did not answer within {timeout_seconds:g} s:\n{_tail(log)}"
            )
        on_progress(_tail(log, 1))
        time.sleep(_POLL_SECONDS)
    return address


def _read_address(file: Path) -> str:
    return file.read_text().strip() if file.exists() else ""


def _tail(log: Path, lines: int = _SHOWN_LOG_LINES) -> str:
    return "\n".join(log.read_text(errors="replace").rstrip().splitlines()[-lines:])


def stop_session(process: subprocess.Popen[bytes], timeout_seconds: float) -> None:
    """Let a process that leads a session end by itself, then kill what is left of the session."""
    try:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout_seconds)
    finally:  # also when a second Ctrl-C cuts the wait short
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
