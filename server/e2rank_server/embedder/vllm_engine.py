"""Starts vLLM's AsyncLLM for a profile: its arguments, its environment, its processes.

vLLM computes in processes of its own, started with `spawn`: a program that
starts an engine needs `if __name__ == "__main__":`. vllm is imported when an
engine starts, not with this module.
"""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from e2rank_server.embedder.vllm_worker import GATEWAY_PID_VARIABLE, WorkerExtension
from e2rank_server.profiles.profile import Pooling, Profile

DtypeChoice: TypeAlias = Literal["auto", "bfloat16", "float32"]

# Without these instructions, vLLM's CPU kernels compute bfloat16 some five times slower
# than float32 (measured on AVX2: 837 and 4,373 tokens/s of all-MiniLM-L6-v2).
_BFLOAT16_CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
# Room in the key-value cache, in prompts of full length; on a CPU more of them at once
# are no faster.
_FULL_PROMPTS_IN_KV_CACHE = 2
# Tokens computed in one step, where a prompt may be computed in parts. An aborted request
# holds the engine to the end of the step; vLLM's 2048 are no faster on a CPU (measured).
_CPU_STEP_TOKENS = 512

WORKER_EXTENSION = f"{WorkerExtension.__module__}.{WorkerExtension.__qualname__}"
"""Ends the engine with the process that `GATEWAY_PID_VARIABLE` names (see vllm_worker.py)."""

_starting = threading.Lock()
"""Held while an engine starts: starting writes to the environment of the whole process."""


class StartAbandonedError(Exception):
    """The start was called off."""


class EngineOutputs(Protocol):
    """Where one request's result arrives (vLLM's RequestOutputCollector)."""

    def get_nowait(self) -> Any: ...  # noqa: ANN401, D102 - a PoolingRequestOutput; vllm has no types
    async def get(self) -> Any: ...  # noqa: ANN401, D102


class Engine(Protocol):
    """The few members of vLLM's AsyncLLM that the embedder stands on."""

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


class EngineStart:
    """One attempt to start an engine, in a thread, that another thread can call off."""

    def __init__(
        self,
        profile: Profile,
        folder: Path,
        *,
        dtype: Literal["bfloat16", "float32"],
        prefix_caching: bool,
        counters: EngineCounters,
    ) -> None:
        self._profile = profile
        self._folder = folder
        self._dtype = dtype
        self._prefix_caching = prefix_caching
        self._counters = counters
        self._abandoned = threading.Event()
        self._other_processes: set[int | None] | None = None
        self._engine: Engine | None = None

    def run(self) -> None:
        """Start the engine, for `take_engine`; blocks for half a minute.

        Call it in a thread without an event loop: the engine then attaches
        itself to the loop in which it is first used.
        """
        with _starting, _vllm_environment(), _sigint_blocked():
            from vllm.v1.engine.async_llm import AsyncLLM

            arguments = self._arguments_in_process()
            self._other_processes = {child.pid for child in multiprocessing.active_children()}
            self._raise_if_abandoned()
            try:
                # No local variable: vLLM keeps a traceback of starting, and with it this
                # frame, so the engine would live on until Python's end and complain there.
                self._engine = AsyncLLM.from_engine_args(
                    arguments, stat_loggers=[_stat_logger(self._counters)]
                )
            except Exception:
                self._raise_if_abandoned()
                raise
            # It calls every shutdown a failure, at length; the embedder reports real ones.
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
            raise StartAbandonedError(f"starting vLLM for {self._profile.name} was called off")

    def _arguments_in_process(self) -> Any:  # noqa: ANN401 - AsyncEngineArgs; vllm has no types
        from vllm.config import PoolerConfig
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform

        arguments = engine_arguments(
            self._profile,
            self._folder,
            dtype=self._dtype,
            prefix_caching=self._prefix_caching,
            is_cpu=current_platform.is_cpu(),
        )
        pooler_config = PoolerConfig(**arguments.pop("pooler_config"))
        return AsyncEngineArgs(
            pooler_config=pooler_config,
            worker_extension_cls=WORKER_EXTENSION,
            enable_logging_iteration_details=True,  # to the stat logger, not to a log
            disable_log_stats=True,
            use_tqdm_on_load=False,
            **arguments,
        )


