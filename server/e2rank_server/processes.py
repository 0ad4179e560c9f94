"""Several gateway processes on one machine (`--processes`), since one of Python's is one core.

This process starts what they share (Triton, and one vLLM server a model, on Unix
sockets), then gateways that all listen on the same address: the kernel deals out
the connections among them (SO_REUSEPORT). What ends is started again. Each
gateway has a cache of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path

import aiohttp

from e2rank_server import app
from e2rank_server.app import PARENT_PID_VARIABLE, Prepared
from e2rank_server.errors import ConfigurationError
from e2rank_server.settings import Settings
from e2rank_server.telemetry import address_of_process

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_MAX_BACKOFF_SECONDS = 30.0
# After so long without an end, the next restart is immediate again.
_STABLE_SECONDS = 60.0
# For a gateway to close its backends after the drain, and for vLLM to end.
_CLOSE_SECONDS = 20.0


class ManagedProcess:
    """A child in a session of its own, started again whenever it ends once it `is_ready`."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.is_ready = False
        self._name = name
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._supervision: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it, and watch it from now on."""
        self._process = await self._spawn()
        self._supervision = asyncio.create_task(self._supervise())

    async def wait_until(self, check: Callable[[], Awaitable[bool]]) -> None:
        """Return once `check` says that it is ready.

        Raises:
            ConfigurationError: it ended before that; its own output says why.
        """
        while not await check():
            if self._process is not None and self._process.returncode is not None:
                raise ConfigurationError(
                    [f"{self._name} ended with code {self._process.returncode} while starting"]
                )
            await asyncio.sleep(_POLL_SECONDS)
        self.is_ready = True

    async def stop(self, seconds: float) -> None:
        """Send SIGTERM, and SIGKILL to what is left of its session after `seconds`."""
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.wait({self._supervision})
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    async def _spawn(self) -> asyncio.subprocess.Process:
        # A session of its own: Ctrl-C must reach it through us, once what uses it has drained.
        return await asyncio.create_subprocess_exec(
            *self._command,
            env={**os.environ, PARENT_PID_VARIABLE: str(os.getpid())},
            start_new_session=True,
        )

    async def _supervise(self) -> None:
        delay_seconds = 0.0
        while self._process is not None:
            started = time.monotonic()
            code = await self._process.wait()
            if not self.is_ready:
                return  # `wait_until` tells
            if time.monotonic() - started > _STABLE_SECONDS:
                delay_seconds = 0.0
            logger.error(
                "%s ended with code %d; starting it again in %g s", self._name, code, delay_seconds
            )
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(max(1.0, 2 * delay_seconds), _MAX_BACKOFF_SECONDS)
            self._process = await self._spawn()


async def run_processes(settings: Settings, arguments: Sequence[str]) -> None:
    """Serve with `settings.processes` gateways until SIGTERM or SIGINT, then drain.

    `arguments` are the command-line flags that the settings were read from.

    Raises:
        ConfigurationError: the server cannot start as it was asked to.
    """
    await app.serve(settings, partial(_start, settings, arguments))


async def _start(settings: Settings, arguments: Sequence[str], stack: AsyncExitStack) -> None:
    started = time.monotonic()
    if settings.generator_model is not None and settings.generator_url is None:
        raise ConfigurationError(
            [
                "--generator-model: with several processes each would run an LLM of its own; "
                "serve it elsewhere and name it with --generator-url"
            ]
        )
    app.check_address(settings.listen, reuse_port=settings.reuse_port == "on")
    prepared = await asyncio.to_thread(app.prepare, settings)
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="e2rank-")))
    address = stack.enter_context(_reserved(settings.listen))
    triton = await app.start_triton(settings, prepared, stack)
    vllm_urls = await _start_vllm(settings, prepared, directory, stack)
    shared = ["--tokenizer", "in-process"] if triton is None else ["--triton-url", triton]
    if vllm_urls:
        shared += ["--vllm-urls", ",".join(vllm_urls)]
    command = [sys.executable, "-m", "e2rank_server", *arguments, "--processes", "1"]
    command += ["--listen", address, "--reuse-port", "on", *shared]
    command += ["--cache-bytes", str(max(settings.cache_bytes // settings.processes, 1))]
    await _start_gateways(settings, command, directory, stack)
    if settings.address_file is not None:
        app.write_address(settings.address_file, address)
    seconds = time.monotonic() - started
    logger.info("%d processes serve at %s after %.0f s", settings.processes, address, seconds)


async def _start_gateways(
    settings: Settings, command: Sequence[str], directory: Path, stack: AsyncExitStack
) -> None:
    """Start all gateways; at the end they drain together."""
    files = [directory / f"gateway-{number}" for number in range(settings.processes)]
    metrics = [_metrics_flags(settings, number) for number in range(settings.processes)]
    gateways = [
        ManagedProcess(file.name, [*command, "--address-file", str(file), *flags])
        for file, flags in zip(files, metrics, strict=True)
    ]
    drain_seconds = settings.drain_seconds + _CLOSE_SECONDS

    async def stop() -> None:
        await asyncio.gather(*(gateway.stop(drain_seconds) for gateway in gateways))

    stack.push_async_callback(stop)
    for gateway in gateways:
        await gateway.start()
    for gateway, file in zip(gateways, files, strict=True):
        await gateway.wait_until(_exists(file))


def _metrics_flags(settings: Settings, number: int) -> list[str]:
    if settings.metrics_listen is None:
        return []
    return ["--metrics-listen", address_of_process(settings.metrics_listen, number)]


async def _start_vllm(
    settings: Settings, prepared: Sequence[Prepared], directory: Path, stack: AsyncExitStack
) -> list[str]:
    """Return the URLs of all models' vLLM servers, as `--vllm-urls` takes them.

    They load one after another: together they would each see the memory that another takes next.
    """
    urls: list[str] = []
    for name, each in zip(settings.profile, prepared, strict=True):
        if each.vllm_urls:
            urls += [f"{each.profile.name}={url}" for url in each.vllm_urls]
        elif settings.embedder == "vllm":
            unix_socket = directory / f"{each.profile.name}.sock"
            server = ManagedProcess(
                f"vLLM for {each.profile.name}", _vllm_command(settings, name, unix_socket)
            )
            stack.push_async_callback(server.stop, _CLOSE_SECONDS)
            logger.info("starting vLLM for %s", each.profile.name)
            await server.start()
            await server.wait_until(_answers(unix_socket))
            urls.append(f"{each.profile.name}=unix:{unix_socket}")
    return urls


def _vllm_command(settings: Settings, profile: str, unix_socket: Path) -> list[str]:
    command = [sys.executable, "-m", "e2rank_server.vllm_server", "--profile", profile]
    command += ["--uds", str(unix_socket), "--dtype", settings.dtype]
    command += ["--prefix-caching", settings.prefix_caching, "--end-with-parent"]
    return [*command, "--data-directory", str(settings.data_directory)]


def _exists(file: Path) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        return file.exists()  # noqa: ASYNC240 - one stat of a local file

    return check


def _answers(unix_socket: Path) -> Callable[[], Awaitable[bool]]:
    """Ask whether the HTTP server at a Unix socket is healthy."""

    async def check() -> bool:
        try:
            connector = aiohttp.UnixConnector(str(unix_socket))
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.get("http://localhost/health") as answer,
            ):
                return answer.ok
        except aiohttp.ClientError:
            return False

    return check


@contextmanager
def _reserved(address: str) -> Iterator[str]:
    """Hold the address, with a port if it names none, until every gateway listens on it.

    A bound socket that does not listen gets no connections.
    """
    host, _, port = address.rpartition(":")
    family, kind, protocol, _, target = socket.getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind, protocol) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(target)
        yield f"{host}:{holder.getsockname()[1]}"
