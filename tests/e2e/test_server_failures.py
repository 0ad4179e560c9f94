"""What happens to clients when a backend dies, and when the server is told to stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from e2rank_client import E2RankClient, HealthStatus, RerankResult, UnavailableError
from tests.e2e.server_process import ServerProcess

pytestmark = pytest.mark.e2e

DOCUMENTS = ["Leaves turn light into sugar.", "Mercury is a planet."]
RECOVERY_SECONDS = 180.0


def kill_descendants(server: ServerProcess, is_wanted: Callable[[str], bool]) -> int:
    """Send SIGKILL to the server's child processes of a kind; return how many there were."""
    killed = 0
    for pid in server.descendants():
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            if is_wanted(name):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        except (OSError, ProcessLookupError):
            continue
    return killed


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # an orphan that has ended, and init has not collected yet


def outcome(client: E2RankClient) -> RerankResult | UnavailableError:
    try:
        return client.rerank("sugar", DOCUMENTS, timeout_seconds=30)
    except UnavailableError as error:
        return error


def wait_for(condition: Callable[[], bool], timeout_seconds: float = RECOVERY_SECONDS) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.mark.parametrize("part", ["tritonserver", "triton_python_b", "VLLM::EngineCor"])
def test_a_dead_backend_is_unavailable_and_comes_back(server: ServerProcess, part: str) -> None:
    with E2RankClient(server.address) as client:
        assert isinstance(outcome(client), RerankResult)
        assert kill_descendants(server, lambda name: name.startswith(part)) > 0
        wait_for(lambda: isinstance(outcome(client), UnavailableError))
        wait_for(lambda: isinstance(outcome(client), RerankResult))
        wait_for(lambda: client.check_health() == HealthStatus.SERVING)
        # Which it is while any model is: the others' engines died, too.
        wait_for(lambda: all(model.load.is_serving for model in client.list_models()))


def test_ctrl_c_lets_requests_in_progress_finish_and_leaves_nothing(tmp_path: Path) -> None:
    shared_memory = set(Path("/dev/shm").iterdir())
    server = ServerProcess(tmp_path, "--tokenizer=triton")
    try:
        server.wait_until_serving()
        answers: list[RerankResult] = []
        documents = [f"document {n} " + "with a long text of many words " * 30 for n in range(40)]
        with E2RankClient(server.address) as client:
            calling = threading.Thread(
                target=lambda: answers.append(client.rerank("a query", documents))
            )
            before = server.cpu_seconds()
            calling.start()
            wait_for(lambda: server.cpu_seconds() - before > 0.2)
            below = server.descendants()
            # As a terminal does: to the whole process group.
            os.killpg(server.process.pid, signal.SIGINT)
            calling.join(60)
        assert server.process.wait(60) == 0
        assert len(answers[0].results) == 40
        wait_for(lambda: not any(is_running(pid) for pid in below), timeout_seconds=10)
        assert set(Path("/dev/shm").iterdir()) <= shared_memory
        assert "Traceback" not in server.log.read_text()
    finally:
        server.kill()
