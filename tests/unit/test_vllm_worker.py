"""A worker of vLLM ends with the gateway, however that ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

from e2rank_server.vllm_process.worker import GATEWAY_PID_VARIABLE

# Starts the worker, says its process id and waits to be killed. The worker is a grandchild
# of the test: it holds the pipe open for as long as it lives.
GATEWAY = textwrap.dedent(
    f"""
    import os, subprocess, sys
    worker = (
        "import e2rank_server.vllm_process.worker, time;"
        "print('up', flush=True); time.sleep(60)"
    )
    subprocess.run(
        [sys.executable, "-c", worker],
        env=os.environ | {{{GATEWAY_PID_VARIABLE!r}: str(os.getpid())}},
    )
    """
)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_ends_when_its_gateway_is_killed(kill: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", GATEWAY], stdout=subprocess.PIPE, text=True
    ) as gateway:
        assert gateway.stdout is not None
        assert gateway.stdout.readline() == "up\n"
        gateway.send_signal(kill)
        assert gateway.wait(timeout=20) == -kill
        # End of file: nobody holds the other end any more.
        assert gateway.communicate(timeout=20)[0] == ""


def test_a_worker_whose_gateway_is_gone_already_ends_at_once() -> None:
    gateway = subprocess.Popen([sys.executable, "-c", ""])
    gateway.wait(timeout=20)
    worker = subprocess.run(
        [sys.executable, "-c", "import e2rank_server.vllm_process.worker; print('alive')"],
        env={GATEWAY_PID_VARIABLE: str(gateway.pid)},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert (worker.returncode, worker.stdout) == (1, "")


def test_outside_vllm_importing_it_watches_nothing() -> None:
    program = "import threading, e2rank_server.vllm_process.worker; print(threading.active_count())"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20
    )
    assert result.stdout == "1\n"
