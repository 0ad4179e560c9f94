"""When vectors that were made are cached: together, before the answer, and whoever has left."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from e2rank_server.embedding_cache.memory import MemoryEmbeddingCache
from e2rank_server.embedding_cache.tiered import TieredEmbeddingCache
from e2rank_server.embedding_cache.values import ElementType, ValueCodec
from e2rank_server.types import EmbedOutcome, EmbedRequest, FloatArray, InputType, TextInput
from tests.fake_second_tier import FakeSecondTier
from tests.unit.engine_rig import DIMENSION, EngineRig, settle


class RecordingCache(MemoryEmbeddingCache):
    """Notes how many vectors it is given at a time; `hold` makes it slow, `error` makes it fail."""

    def __init__(self) -> None:
        super().__init__(DIMENSION, 4 << 20, ElementType.FLOAT32)
        self.stored: list[int] = []
        self.error: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()

    async def store(self, keys: Sequence[bytes], vectors: FloatArray) -> None:
        self.stored.append(len(keys))
        await self.open.wait()
        if self.error is not None:
            raise self.error
        await super().store(keys, vectors)

    @property
    def entries(self) -> int:
        return self.statistics().entries


class Rig(EngineRig):
    def __init__(self) -> None:
        super().__init__()
        self.cache = self.recording = RecordingCache()
        self.model = self.another_model()

    def embed(self, *texts: str, namespace: str = "") -> asyncio.Task[EmbedOutcome]:
        inputs = [TextInput(text) for text in texts]
        request = EmbedRequest(InputType.DOCUMENT, inputs, namespace)
        return asyncio.create_task(self.model.embed(request))


async def test_vectors_that_are_made_together_are_stored_together() -> None:
    rig = Rig()
    rig.embedder.hold()
    tasks = [rig.embed("a", "b", "c"), rig.embed("d", "e"), rig.embed("c")]
    await settle()
    rig.embedder.release()
    await asyncio.gather(*tasks)
    assert rig.recording.stored == [5]
    assert rig.recording.entries == 5
    await rig.embed("f")
    assert rig.recording.stored == [5, 1]


async def test_an_answer_comes_after_its_vectors_are_stored() -> None:
    rig = Rig()
    rig.recording.open.clear()
    task = rig.embed("a", "b")
    await settle()
    assert rig.recording.stored == [2]
    assert not task.done()
    rig.recording.open.set()
    await task
    assert rig.recording.entries == 2


async def test_a_text_is_not_embedded_again_while_its_vector_is_being_stored() -> None:
    rig = Rig()
    rig.recording.open.clear()
    tasks = [rig.embed("a")]
    await settle()
    tasks.append(rig.embed("a"))
    await settle()
    rig.recording.open.set()
    await asyncio.gather(*tasks)
    assert len(rig.embedder.calls) == 1
    assert rig.recording.stored == [1]


async def test_vectors_that_were_made_are_stored_although_their_request_has_left() -> None:
    rig = Rig()
    rig.recording.open.clear()
    leaver = rig.embed("a", "b")
    await settle()
    leaver.cancel()
    await asyncio.wait([leaver])
    rig.recording.open.set()
    await settle()
    assert rig.recording.entries == 2
    await rig.embed("a", "b")
    assert len(rig.embedder.calls) == 2


async def test_vectors_of_a_namespace_that_was_deleted_meanwhile_are_not_stored() -> None:
    rig = Rig()
    rig.embedder.hold()
    tasks = [rig.embed("a", "b", namespace="kept"), rig.embed("a", namespace="deleted")]
    await settle()
    rig.epochs["deleted"] = 1
    rig.embedder.release()
    outcomes = await asyncio.gather(*tasks)
    assert [len(outcome.vectors) for outcome in outcomes] == [2, 1]
    assert rig.recording.stored == [2]


async def test_a_cache_that_fails_fails_the_requests_that_it_was_to_store_for() -> None:
    rig = Rig()
    rig.recording.error = MemoryError("no room")
    tasks = [rig.embed("a", "b"), rig.embed("c")]
    await asyncio.wait(tasks)
    for task in tasks:
        with pytest.raises(MemoryError, match="no room"):
            task.result()
    rig.recording.error = None
    await rig.embed("a", "b", "c")
    assert rig.recording.entries == 3


async def test_a_model_says_how_its_cache_is_doing() -> None:
    rig = Rig()
    for _ in range(2):
        await rig.embed("a", "b")
    assert rig.model.cache_statistics == rig.cache.statistics()
    assert (rig.model.cache_statistics.hits, rig.model.cache_statistics.misses) == (2, 2)
    assert rig.model.second_tier_statistics is None
    tier = FakeSecondTier()
    rig.cache = TieredEmbeddingCache(
        rig.recording, tier, ValueCodec(DIMENSION, ElementType.FLOAT32)
    )
    statistics = rig.another_model().second_tier_statistics
    assert statistics is not None
    assert statistics.place is tier.place
