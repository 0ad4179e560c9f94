"""Runs tritonserver and cleans up after it, whatever happens to the process that wanted it.

    python triton_guard.py SHM_PREFIX DIRECTORY LOG COMMAND...

A process of its own, in a session of its own, with the standard library alone:
it has to outlive a gateway that is killed. Its parent speaks to it like this:

    writes a line       Triton is ready; from now on none of its stubs may die
    closes the pipe     end Triton in order, and remove DIRECTORY
    (dies)              the same
    sends SIGTERM       kill Triton now; DIRECTORY stays for the next start

It ends, with a one-line reason on standard output, when tritonserver or one of
its Python stubs has ended. Triton itself never restarts a stub and goes on
reporting that it is ready. In every case all of Triton's processes are gone
afterwards, and so are its files in /dev/shm.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

SHM = Path("/dev/shm")  # noqa: S108 - where Triton's stubs keep their tensors
PREFIX = "e2rank-triton-"
POLL_SECONDS = 0.25
STOP_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def claim(prefix: str) -> int:
    """Take the lock that says that files of this prefix have an owner; return its descriptor.

    The kernel drops it with this process. A lock and not a process id: several
    containers can share one /dev/shm.
    """
    unlocked = SHM / f".{prefix}"
    descriptor = os.open(unlocked, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    unlocked.rename(SHM / f"{prefix}.lock")  # so that nobody sees it before it is locked
    return descriptor


def sweep(prefix: str) -> None:
    """Remove the files of one prefix, its lock last."""
    for path in sorted(SHM.glob(f"{prefix}*"), key=lambda path: path.suffix == ".lock"):
        path.unlink(missing_ok=True)


def kill_users(prefix: str) -> None:
    """Kill the stubs whose files have this prefix: an argument of theirs begins with it."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # ended meanwhile, or another user's
            if f"\0{prefix}".encode() in path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)


def sweep_ownerless() -> None:
    """Remove what guards left that were killed themselves.

    Their tritonserver was killed with them; its stubs notice only after many seconds.
    """
    for lock in SHM.glob(f"{PREFIX}*.lock"):
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # swept by another guard meanwhile, or another user's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            kill_users(lock.stem)
            sweep(lock.stem)
        except OSError:  # its owner lives
            pass
        finally:
            os.close(descriptor)


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Have the kernel make this process the parent of stubs whose tritonserver died."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def processes_of_group(group: int) -> list[int]:
    """List the process ids of a process group."""
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if int(fields[2]) == group:
            members.append(int(path.parent.name))
    return members


def has_ended(process: int) -> bool:
    """Say whether a process is gone, or a zombie that its parent has not asked about."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


class Guard:
    """Watches one tritonserver."""

    def __init__(self, server: subprocess.Popen[bytes], commands: int) -> None:
        self._server = server
        self._commands = commands
        self._parent = os.getppid()
        self._stubs: list[int] = []
        self._is_killed = False
        self.is_abandoned = False
        signal.signal(signal.SIGTERM, self._kill)

    def _kill(self, *_: object) -> None:
        self._is_killed = True
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.killpg(self._server.pid, signal.SIGKILL)

    def watch(self) -> str:
        """Return, once Triton has to end or has ended, why."""
        while True:
            if select.select([self._commands], [], [], POLL_SECONDS)[0]:
                self._obey(os.read(self._commands, 64))
            if os.getppid() != self._parent:
                self.is_abandoned = True
            if self.is_abandoned:
                return "asked to stop"
            if (status := self._server.poll()) is not None:
                return "killed as asked" if self._is_killed else _describe(status)
            for stub in self._stubs:
                if has_ended(stub):
                    return f"its Python stub {stub} died"

    def _obey(self, command: bytes) -> None:
        if not command:
            self.is_abandoned = True
            return
        self._stubs = [p for p in processes_of_group(self._server.pid) if p != self._server.pid]

    def end(self) -> None:
        """End all of Triton's processes: in order if asked to, else at once."""
        if self.is_abandoned and self._server.poll() is None:
            self._server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):  # nobody is left
            os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()
        with contextlib.suppress(ChildProcessError):  # raised once all stubs are gone, too
            while True:
                os.waitpid(-self._server.pid, 0)


def _describe(status: int) -> str:
    if status < 0:
        return f"tritonserver was killed by {signal.Signals(-status).name}"
    return f"tritonserver ended with exit status {status}"


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start tritonserver in a process group of its own, appending its output to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
            preexec_fn=die_with_parent,  # safe: this process has one thread
        )


def main(arguments: list[str]) -> None:
    """Run one tritonserver to its end."""
    prefix, directory, log, *command = arguments
    adopt_orphans()
    sweep_ownerless()
    claim(prefix)
    guard = None
    try:
        guard = Guard(start(command, Path(log)), sys.stdin.fileno())
        reason = guard.watch()
        with contextlib.suppress(BrokenPipeError):  # whoever would read it has been killed
            os.write(sys.stdout.fileno(), reason.encode())
    finally:
        if guard:
            guard.end()
        sweep(prefix)
        if guard and guard.is_abandoned:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
