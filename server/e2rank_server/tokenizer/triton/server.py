"""The embedded Triton: tritonserver on a private socket, watched, restarted, cleaned up after."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import e2rank_server
from e2rank_server.errors import ConfigurationError, UnavailableError
from e2rank_server.tokenizer.triton import guard
from e2rank_server.tokenizer.triton.client import TritonTokenizer
from e2rank_server.tokenizer.triton.environment import TritonEnvironment
from e2rank_server.tokenizer.triton.manifest import MANIFEST_VARIABLE, TritonProfile, write_manifest

_log = logging.getLogger(__name__)

START_SECONDS = 60.0
STOP_SECONDS = 20.0
MAX_BACKOFF_SECONDS = 30.0
STABLE_SECONDS = 60.0
"""After so long without a failure, the next restart is immediate again."""
MAX_SOCKET_PATH_BYTES = 100
"""The kernel's limit is 107; gRPC and Triton's port number need a few."""
_SOCKET_PORT = 1  # Triton appends one to every address; on a Unix socket it is part of the name


def model_repository() -> Path:
    """Return the folder of Triton's models: beside the package's code, or in its checkout."""
    package = Path(e2rank_server.__file__).parent
    for folder in (package / "model_repository", package.parents[1] / "model_repository"):
        if folder.is_dir():
            return folder
    raise ConfigurationError([f"this installation lacks Triton's model_repository ({package})"])


class EmbeddedTriton:
    """A Triton server that this process owns.

    It listens on a Unix socket in a private folder: no port to clash with, no
    other user's business. When tritonserver or one of its Python stubs dies, or
    the canary inference fails, it is killed and started again at the same
    `address`, with growing pauses while that keeps failing. Meanwhile its
    tokenizers raise UnavailableError.
    """

    def __init__(
        self,
        environment: TritonEnvironment,
        profiles: Sequence[TritonProfile],
        log_path: Path,
        *,
        canary_interval_seconds: float = 10.0,
        canary_timeout_seconds: float = 10.0,
    ) -> None:
        self.restarts = 0
        self._environment = environment
        self._profiles = tuple(profiles)
        self._log_path = log_path.absolute()
        self._canary_interval_seconds = canary_interval_seconds
        self._canary_timeout_seconds = canary_timeout_seconds
        self._directory = Path(tempfile.mkdtemp(prefix="e2rank-triton-"))
        self._socket = self._directory / "socket"
        self.address = f"unix:{self._socket}:{_SOCKET_PORT}"
        """gRPC target; the same over restarts."""
        self._process: asyncio.subprocess.Process | None = None
        self._canaries: list[TritonTokenizer] = []
        self._supervision: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        environment: Path,
        profiles: Sequence[TritonProfile],
        log_path: Path,
        *,
        canary_interval_seconds: float = 10.0,
        canary_timeout_seconds: float = 10.0,
    ) -> Self:
        """Start Triton from a virtual environment and return once every model has answered.

        Raises ConfigurationError if it cannot run from there, or ends or does not
        answer within START_SECONDS. Its own output goes to `log_path`.
        """
        found = await asyncio.to_thread(TritonEnvironment.inspect, environment)
        triton = cls(
            found,
            profiles,
            log_path,
            canary_interval_seconds=canary_interval_seconds,
            canary_timeout_seconds=canary_timeout_seconds,
        )
        try:
            triton._prepare_directory()
            await triton._start_process()
        except UnavailableError as error:
            await triton.close()
            raise ConfigurationError([f"Triton did not start: {error}"]) from error
        except BaseException:
            await triton.close()
            raise
        triton._supervision = asyncio.create_task(triton._supervise(), name="triton-supervision")
        return triton

    async def close(self) -> None:
        """Stop Triton in order; leaves no process, nothing in /dev/shm, no folder."""
        if self._supervision:
            self._supervision.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervision
            self._supervision = None
        for canary in self._canaries:
            await canary.close()
        self._canaries = []
        if self._process:
            await self._stop_process(self._process)
            self._process = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def _prepare_directory(self) -> None:
        if len(f"{self._socket}:{_SOCKET_PORT}".encode()) > MAX_SOCKET_PATH_BYTES:
            problem = f"the folder for temporary files has too long a path: {self._directory}"
            raise ConfigurationError([f"{problem} (set TMPDIR to a shorter one)"])
        write_manifest(self._directory / "manifest.json", self._profiles)
        # Triton wants one folder with the backend and the stub for this Python.
        backend = self._directory / "backends" / "python"
        backend.mkdir(parents=True)
        for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
            (backend / name).symlink_to(self._environment.backend / name)
        (backend / self._environment.stub.name).symlink_to(self._environment.stub)
        self._log_path.parent.mkdir(parents=True, exist_ok=True)
        self._log_path.write_bytes(b"")

    def _command(self, shm_prefix: str) -> list[str]:
        return [
            str(self._environment.tritonserver),
            f"--model-repository={model_repository()}",
            f"--backend-directory={self._directory / 'backends'}",
            f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
            "--disable-auto-complete-config",  # else each stub is started twice
            f"--grpc-address=unix:{self._socket}",
            f"--grpc-port={_SOCKET_PORT}",
            "--allow-http=false",
            "--allow-metrics=false",
            "--pinned-memory-pool-byte-size=0",
            "--exit-timeout-secs=5",
            "--log-info=false",
            "--log-format=ISO8601",
        ]

    async def _start_process(self) -> None:
        """Start tritonserver under its guard and wait until every profile's canary is answered."""
        shm_prefix = f"{guard.PREFIX}{secrets.token_hex(6)}"
        log_size = self._log_path.stat().st_size
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", guard.__file__),
            *(shm_prefix, str(self._directory), str(self._log_path)),
            *self._command(shm_prefix),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environment.variables()
            | {
                MANIFEST_VARIABLE: str(self._directory / "manifest.json"),
                "TOKENIZERS_PARALLELISM": "true",
            },
            cwd=self._directory,
            start_new_session=True,
        )
        ended = asyncio.create_task(self._ended(self._process))
        ready = asyncio.create_task(self._answer_canaries(self._process))
        try:
            await asyncio.wait(
                {ended, ready}, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if not ready.done():
                reason = ended.result() if ended.done() else f"no answer in {START_SECONDS:.0f} s"
                raise UnavailableError("tokenizer", self._explain(reason, log_size))
            ready.result()
        finally:
            await _cancel(ended, ready)

    async def _answer_canaries(self, process: asyncio.subprocess.Process) -> None:
        if not self._canaries:
            self._canaries = [
                TritonTokenizer(self.address, profile, timeout_seconds=self._canary_timeout_seconds)
                for profile in self._profiles
            ]
        for canary in self._canaries:
            await canary.wait_until_connected()
            await canary.check_health()
        assert process.stdin
        process.stdin.write(b"ready\n")

    async def _ended(self, process: asyncio.subprocess.Process) -> str:
        """Wait for the end of Triton and return the guard's reason."""
        assert process.stdout
        reason = (await process.stdout.read()).decode(errors="replace")
        await process.wait()
        return reason or f"its guard ended with exit status {process.returncode}"

    def _explain(self, reason: str, log_size: int) -> str:
        """Add the first failed model's own reason from Triton's log, if there is one."""
        with self._log_path.open("rb") as log:
            log.seek(log_size)
            lines = log.read().decode(errors="replace").splitlines()
        failed = next((line.partition("] ")[2] for line in lines if "failed to load" in line), "")
        return f"{reason}; {failed}; its log is {self._log_path}".replace("; ; ", "; ")

    async def _supervise(self) -> None:
        """Restart Triton whenever it fails, for ever."""
        failures = 0
        while True:
            started = time.monotonic()
            reason = await self._wait_for_failure()
            failures = 0 if time.monotonic() - started > STABLE_SECONDS else failures
            while reason:
                _log.error("Triton failed and is being restarted: %s", reason)
                await self._kill_process()
                await asyncio.sleep(
                    min(MAX_BACKOFF_SECONDS, 2.0 ** (failures - 1)) if failures else 0
                )
                failures += 1
                self.restarts += 1
                reason = await self._restart()

    async def _restart(self) -> str:
        """Start it again; return why that failed, or nothing."""
        try:
            await self._start_process()
        except (UnavailableError, OSError) as error:
            return str(error)
        _log.info("Triton is back")
        return ""

    async def _wait_for_failure(self) -> str:
        assert self._process
        ended = asyncio.create_task(self._ended(self._process))
        mute = asyncio.create_task(self._wait_for_mute_canary())
        try:
            await asyncio.wait({ended, mute}, return_when=asyncio.FIRST_COMPLETED)
            return ended.result() if ended.done() else mute.result()
        finally:
            await _cancel(ended, mute)

    async def _wait_for_mute_canary(self) -> str:
        """Return once the canary has failed twice: once may be a moment of overload."""
        failures = 0
        while failures < 2:
            await asyncio.sleep(self._canary_interval_seconds)
            try:
                await self._canaries[0].check_health()
                failures = 0
            except UnavailableError as error:
                failures += 1
                reason = str(error)
        return f"it does not answer a canary: {reason}"

    async def _kill_process(self) -> None:
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            await self._process.wait()

    async def _stop_process(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            await self._kill_process()


async def _cancel(*tasks: asyncio.Task[object]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
