"""What was measured where: enough to judge a figure, nothing that names a host or a path."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

_NOTED_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_ROOT = Path(__file__).resolve().parent.parent


def describe_machine() -> dict[str, Any]:
    """Describe processor, cores in use, instruction sets that matter, and memory."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    fields = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    flags = set(fields.get("flags", "").split())
    return {
        "cpu": fields.get("model name", platform.processor() or platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "features": [flag for flag in _NOTED_FLAGS if flag in flags],
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
    }


def current_commit() -> str:
    """Return the commit of this checkout, with `-dirty` if its files differ; empty outside git.

    Results themselves do not count: each run changes them.
    """
    changes = ["status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"]
    try:
        return _git("rev-parse", "HEAD") + ("-dirty" if _git(*changes) else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    answer = subprocess.run(
        ["git", *arguments],  # noqa: S607 - whichever git the user has
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return answer.stdout.strip()
