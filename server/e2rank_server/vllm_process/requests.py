"""Requests that are in an engine for one call, and leave it with that call."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from e2rank_server.vllm_process.engine import Engine, EngineOutputs

logger = logging.getLogger(__name__)

_numbers = itertools.count()
_aborts: set[asyncio.Task[None]] = set()
"""Keeps tasks that nobody waits for alive."""


class EngineRequests:
    """A context manager: if its body fails or is cancelled, its requests are aborted.

    The abort reaches the engine before the error reaches the caller. vLLM's own
    `encode` and `generate` abort on some ways of leaving only (vllm#54430).
    """

    def __init__(
        self, engine: Engine, name: str, away: Exception, *, is_closed: Callable[[], bool]
    ) -> None:
        """`away` is raised where the engine has died, or is shut down, as `is_closed` says."""
        self._engine = engine
        self._name = name
        self._away = away
        self._is_closed = is_closed
        self._ids: list[str] = []

    async def add(self, token_ids: list[int], params: object, *, priority: int) -> EngineOutputs:
        """Give the engine a prompt; `params` are vLLM's PoolingParams or SamplingParams."""
        from vllm.inputs.engine import tokens_input

        self._ids.append(f"{self._name}-{next(_numbers)}")
        return await self._engine.add_request(
            self._ids[-1], tokens_input(token_ids), params, priority=priority
        )

    async def result(self, outputs: EngineOutputs) -> Any:  # noqa: ANN401 - vllm has no types
        """Wait for a request's only output, vLLM's PoolingRequestOutput or RequestOutput."""
        output = outputs.get_nowait() or await outputs.get()
        if self._is_closed():
            # An engine that is shut down hands out what it has so far, as if that were all.
            raise self._away
        return output

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            return
        await self._abort(error)
        is_away = self._engine.errored or self._is_closed()
        if isinstance(error, Exception) and error is not self._away and is_away:
            raise self._away from error

    async def _abort(self, error: BaseException) -> None:
        """Free the engine of the requests; those that are finished are unknown to it by now."""
        if not self._ids or self._engine.errored or self._is_closed():
            return
        task = asyncio.create_task(_free(self._engine, self._ids))
        _aborts.add(task)
        task.add_done_callback(_aborts.discard)
        if not isinstance(error, GeneratorExit):  # which allows no waiting
            # A second cancellation leaves the wait, not the abort.
            await asyncio.wait({task})


async def _free(engine: Engine, request_ids: Sequence[str]) -> None:
    try:
        await engine.abort(request_ids)
    except Exception:
        if not engine.errored:  # a dead engine computes nothing any more
            logger.exception("could not abort %s", ", ".join(request_ids))
