"""A wall clock that jumps, by an administrator's or a time server's hand, is nothing to us."""

from __future__ import annotations

import ast
import asyncio
import time
from pathlib import Path

import pytest

import e2rank_server
from e2rank_server.document_store.lmdb import LmdbDocumentStore
from e2rank_server.document_store.protocol import PutOutcome
from e2rank_server.embedding_cache.lmdb import LmdbTier
from e2rank_server.embedding_cache.memory import MemoryEmbeddingCache
from e2rank_server.embedding_cache.tiered import TieredEmbeddingCache
from e2rank_server.embedding_cache.values import ValueCodec
from e2rank_server.engine.model import ServedModel
from e2rank_server.types import CacheTier, CosineOptions, RerankRequest
from tests.document_stores import stored
from tests.unit.engine_rig import DIMENSION, EngineRig, documents

_YEARS = 10 * 365 * 24 * 3600.0


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


def test_the_server_reads_no_clock_that_can_jump() -> None:
    for file in Path(e2rank_server.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                read = f"{node.value.id}.{node.attr}"
                assert read not in ("time.time", "time.time_ns", "datetime.now"), file
