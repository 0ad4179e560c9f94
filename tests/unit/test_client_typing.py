"""What type checkers say of the client's API."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_clients_types_are_those_that_callers_rely_on() -> None:
    command = [sys.executable, "-m", "mypy", "tests/typing/client_api.py"]
    mypy = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert mypy.returncode == 0, mypy.stdout + mypy.stderr
