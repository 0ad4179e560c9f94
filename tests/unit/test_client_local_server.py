"""A server of one's own, with a stand-in for the server's package that is found first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from e2rank_client.local_server import ServerStartError, local_server

# Starts a child, as the real server does; writes its own and the child's process id.
SERVING = """
import os, pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(os.environ["STAND_IN_PIDS"]).write_text(f"{os.getpid()} {child.pid}")
print("getting ready", sys.argv[1:], flush=True)
address_file = pathlib.Path(sys.argv[sys.argv.index("--address-file") + 1])
draft = address_file.with_name("draft")
draft.write_text("127.0.0.1:4711")
draft.rename(address_file)
time.sleep(600)
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put a program in the server's place; return the file for its process ids."""

    def install(program: str) -> Path:
        package = tmp_path / "modules" / "e2rank_server"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(program)
        monkeypatch.setenv("PYTHONPATH", str(package.parent))
        pids = tmp_path / "pids"
        monkeypatch.setenv("STAND_IN_PIDS", str(pids))
        return pids

    return install


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and is not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def assert_all_end(pids: Path) -> None:
    numbers = [int(number) for number in pids.read_text().split()]
    end = time.monotonic() + 10
    while any(map(is_running, numbers)):
        assert time.monotonic() < end, "still running"
        time.sleep(0.01)


def test_the_address_is_given_and_everything_started_is_stopped(
    stand_in: Callable[[str], Path],
) -> None:
    pids = stand_in(SERVING)
    with local_server(["--profile", "p"]) as address:
        assert address == "127.0.0.1:4711"
        assert all(is_running(int(number)) for number in pids.read_text().split())
    assert_all_end(pids)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_block_stops_the_server_too(
    stand_in: Callable[[str], Path], error: type[BaseException]
) -> None:
    pids = stand_in(SERVING)
    with pytest.raises(error), local_server():
        raise error
    assert_all_end(pids)


def test_a_server_that_ends_at_once_is_reported_with_its_log(
    stand_in: Callable[[str], Path],
) -> None:
    stand_in("import sys; print('no such profile'); sys.exit(2)")
    with pytest.raises(ServerStartError, match=r"code 2:\nno such profile"), local_server():
        pass


def test_a_server_that_never_answers_is_stopped_at_the_timeout(
    stand_in: Callable[[str], Path],
) -> None:
    pids = stand_in(SERVING.replace("draft.rename(address_file)", ""))
    with (
        pytest.raises(ServerStartError, match="did not answer within 2 s"),
        local_server(timeout_seconds=2),
    ):
        pass
    assert_all_end(pids)


def test_progress_is_the_last_line_of_the_log(stand_in: Callable[[str], Path]) -> None:
    stand_in(SERVING.replace("draft.rename(address_file)", "time.sleep(600)"))

    class SeenError(Exception):
        pass

    def see(line: str) -> None:
        if line.startswith("getting ready"):
            raise SeenError

    with pytest.raises(SeenError), local_server(on_progress=see):
        pass


def test_sigterm_to_the_program_stops_its_server(
    stand_in: Callable[[str], Path], tmp_path: Path
) -> None:
    pids = stand_in(SERVING)
    program = """
import time
from e2rank_client.local_server import local_server
with local_server():
    print("up", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    process.stdout.close()
    assert_all_end(pids)
