"""Runs in vLLM's worker process: ends it when the gateway that started it is gone.

A gateway that is killed (SIGKILL, out of memory) cannot tell vLLM to stop, and
vLLM's engine would then hold its memory for ever. vLLM imports this module in
the worker, before it loads the weights, to find its `worker_extension_cls`; no
other hook runs that early. When a worker ends, vLLM ends its engine process.
"""

from __future__ import annotations

import os
import select
import threading

GATEWAY_PID_VARIABLE = "_E2RANK_GATEWAY_PID"
"""Set by the gateway for the processes that vLLM starts."""


class WorkerExtension:
    """Adds nothing to vLLM's worker: to be imported is this module's purpose."""


WORKER_EXTENSION = f"{WorkerExtension.__module__}.{WorkerExtension.__qualname__}"
"""For vLLM's `worker_extension_cls`."""


def end_with(pid: int) -> None:
    """End this process, from a thread, as soon as process `pid` has ended."""
    try:
        gateway = os.pidfd_open(pid)
    except ProcessLookupError:
        os._exit(1)
    threading.Thread(
        target=_wait_and_end, args=(gateway,), name="end-with-gateway", daemon=True
    ).start()


def _wait_and_end(gateway: int) -> None:
    select.select([gateway], [], [])
    # At once and without clean-up, which would wait for a main thread that may be computing.
    os._exit(1)


if (_pid := os.environ.get(GATEWAY_PID_VARIABLE)) is not None and int(_pid) != os.getpid():
    end_with(int(_pid))
