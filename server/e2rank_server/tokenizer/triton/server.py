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
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import e2rank_server
from e2rank_server.errors import ConfigurationError, UnavailableError
from e2rank_server.tokenizer.triton import guard
from e2rank_server.tokenizer.triton.client import TritonTokenizer
from e2rank_server.tokenizer.triton.environment import TritonEnvironment
from e2rank_server.tokenizer.triton.manifest import MANIFEST_VARIABLE, TritonProfile, write_manifest

logger = logging.getLogger(__name__)

START_SECONDS = 60.0
STOP_SECONDS = 20.0
KILL_SECONDS = 5.0
MAX_BACKOFF_SECONDS = 30.0
STABLE_SECONDS = 60.0
"""After so long without a failure, the next restart is immediate again."""
MAX_SOCKET_PATH_BYTES = 100
"""The kernel takes 107."""
_SOCKET_PORT = 1  # Triton appends one to every address; on a Unix socket it is part of the name
_CANARY_RETRY_SECONDS = 0.1


def model_repository() -> Path:
    """Return the folder of Triton's models: in the installed package, or in the checkout."""
    package = Path(e2rank_server.__file__).parent
    for folder in (package / "model_repository", package.parents[1] / "model_repository"):
        if folder.is_dir():
            return folder
    raise ConfigurationError([f"this installation lacks Triton's model_repository ({package})"])


