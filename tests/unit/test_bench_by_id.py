"""The by-id benchmark on a gateway in this process: that it measures what it says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from benchmarks.cache.by_id import (
    DOCUMENT_BYTES,
    METHODS,
    NUM_DOCUMENTS,
    StoredTexts,
    UnequalAnswersError,
    measure_store,
)
from benchmarks.figures import value_of
from e2rank.v1 import rerank_pb2
from e2rank_server.engine.documents import DocumentsEngine
from e2rank_server.engine.namespace_epochs import NamespaceEpochs
from e2rank_server.gateway.limits import GatewayLimits
from e2rank_server.gateway.server import GatewayServer
from tests.unit.engine_rig import EngineRig


@asynccontextmanager
async def channel_to(rig: EngineRig) -> AsyncIterator[grpc.aio.Channel]:
    store = rig.store
    server = GatewayServer(
        [rig.model],
        GatewayLimits(),
        address="127.0.0.1:0",
        max_concurrent_requests=4,
        health_interval_seconds=60,
        documents=DocumentsEngine(
            store, NamespaceEpochs(store), b"s" * 32, max_answer_bytes=1 << 20
        ),
    )
    try:
        async with grpc.aio.insecure_channel(await server.start()) as channel:
            yield channel
    finally:
        await server.stop(0)


async def test_both_sides_are_measured_as_often_and_the_one_by_id_is_small() -> None:
    steps: list[None] = []
    async with channel_to(EngineRig()) as channel:
        figures = await measure_store(channel, "here", lambda: steps.append(None), iterations=2)
    assert len(steps) == 2 * len(METHODS)
    for method in METHODS:
        ratio = value_of(figures[f"by_id_over_by_text_p50.here.{method}"])
        by_id, by_text = (
            value_of(figures[f"{side}_p50_ms.here.{method}"]) for side in ("by_id", "by_text")
        )
        assert ratio == pytest.approx(by_id / by_text)
    assert 0 < value_of(figures["by_id_request_bytes"]) < 30 * NUM_DOCUMENTS
    assert value_of(figures["by_text_request_bytes"]) > NUM_DOCUMENTS * DOCUMENT_BYTES


async def test_documents_that_are_not_cached_are_not_compared() -> None:
    rig = EngineRig(cache_bytes=1)
    async with channel_to(rig) as channel:
        with pytest.raises(UnequalAnswersError, match="0 of 100 documents were cached"):
            await measure_store(channel, "here", lambda: None, iterations=1)


@pytest.mark.parametrize("method", METHODS)
def test_a_pair_differs_in_nothing_but_the_texts(method: str) -> None:
    texts = StoredTexts()
    pair = [rerank_pb2.RerankRequest.FromString(each) for each in texts.pair(method)]
    by_id, by_text = pair
    assert {len(document.text) for document in by_text.documents} == {DOCUMENT_BYTES}
    for document in by_text.documents:
        document.ClearField("text")
    assert by_id == by_text
    assert by_id.WhichOneof("method") == method
    stored = texts.put_request()
    assert by_id.namespace == stored.namespace
    assert {document.id for document in by_id.documents} == {each.id for each in stored.documents}


def test_the_plot_has_each_store_and_method(tmp_path: Path) -> None:
    report = pytest.importorskip("benchmarks.cache.report", exc_type=ImportError)
    figures = {f"{side}_p50_ms.lmdb.cosine": 2.0 for side in ("by_id", "by_text")}
    figures |= {f"{side}_request_bytes": 1500.0 for side in ("by_id", "by_text")}
    report.plot_by_id(figures, tmp_path / "by_id.png")
    report.plot_by_id({}, tmp_path / "none.png")
    assert [file.name for file in tmp_path.iterdir()] == ["by_id.png"]
