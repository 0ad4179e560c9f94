"""Starts vLLM's AsyncLLM.

vLLM computes in processes of its own, started with `spawn`: a program that
starts an engine needs `if __name__ == "__main__":`. vllm is imported when an
engine starts, not with this module.
"""

from __future__ import annotations

import logging
import multiprocessing
import threading
from typing import Any, Protocol

from e2rank_server.vllm_process.engine import Engine, EngineCounters, stat_logger
from e2rank_server.vllm_process.environment import sigint_blocked, starting
from e2rank_server.vllm_process.worker import WORKER_EXTENSION


class StartAbandonedError(Exception):
    """The start was called off."""


class MakeArguments(Protocol):
    """What an engine is started with."""

    def __call__(self, *, is_cpu: bool) -> dict[str, Any]:
        """Return arguments under AsyncEngineArgs' names, for a CPU or a GPU.

        Values are text, numbers, booleans and, for `pooler_config`, a dict.
        """


class EngineStart:
    """One attempt to start an engine, in a thread, that another thread can call off."""

    def __init__(self, name: str, arguments: MakeArguments, counters: EngineCounters) -> None:
        self._name = name
        self._arguments = arguments
        self._counters = counters
        self._abandoned = threading.Event()
        self._other_processes: set[int | None] | None = None
        self._engine: Engine | None = None

    def run(self) -> None:
        """Start the engine, for `take_engine`; blocks for half a minute.

        Call it in a thread without an event loop: the engine then attaches
        itself to the loop in which it is first used.
        """
        with starting(), sigint_blocked():
            from vllm.v1.engine.async_llm import AsyncLLM

            arguments = self._arguments_in_process()
            self._other_processes = {child.pid for child in multiprocessing.active_children()}
            self._raise_if_abandoned()
            try:
                # No local variable: vLLM keeps a traceback of starting, and with it this
                # frame, so the engine would live on until Python's end and complain there.
                self._engine = AsyncLLM.from_engine_args(
                    arguments, stat_loggers=[stat_logger(self._counters)]
                )
            except Exception:
                self._raise_if_abandoned()
                raise
            # It calls every shutdown a failure, at length; SupervisedEngine reports real ones.
            logging.getLogger(AsyncLLM.__module__).setLevel(logging.CRITICAL)
        if self._abandoned.is_set():
            self.take_engine().shutdown()
            self._raise_if_abandoned()

    def take_engine(self) -> Engine:
        """Hand over what `run` has started; can be called once."""
        engine, self._engine = self._engine, None
        assert engine is not None
        return engine

    def call_off(self) -> None:
        """Make `run` fail soon; call it again until it has."""
        self._abandoned.set()
        if self._other_processes is None:
            return
        for child in multiprocessing.active_children():
            if child.pid not in self._other_processes and child.name.startswith("EngineCore"):
                child.kill()

    def _raise_if_abandoned(self) -> None:
        if self._abandoned.is_set():
            raise StartAbandonedError(f"starting vLLM for {self._name} was called off")

    def _arguments_in_process(self) -> Any:  # noqa: ANN401 - AsyncEngineArgs; vllm has no types
        from vllm.config import PoolerConfig
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform

        arguments = self._arguments(is_cpu=current_platform.is_cpu())
        if "pooler_config" in arguments:
            arguments["pooler_config"] = PoolerConfig(**arguments["pooler_config"])
        return AsyncEngineArgs(
            worker_extension_cls=WORKER_EXTENSION,
            enable_logging_iteration_details=True,  # to the stat logger, not to a log
            disable_log_stats=True,
            use_tqdm_on_load=False,
            **arguments,
        )
