"""Children that are kept running, and an address that several share."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest

from e2rank_server import app
from e2rank_server.app import PARENT_PID_VARIABLE
from e2rank_server.errors import ConfigurationError
from e2rank_server.processes import ManagedProcess, _exists, _reserved

# Writes its process id, whole, and waits to be told to end.
_LIVES = """
import os, sys, time
from pathlib import Path
draft = Path(sys.argv[1] + ".draft")
draft.write_text(str(os.getpid()))
draft.rename(sys.argv[1])
time.sleep(600)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pid"


async def started(file: Path) -> ManagedProcess:
    child = ManagedProcess("child", [sys.executable, "-c", _LIVES, str(file)])
    await child.start()
    await child.wait_until(_exists(file))
    return child


async def next_pid(file: Path) -> int:
    while not file.exists():  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.01)
    return int(file.read_text())


async def test_a_child_that_is_killed_is_started_again_until_it_is_stopped(file: Path) -> None:
    child = await started(file)
    first = await next_pid(file)
    file.unlink()
    os.kill(first, signal.SIGKILL)
    second = await next_pid(file)
    assert second != first
    await child.stop(10)
    assert not psutil.pid_exists(second)


async def test_a_child_that_ends_before_it_is_ready_fails_the_start(file: Path) -> None:
    child = ManagedProcess("the child", [sys.executable, "-c", "raise SystemExit(7)"])
    await child.start()
    with pytest.raises(ConfigurationError, match="the child ended with code 7 while starting"):
        await child.wait_until(_exists(file))
    await child.stop(10)


async def test_a_child_that_will_not_end_is_killed(file: Path) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + _LIVES
    child = ManagedProcess("child", [sys.executable, "-c", deaf, str(file)])
    await child.start()
    await child.wait_until(_exists(file))
    await child.stop(0.05)
    assert not psutil.pid_exists(await next_pid(file))


async def test_children_know_whom_to_end_with(file: Path) -> None:
    child = await started(file)
    environ = psutil.Process(await next_pid(file)).environ()
    assert environ[PARENT_PID_VARIABLE] == str(os.getpid())
    await child.stop(10)


async def test_a_server_stops_when_the_process_it_is_to_end_with_ends() -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=-1)
    stop = asyncio.Event()
    app._stop_with(parent.pid, stop)
    await asyncio.sleep(0)
    assert not stop.is_set()
    parent.kill()
    await asyncio.wait_for(stop.wait(), 10)
    await parent.wait()
    stop.clear()
    app._stop_with(parent.pid, stop)  # it is gone already
    assert stop.is_set()


def listener(address: str) -> socket.socket:
    host, port = address.split(":")
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind((host, int(port)))
    server.listen()
    return server


def test_a_reserved_address_is_free_for_those_who_share_it_and_for_nobody_else() -> None:
    with _reserved("127.0.0.1:0") as address:
        assert not address.endswith(":0")
        with pytest.raises(ConfigurationError, match="in use"):
            app.check_address(address, reuse_port=False)
        with listener(address), listener(address):
            app.check_address(address, reuse_port=True)
