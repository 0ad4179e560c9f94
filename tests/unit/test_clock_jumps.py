"""Setting the time of day changes nothing: no part of the server asks for it.

What it does ask for is the time at which a folder was changed, but only whether
that is another than before.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

import e2rank_server
from e2rank_server.embedding_cache.keys import KEY_BYTES
from e2rank_server.embedding_cache.lmdb import LmdbTier

SOURCES = sorted(Path(e2rank_server.__file__).parent.rglob("*.py"))
# What tells the time of day, or waits by it.
NAMES = {
    "time": {"ctime", "gmtime", "localtime", "strftime", "time", "time_ns"},
    "datetime": {"date", "datetime"},
}


def names_of_the_time_of_day(source: str) -> list[str]:
    """Return what a module uses that depends on the time of day."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in NAMES.get(node.value.id, ()):
                found.append(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.ImportFrom):
            names = NAMES.get(node.module or "", set())
            found += [f"{node.module}.{each.name}" for each in node.names if each.name in names]
    return found


@pytest.mark.parametrize(
    "source", ["import time\nnow = time.time()", "from datetime import datetime", "time.time_ns"]
)
def test_a_use_of_the_time_of_day_is_found(source: str) -> None:
    assert names_of_the_time_of_day(source)


def test_no_part_of_the_server_asks_for_the_time_of_day() -> None:
    assert len(SOURCES) > 50
    users = {
        str(path): found
        for path in SOURCES
        if (found := names_of_the_time_of_day(path.read_text(encoding="utf-8")))
    }
    assert users == {}


@pytest.mark.parametrize("seconds", [0, 4e9])
async def test_a_cache_folder_that_seems_to_be_of_another_age_is_used_as_before(
    tmp_path: Path, seconds: float
) -> None:
    tier = LmdbTier(tmp_path / "cache", 16 << 20)
    keys = [os.urandom(KEY_BYTES) for _ in range(2)]
    await tier.put(keys[:1], [b"before"])
    os.utime(tmp_path / "cache", (seconds, seconds))
    assert await tier.get(keys) == [b"before", None]
    await tier.put(keys[1:], [b"after"])
    assert await tier.get(keys) == [b"before", b"after"]
    await tier.close()
