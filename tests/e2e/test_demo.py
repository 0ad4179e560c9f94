"""The README's first command, less its set-up."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_the_demo_runs_the_main_job_and_stops_what_it_started() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.demo"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    for shown in ("TRITON", "VLLM_IN_PROCESS", "BM25", "COSINE warm", "E2RANK cold", "nDCG@10"):
        assert shown in result.stdout
    cached = next(line for line in result.stdout.splitlines() if "documents from cache" in line)
    cold_cosine, warm_cosine, cold_e2rank, warm_e2rank = map(int, cached.split()[-4:])
    assert cold_cosine == cold_e2rank == 0
    assert warm_cosine == warm_e2rank > 0
    assert "server     stopped" in result.stdout
