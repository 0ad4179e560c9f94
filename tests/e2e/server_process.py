"""The real server as a process of its own, as users start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

START_SECONDS = 400.0


class ServerProcess:
    """`python -m e2rank_server` with an address of its own; its log is in `folder`."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        environ: dict[str, str] | None = None,
        python: Path = Path(sys.executable),
    ) -> None:
        self.log = folder / "server.log"
        self._address_file = folder / "address"
        command = [str(python), "-m", "e2rank_server", "--listen", "127.0.0.1:0"]
        command += ["--address-file", str(self._address_file)]
        # What one test keeps must not be there for the next; those of the stores say otherwise.
        command += ["--second-tier=off", "--document-store=off", *arguments]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environ or {})},
                cwd=folder,
                start_new_session=True,
            )

    @property
    def address(self) -> str:
        return self._address_file.read_text()

    def wait_until_serving(self) -> None:
        """Return once health says SERVING; fail with the log if the process ends first."""
        deadline = time.monotonic() + START_SECONDS
        while not self._address_file.exists():
            self._require_alive(deadline)
            time.sleep(0.05)
        with grpc.insecure_channel(self.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for answer in health.Watch(health_pb2.HealthCheckRequest(), timeout=START_SECONDS):
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
        raise AssertionError(f"never serving:\n{self.log.read_text()}")

    def _require_alive(self, deadline: float) -> None:
        if self.process.poll() is not None or time.monotonic() > deadline:
            self.kill()
            raise AssertionError(f"the server did not start:\n{self.log.read_text()}")

    def descendants(self) -> list[int]:
        """Return the process ids below the server's, as the kernel knows them."""
        children: dict[int, list[int]] = {}
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            children.setdefault(int(fields[1]), []).append(int(status.parent.name))
        found: list[int] = []
        pending = [self.process.pid]
        while pending:
            pending += (below := children.get(pending.pop(), []))
            found += below
        return found

    def cpu_seconds(self) -> float:
        """Return the processor time that the server and everything below it have used."""
        ticks = 0
        for pid in (self.process.pid, *self.descendants()):
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def wait_until_idle(self, timeout_seconds: float) -> None:
        """Return once a second has passed in which it computed next to nothing."""
        deadline = time.monotonic() + timeout_seconds
        before = self.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(1.0)
            after = self.cpu_seconds()
            if after - before < 0.2:
                return
            before = after
        raise AssertionError(f"still computing after {timeout_seconds} s")

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Ask it to end and return its exit status."""
        self.process.send_signal(signal_number)
        return self.process.wait(60)

    def kill(self) -> None:
        """End it at once, and what is left of its process group."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
