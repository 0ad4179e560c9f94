"""An AsyncLLM that is started again whenever it has died."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from e2rank_server.errors import UnavailableError
from e2rank_server.vllm_process.engine import Engine, EngineCounters
from e2rank_server.vllm_process.requests import EngineRequests
from e2rank_server.vllm_process.start import EngineStart, MakeArguments

logger = logging.getLogger(__name__)

_FIRST_RESTART_DELAY_SECONDS = 1.0
_MAX_RESTART_DELAY_SECONDS = 60.0
# For an engine to end by itself, before it is killed.
_SHUTDOWN_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class EngineSpecification:
    """What an engine is: for which backend (say `embedder`), of which name, started how.

    `warm_up` gives it one small request, which attaches it to the event loop
    and shows that it answers as it should.
    """

    backend: str
    name: str
    arguments: MakeArguments
    warm_up: Callable[[EngineRequests], Awaitable[object]]


class SupervisedEngine:
    """Runs vLLM in processes of its own; make it, `open` it, and `close` it.

    When the engine dies, calls in flight raise UnavailableError and it is
    started again in the background, until that works.
    """

    def __init__(self, specification: EngineSpecification) -> None:
        self.counters = EngineCounters()
        """What the engine itself reports; goes on counting when it is restarted."""
        self._specification = specification
        self._engine: Engine | None = None
        self._is_closed = False
        self._supervision: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Start the engine and wait until it answers; cancelling ends its processes.

        Raises whatever vLLM does that cannot load the model.
        """
        await self._open()
        self._supervision = asyncio.create_task(self._supervise())

    @property
    def num_unfinished_requests(self) -> int:
        """Requests that were given to vLLM and are neither answered nor aborted."""
        return 0 if self._engine is None else self._engine.get_num_unfinished_requests()

    def requests(self) -> EngineRequests:
        """Return a context manager for one call's requests; raises UnavailableError."""
        self.check_running()
        assert self._engine is not None
        return self._requests(self._engine)

    def check_running(self) -> None:
        """Raise UnavailableError unless the engine is there; waits for nothing."""
        if self._engine is None or self._engine.errored or self._is_closed:
            raise self._away()

    async def close(self) -> None:
        """End vLLM's processes; takes seconds. Calls in flight raise UnavailableError."""
        self._is_closed = True
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.wait({self._supervision})
        engine, self._engine = self._engine, None
        if engine is not None:
            await asyncio.to_thread(engine.shutdown, _SHUTDOWN_SECONDS)

    def _requests(self, engine: Engine) -> EngineRequests:
        return EngineRequests(
            engine, self._specification.name, self._away(), is_closed=lambda: self._is_closed
        )

    def _away(self) -> UnavailableError:
        specification = self._specification
        return UnavailableError(
            specification.backend, f"vLLM for {specification.name} is not running"
        )

    async def _open(self) -> None:
        """Start an engine and let it answer once, which attaches it to this event loop."""
        specification = self._specification
        start = EngineStart(specification.name, specification.arguments, self.counters)
        running = asyncio.get_running_loop().run_in_executor(None, start.run)
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            while not running.done():
                start.call_off()
                await asyncio.wait({running}, timeout=0.1)
            running.exception()  # was seen
            raise
        engine = start.take_engine()
        try:
            async with self._requests(engine) as requests:
                await specification.warm_up(requests)
        except BaseException:
            await asyncio.to_thread(engine.shutdown, _SHUTDOWN_SECONDS)
            raise
        self._engine = engine

    async def _supervise(self) -> None:
        """Start the engine again whenever it has died."""
        while self._engine is not None:
            # vLLM ends this task when the engine's process is gone.
            await asyncio.wait({self._engine.output_handler})
            logger.error("vLLM for %s died", self._specification.name)
            dead, self._engine = self._engine, None
            await asyncio.to_thread(dead.shutdown, _SHUTDOWN_SECONDS)
            await self._reopen()

    async def _reopen(self) -> None:
        name = self._specification.name
        delay_seconds = _FIRST_RESTART_DELAY_SECONDS
        while True:
            started = time.monotonic()
            try:
                await self._open()
            except Exception:
                logger.exception(
                    "vLLM for %s did not start; next attempt in %g s", name, delay_seconds
                )
            else:
                seconds = time.monotonic() - started
                logger.info("vLLM for %s is back after %.0f s", name, seconds)
                return
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(2 * delay_seconds, _MAX_RESTART_DELAY_SECONDS)
