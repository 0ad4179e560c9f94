"""Setting the time of day changes nothing: no part of the server asks for it.

What it does ask for is the time at which a folder was changed, but only whether
that is another than before.
"""

from __future__ import annotations

import ast
import asyncio
import os
import time
from pathlib import Path

import pytest

import e2rank_server
from e2rank_server.document_store.lmdb import LmdbDocumentStore
from e2rank_server.document_store.protocol import PutOutcome
from e2rank_server.embedding_cache.keys import KEY_BYTES
from e2rank_server.embedding_cache.lmdb import LmdbTier
from e2rank_server.embedding_cache.memory import MemoryEmbeddingCache
from e2rank_server.embedding_cache.tiered import TieredEmbeddingCache
from e2rank_server.embedding_cache.values import ValueCodec
from e2rank_server.engine.model import ServedModel
from e2rank_server.types import CacheTier, CosineOptions, RerankRequest
from tests.document_stores import stored
from tests.unit.engine_rig import DIMENSION, EngineRig, documents

_YEARS = 10 * 365 * 24 * 3600.0

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


async def rerank_and_keep(model: ServedModel, request: RerankRequest) -> CacheTier:
    """Return where the vector came from, once what was computed is on the disk."""
    outcome = await model.rerank(request)
    while True:
        statistics = model.second_tier_statistics
        assert statistics is not None
        if not statistics.writes.waiting:
            return outcome.results[0].cache_tier
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("jump", [_YEARS, -_YEARS])
async def test_what_is_kept_stays_and_what_is_new_is_kept_across_a_jump(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    tier = LmdbTier(tmp_path / "cache", 64 << 20)
    store = await LmdbDocumentStore.open(
        tmp_path / "documents", max_bytes=64 << 20, max_namespace_bytes=1 << 20
    )
    rig = EngineRig()
    # Without memory, so that every look-up asks the disk.
    rig.cache = TieredEmbeddingCache(
        MemoryEmbeddingCache(DIMENSION, 0), tier, ValueCodec(DIMENSION), timeout_seconds=10
    )
    model = rig.another_model()
    request = RerankRequest("q", documents("before"), options=CosineOptions())
    assert await rerank_and_keep(model, request) is CacheTier.COMPUTED
    await store.put("", [stored("a", "before")])

    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)

    assert await rerank_and_keep(model, request) is CacheTier.DISK
    later = RerankRequest("q", documents("after"), options=CosineOptions())
    assert await rerank_and_keep(model, later) is CacheTier.COMPUTED
    assert await rerank_and_keep(model, later) is CacheTier.DISK
    assert await store.put("", [stored("a", "before"), stored("b", "after")]) == [
        PutOutcome.UNCHANGED,
        PutOutcome.NEW,
    ]
    assert rig.gate.running_tokens == 0
    await rig.cache.close()
    await tier.close()
    await store.close()
