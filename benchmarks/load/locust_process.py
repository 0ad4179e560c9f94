"""Locust as a process of its own, without its web page."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load.parameters import LoadParameters, flags_of
from benchmarks.load.recording import Recording, load

_ROOT = Path(__file__).resolve().parent.parent.parent
_LOCUSTFILE = Path("benchmarks", "locustfile.py")
_WARM_UP_SECONDS = 180.0
_SHOWN_LOG_LINES = 20


class LoadRunError(Exception):
    """Locust did not do as it was told; the message ends with its last log lines."""


@dataclass(frozen=True, slots=True)
class Load:
    """Parameters, and how many users there are: clients, or the most requests in progress."""

    parameters: LoadParameters
    users: int

    @property
    def flags(self) -> list[str]:
        """Return what Locust is given, without the server's address and files."""
        users = str(self.users)
        return ["--headless", "-u", users, "-r", users, *flags_of(self.parameters)]

    @property
    def limit_seconds(self) -> float:
        """How long it may take if every request takes as long as it may."""
        parameters = self.parameters
        rounds = math.ceil(parameters.min_requests / self.users) + 1
        return _WARM_UP_SECONDS + parameters.seconds + rounds * parameters.timeout_seconds


def run_locust(address: str, load_: Load) -> Recording:
    """Put a load on a server; return what it saw.

    Raises:
        LoadRunError: Locust failed, or did not end in time.
        RecordingError: No request ended.
    """
    with tempfile.TemporaryDirectory(prefix="e2rank-load-") as name:
        file = Path(name) / "recording.json"
        command = [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--only-summary"]
        command += ["--exit-code-on-error", "0", "--host", address, "--recording", str(file)]
        try:
            ended = subprocess.run(
                [*command, *load_.flags],
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=load_.limit_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise LoadRunError(f"Locust did not end within {load_.limit_seconds:g} s") from error
        if ended.returncode:
            log = "\n".join(ended.stdout.rstrip().splitlines()[-_SHOWN_LOG_LINES:])
            raise LoadRunError(f"Locust ended with code {ended.returncode}:\n{log}")
        return load(file)