def engine_arguments(
    profile: Profile,
    folder: Path,
    *,
    dtype: Literal["bfloat16", "float32"],
    prefix_caching: bool,
    is_cpu: bool,
) -> dict[str, Any]:
    """Return what makes vLLM serve the profile, here or as a server: AsyncEngineArgs' names.

    Values are text, numbers, booleans and, for `pooler_config`, a dict.
    """
    arguments: dict[str, Any] = {
        "model": str(folder),
        "runner": "pooling",
        "dtype": dtype,
        "max_model_len": profile.max_model_tokens,
        "pooler_config": {"pooling_type": profile.pooling.value},
        # vLLM fails an assertion if it is on for an encoder, whose tokens all see
        # one another; MEAN pooling needs all tokens computed, too.
        "enable_prefix_caching": prefix_caching and profile.pooling is Pooling.LAST,
        "scheduling_policy": "priority",
        "seed": 0,
    }
    if is_cpu:
        # Compiling takes a minute at the first start and gains little for these models.
        arguments["enforce_eager"] = True
        # Else vLLM takes most of the machine's memory, and refuses to start if
        # something else has it.
        arguments["kv_cache_memory_bytes"] = _kv_cache_bytes(folder, profile.max_model_tokens)
        if profile.pooling is Pooling.LAST:
            arguments["max_num_batched_tokens"] = _CPU_STEP_TOKENS
    return arguments


def runs_on_cpu() -> bool:
    """Say whether vLLM, as it is installed here, computes on the CPU. Blocks: imports vllm."""
    with _starting, _vllm_environment():
        from vllm.platforms import current_platform
    return bool(current_platform.is_cpu())


def choose_dtype(dtype: DtypeChoice) -> Literal["bfloat16", "float32"]:
    """Resolve "auto": bfloat16 on a GPU or a CPU with instructions for it, else float32.

    Blocks for seconds: imports vllm.
    """
    if dtype != "auto":
        return dtype
    if not runs_on_cpu():
        return "bfloat16"
    return "bfloat16" if cpu_has_bfloat16(Path("/proc/cpuinfo").read_text()) else "float32"


def cpu_has_bfloat16(cpuinfo: str) -> bool:
    """Say whether the first processor of a /proc/cpuinfo computes bfloat16 natively."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return not _BFLOAT16_CPU_FLAGS.isdisjoint(value.split())
    return False


def _kv_cache_bytes(folder: Path, max_model_tokens: int) -> int:
    """Size a decoder's key-value cache in float32; encoders have none and ignore it."""
    config = json.loads((folder / "config.json").read_bytes())
    heads = config["num_attention_heads"]
    head_dimension = config.get("head_dim") or config["hidden_size"] // heads
    key_value_heads = config.get("num_key_value_heads") or heads
    bytes_per_token = 2 * 4 * config["num_hidden_layers"] * key_value_heads * head_dimension
    return int(_FULL_PROMPTS_IN_KV_CACHE * max_model_tokens * bytes_per_token)


def engine_variables() -> dict[str, str]:
    """Return variables for vLLM's processes that the user has not set."""
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0)))
    return _unset(
        {
            "VLLM_CPU_OMP_THREADS_BIND": cores,  # else one core is left unused
            # vLLM keeps primitives of its own for each layer; oneDNN's cache of 1024 would keep
            # others beside them, one for each number of tokens that ever came: in 20 minutes of
            # all lengths MiniLM's worker grew from .8 to 2.4 GB. With this it stays at 1.2 GB,
            # and is no slower (5,100 tokens/s instead of 5,000; measured).
            "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "8",
            "PYTHONWARNINGS": "ignore::FutureWarning",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",  # the model is a local folder
            "TOKENIZERS_PARALLELISM": "false",
        }
    )


def _variables_in_process() -> dict[str, str]:
    """Beside those of every engine: nothing but errors in the gateway's log, and its process id."""
    quiet = {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "TORCH_LOGS": "-all",  # errors only
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    return engine_variables() | _unset(quiet) | {GATEWAY_PID_VARIABLE: str(os.getpid())}


def _unset(variables: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name not in os.environ}


@contextmanager
def _vllm_environment() -> Iterator[None]:
    """Set variables and afterwards undo every change, vLLM's own included.

    vLLM puts LD_PRELOAD and more into the environment of its parent process,
    from where whatever is started later, such as Triton, would inherit them.
    """
    before = dict(os.environ)
    os.environ.update(_variables_in_process())
    # vllm configures its logger only after it has logged a few lines.
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"].upper())
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Let processes that are started meanwhile never receive SIGINT.

    Ctrl-C reaches every process of the terminal. vLLM would abort all requests
    at once, while the gateway drains them.
    """
    # Were it started later, with the first process, it would unblock the signal.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _stat_logger(counters: EngineCounters) -> Any:  # noqa: ANN401 - a factory of vLLM's
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
