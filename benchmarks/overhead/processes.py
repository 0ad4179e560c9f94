"""Server processes under measurement: which they are, and the processor time they take."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil

# clock_getcpuclockid(3): the number of a process's clock is made of its id and this.
_CPUCLOCK_SCHED = 2


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process, all its threads' and the kernel's, to the ns."""
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def listeners(address: str) -> list[psutil.Process]:
    """Return the processes below this one that listen at `host:port`: one, or a gateway's all."""
    port = int(address.rpartition(":")[2])
    found = [
        child
        for child in psutil.Process().children(recursive=True)
        for connection in child.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    ]
    if not found:
        raise LookupError(f"no process below this one listens at {address}")
    return list(dict.fromkeys(found))


def family(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and everything below it."""
    return [process, *process.children(recursive=True)]


@contextmanager
def stopped(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Keep processes from running while the block runs.

    For a second after its last request vLLM's idle worker spins, waiting for
    the next one: beside another engine on the same cores it makes that one up
    to ten times slower (measured).
    """
    _send(processes, signal.SIGSTOP)
    try:
        yield
    finally:
        _send(processes, signal.SIGCONT)


def _send(processes: Sequence[psutil.Process], signal_number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # a short-lived child of vLLM's start
            process.send_signal(signal_number)


@contextmanager
def echo_server() -> Iterator[str]:
    """Run `benchmarks.overhead.echo` while the block runs; yield its address."""
    command = [sys.executable, "-m", "benchmarks.overhead.echo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
