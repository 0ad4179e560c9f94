"""vLLM's AsyncLLM as the backends see it: few of its members, and what it counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol


class EngineOutputs(Protocol):
    """Where one request's result arrives (vLLM's RequestOutputCollector)."""

    def get_nowait(self) -> Any: ...  # noqa: ANN401, D102 - an output of vLLM's, which has no types
    async def get(self) -> Any: ...  # noqa: ANN401, D102


class Engine(Protocol):
    """The few members of vLLM's AsyncLLM that the backends stand on."""

    errored: bool
    """Whether its process is gone."""
    output_handler: asyncio.Task[None]
    """Runs from the first request until the engine is dead or shut down."""

    async def add_request(
        self, request_id: str, prompt: object, params: object, *, priority: int
    ) -> EngineOutputs:
        """Queue one request; a cancellation may leave it queued."""

    async def abort(self, request_id: Sequence[str]) -> None:
        """Forget requests. Those that are finished or were never added do no harm."""

    def get_num_unfinished_requests(self) -> int:
        """Count the requests that are queued or being computed."""

    def shutdown(self, timeout: float | None = None) -> None:
        """End its processes, by SIGKILL after `timeout` seconds; blocks."""


class EngineCounters:
    """What the engine reports after each step; the gateway's side only adds up.

    `computed_tokens` counts prompt tokens that went through the model,
    whether or not anyone waited for the result to the end.
    """

    def __init__(self) -> None:
        self.running_requests = 0
        self.waiting_requests = 0
        self.computed_tokens = 0


def stat_logger(counters: EngineCounters) -> Any:  # noqa: ANN401 - a factory of vLLM's
    """Make the class through which vLLM reports each step."""
    from vllm.v1.metrics.loggers import StatLoggerBase

    class CountingStatLogger(StatLoggerBase):  # type: ignore[misc] # vllm has no types
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:  # noqa: ANN401
            pass

        def record(self, scheduler_stats: Any, *_: Any, **__: Any) -> None:  # noqa: ANN401
            if scheduler_stats is None:
                return
            counters.running_requests = scheduler_stats.num_running_reqs
            counters.waiting_requests = scheduler_stats.num_waiting_reqs
            if (details := scheduler_stats.iteration_details) is not None:
                counters.computed_tokens += details.num_ctx_tokens

        def log_engine_initialized(self) -> None:
            pass

    return CountingStatLogger
