"""The guard ends whatever it started and leaves nothing; a shell stands for tritonserver."""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2rank_server.tokenizer.triton import guard

# Starts one child and never asks how it is, as Triton starts a stub: with the name of a file in
# /dev/shm that begins with the prefix ($0). Says in "$1/pids" who they are.
SERVER = (
    "cd /dev/shm; touch $0region; tail -f $0region & "
    "echo $$ $! >$1/new; mv $1/new $1/pids; exec sleep 600"
)


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


class Guarded:
    """A guard, started as the gateway starts it."""

    def __init__(self, folder: Path) -> None:
        self.prefix = f"{guard.PREFIX}test{secrets.token_hex(4)}"
        self.directory = folder / "directory"
        self.directory.mkdir()
        arguments = [self.prefix, str(self.directory), str(folder / "log")]
        command = ["/bin/sh", "-c", SERVER, self.prefix, str(self.directory)]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, *arguments, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        pids = self.directory / "pids"
        wait_until(pids.exists)
        self.server, self.stub = map(int, pids.read_text().split())

    def mark_ready(self) -> None:
        assert self.process.stdin
        self.process.stdin.write(b"ready\n")
        self.process.stdin.flush()

    def end(self) -> str:
        """Wait for its end and return the reason it gave."""
        assert self.process.stdout
        reason = self.process.stdout.read().decode()
        assert self.process.wait(10) == 0
        return reason

    def leftovers(self) -> list[object]:
        alive = [pid for pid in (self.server, self.stub) if not guard.has_ended(pid)]
        return [*alive, *guard.SHM.glob(f"*{self.prefix}*")]


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    started = Guarded(tmp_path)
    yield started
    if started.process.poll() is None:
        started.process.terminate()
        started.process.wait(10)
    assert started.process.stdin
    assert started.process.stdout
    started.process.stdin.close()
    started.process.stdout.close()


def test_closing_the_pipe_ends_everything_and_removes_the_directory(guarded: Guarded) -> None:
    assert guarded.process.stdin
    guarded.process.stdin.close()

    assert guarded.end() == "asked to stop"
    assert guarded.leftovers() == []
    assert not guarded.directory.exists()


def test_sigterm_kills_everything_and_leaves_the_directory(guarded: Guarded) -> None:
    guarded.process.terminate()

    assert guarded.end() == "killed as asked"
    assert guarded.leftovers() == []
    assert guarded.directory.exists()


def test_the_death_of_a_stub_is_the_end_of_all(guarded: Guarded) -> None:
    guarded.mark_ready()
    wait_until(lambda: _has_read(guarded))
    os.kill(guarded.stub, signal.SIGKILL)

    assert guarded.end() == f"its Python stub {guarded.stub} died"
    assert guarded.leftovers() == []


def test_the_death_of_the_server_is_the_end_of_its_stubs(guarded: Guarded) -> None:
    os.kill(guarded.server, signal.SIGKILL)

    assert guarded.end() == "tritonserver was killed by SIGKILL"
    assert guarded.leftovers() == []


def test_a_guard_that_is_killed_takes_the_server_along_and_the_next_one_sweeps(
    guarded: Guarded, tmp_path: Path
) -> None:
    guarded.process.kill()
    guarded.process.wait(10)
    wait_until(lambda: guard.has_ended(guarded.server))
    assert not guard.has_ended(guarded.stub)
    (tmp_path / "next").mkdir()

    following = Guarded(tmp_path / "next")

    wait_until(lambda: guarded.leftovers() == [])
    following.process.terminate()
    following.end()


def test_files_of_a_guard_that_lives_are_not_swept(guarded: Guarded) -> None:
    guard.sweep_ownerless()

    names = sorted(path.name for path in guard.SHM.glob(f"{guarded.prefix}*"))
    assert names == [f"{guarded.prefix}.lock", f"{guarded.prefix}region"]


def test_a_gateway_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    gateway = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
            "import test_triton_guard as t\n"
            "g = t.Guarded(Path(sys.argv[2])); g.mark_ready()\n"
            "print(g.prefix, g.process.pid, g.server, g.stub, flush=True); g.process.wait()",
            str(Path(__file__).parent),
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    with gateway:
        assert gateway.stdout
        prefix, *pids = gateway.stdout.readline().split()
        gateway.kill()

    wait_until(lambda: all(guard.has_ended(int(pid)) for pid in pids))
    assert list(guard.SHM.glob(f"*{prefix}*")) == []


def _has_read(guarded: Guarded) -> bool:
    """Say whether the guard's pipe is empty again."""
    assert guarded.process.stdin
    waiting = fcntl.ioctl(guarded.process.stdin.fileno(), termios.FIONREAD, bytes(4))
    return int.from_bytes(waiting, "little") == 0
