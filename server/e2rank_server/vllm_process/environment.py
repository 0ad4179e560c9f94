"""The environment in which vLLM's processes start, and how the gateway's own stays as it was."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

from e2rank_server.vllm_process.worker import GATEWAY_PID_VARIABLE

_starting = threading.Lock()
"""Held while an engine starts: starting writes to the environment of the whole process."""


@contextmanager
def starting() -> Iterator[None]:
    """Let vLLM be imported and started inside; one thread at a time, others wait."""
    with _starting, _vllm_environment():
        yield


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
def sigint_blocked() -> Iterator[None]:
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