class EmbeddedTriton:
    """A Triton server that this process owns.

    It listens on a Unix socket in a private folder: no port to clash with, and
    no other user's business. When tritonserver or one of its Python stubs dies,
    or it leaves two canaries in a row without an answer, it is killed and
    started again at the same `address`, after growing pauses while that keeps
    failing. Meanwhile its tokenizers raise UnavailableError.
    """

    def __init__(
        self,
        environment: TritonEnvironment,
        profiles: Sequence[TritonProfile],
        log_path: Path,
        *,
        canary_interval_seconds: float,
        canary_timeout_seconds: float,
    ) -> None:
        self.restarts = 0
        """Attempts to start it again, so far."""
        self._environment = environment
        self._profiles = tuple(profiles)
        self._log_path = log_path.absolute()
        self._canary_interval_seconds = canary_interval_seconds
        self._canary_timeout_seconds = canary_timeout_seconds
        self._directory = Path(tempfile.mkdtemp(prefix="e2rank-triton-"))
        self._socket = self._directory / "socket"
        self.address = f"unix:{self._socket}:{_SOCKET_PORT}"
        """gRPC target; the same over restarts."""
        self._process: _TritonProcess | None = None
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

        Raises ConfigurationError if it cannot run from there, ends, or does not
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
            await triton._start()
        except BaseException:
            await triton.close()
            raise
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
            await self._process.stop()
            self._process = None
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _start(self) -> None:
        try:
            self._prepare_directory()
            self._canaries = [
                TritonTokenizer(self.address, profile, timeout_seconds=self._canary_timeout_seconds)
                for profile in self._profiles
            ]
            await self._launch()
        except (UnavailableError, OSError) as error:
            raise ConfigurationError([f"Triton did not start: {error}"]) from error
        self._supervision = asyncio.create_task(self._supervise(), name="triton-supervision")

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

    async def _launch(self) -> None:
        """Start tritonserver and wait until every profile's canary is answered.

        Raises UnavailableError if it ends before that, or takes too long.
        """
        shm_prefix = f"{guard.PREFIX}{secrets.token_hex(6)}"
        log_size = self._log_path.stat().st_size
        self._process = await _TritonProcess.spawn(
            [shm_prefix, str(self._directory), str(self._log_path), *self._command(shm_prefix)],
            self._directory,
            self._environment.variables()
            | {
                MANIFEST_VARIABLE: str(self._directory / "manifest.json"),
                "TOKENIZERS_PARALLELISM": "true",
            },
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                reason = await _first_reason(self._process.end, self._answer_canaries())
        except TimeoutError:
            reason = f"no answer to a canary within {START_SECONDS:.0f} s"
        if reason:
            raise UnavailableError("tokenizer", self._with_log(reason, log_size))
        self._process.mark_ready()

    async def _answer_canaries(self) -> str:
        """Return, without a reason to fail, once every profile has answered."""
        for canary in self._canaries:
            await canary.wait_until_connected()
            # A connection to the process before this one may still look alive.
            while await _health_problem(canary):  # noqa: ASYNC110 - only asking tells
                await asyncio.sleep(_CANARY_RETRY_SECONDS)
        return ""

    def _with_log(self, reason: str, log_size: int) -> str:
        """Add to a reason the first failed model's own words in Triton's log, if there are any."""
        with self._log_path.open("rb") as log:
            log.seek(log_size)
            lines = log.read().decode(errors="replace").splitlines()
        failed = [line.partition("] ")[2] for line in lines if "failed to load" in line]
        return "; ".join([reason, *failed[:1], f"its log is {self._log_path}"])

    async def _supervise(self) -> None:
        """Restart Triton whenever it fails, for ever."""
        attempts = 0
        while True:
            assert self._process
            started = time.monotonic()
            reason = await _first_reason(self._process.end, self._miss_canaries())
            if time.monotonic() - started > STABLE_SECONDS:
                attempts = 0
            while reason:
                logger.error("Triton failed and is being restarted: %s", reason)
                await self._process.kill()
                if attempts:
                    await asyncio.sleep(min(MAX_BACKOFF_SECONDS, 2.0 ** (attempts - 1)))
                attempts += 1
                reason = await self._relaunch()
            logger.info("Triton is back")

    async def _relaunch(self) -> str:
        """Start it again; return why that failed, or nothing."""
        self.restarts += 1
        try:
            await self._launch()
        except (UnavailableError, OSError) as error:
            return str(error)
        return ""

    async def _miss_canaries(self) -> str:
        """Return once two canaries in a row had no answer: one may be a moment of overload."""
        missed = 0
        while missed < 2:
            await asyncio.sleep(self._canary_interval_seconds)
            problem = await _health_problem(self._canaries[0])
            missed = missed + 1 if problem else 0
        return f"it does not answer a canary: {problem}"


class _TritonProcess:
    """One tritonserver under its guard; see guard.py for what the two say to each other."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.end = asyncio.create_task(self._wait_for_end(), name="triton-end")
        """Done when all of Triton's processes are gone; its result says why."""

    @classmethod
    async def spawn(
        cls, arguments: Sequence[str], directory: Path, variables: Mapping[str, str]
    ) -> Self:
        """Start the guard, which starts tritonserver."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", guard.__file__, *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=variables,
            cwd=directory,
            start_new_session=True,  # a Ctrl-C is the gateway's to handle
        )
        return cls(process)

    def mark_ready(self) -> None:
        """From now on, the death of a stub is the end."""
        assert self._process.stdin
        self._process.stdin.write(b"ready\n")

    async def stop(self) -> None:
        """End Triton in order."""
        assert self._process.stdin
        self._process.stdin.close()
        if not (await asyncio.wait({self.end}, timeout=STOP_SECONDS))[0]:
            await self.kill()

    async def kill(self) -> None:
        """End Triton now."""
        for end in (self._process.terminate, self._process.kill):
            with contextlib.suppress(ProcessLookupError):
                end()
            if (await asyncio.wait({self.end}, timeout=KILL_SECONDS))[0]:
                return

    async def _wait_for_end(self) -> str:
        assert self._process.stdout
        reason = (await self._process.stdout.read()).decode(errors="replace")
        status = await self._process.wait()
        return reason or f"its guard ended with exit status {status}"


async def _health_problem(tokenizer: TritonTokenizer) -> str:
    try:
        await tokenizer.check_health()
    except UnavailableError as error:
        return str(error)
    return ""


async def _first_reason(end: asyncio.Task[str], other: Coroutine[Any, Any, str]) -> str:
    """Return the result of whichever is done first; `end` goes on, `other` does not."""
    task = asyncio.create_task(other)
    try:
        await asyncio.wait({end, task}, return_when=asyncio.FIRST_COMPLETED)
        return end.result() if end.done() else task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
