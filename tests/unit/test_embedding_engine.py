import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from e2rank_server.embedder.fake import FakeEmbedder
from e2rank_server.embedder.protocol import EmbedderPrompt
from e2rank_server.engine.urgency import Urgency, pass_priority
from e2rank_server.errors import UnavailableError
from e2rank_server.types import (
    CacheTier,
    EmbedRequest,
    FloatArray,
    InputType,
    RerankRequest,
    TextInput,
    WarningCode,
)
from tests.unit.engine_rig import EngineRig, documents, settle


def texts(*values: str) -> list[TextInput]:
    return [TextInput(value) for value in values]


async def test_vectors_come_in_order_and_normalised() -> None:
    rig = EngineRig()
    outcome = await rig.model.embed(EmbedRequest(InputType.DOCUMENT, texts("a b", "c d", "a b")))
    assert outcome.vectors.shape == (3, rig.profile.dimension)
    np.testing.assert_array_equal(outcome.vectors[0], outcome.vectors[2])
    np.testing.assert_allclose(np.linalg.norm(outcome.vectors, axis=1), 1, atol=1e-6)
    single = await rig.model.embed(EmbedRequest(InputType.DOCUMENT, texts("c d")))
    np.testing.assert_array_equal(single.vectors[0], outcome.vectors[1])


async def test_documents_are_cached_and_shared_with_rerank() -> None:
    rig = EngineRig()
    await rig.model.rerank(RerankRequest(query="q", documents=documents("a b")))
    outcome = await rig.model.embed(EmbedRequest(InputType.DOCUMENT, texts("a b", "new")))
    assert list(outcome.cache_tiers) == [CacheTier.MEMORY, CacheTier.COMPUTED]
    assert (outcome.usage.inputs_cached, outcome.usage.inputs_embedded) == (1, 1)


async def test_queries_are_not_cached() -> None:
    rig = EngineRig()
    for _ in range(2):
        outcome = await rig.model.embed(EmbedRequest(InputType.QUERY, texts("a b")))
        assert list(outcome.cache_tiers) == [CacheTier.COMPUTED]
    assert rig.tokenizer.queries == ["a b", "a b"]
    assert rig.cache.statistics().entries == 0


async def test_what_was_cut_is_reported() -> None:
    rig = EngineRig()
    long = " ".join(f"w{n}" for n in range(60))
    outcome = await rig.model.embed(EmbedRequest(InputType.DOCUMENT, texts("short", long)))
    assert list(outcome.truncated) == [False, True]
    assert outcome.usage.inputs_truncated == 1
    outcome = await rig.model.embed(EmbedRequest(InputType.QUERY, texts(long), instruction="x"))
    assert {w.code for w in outcome.warnings} == {
        WarningCode.QUERY_TRUNCATED,
        WarningCode.INSTRUCTION_IGNORED,
    }


@pytest.mark.parametrize("input_type", list(InputType))
async def test_a_large_batch_takes_its_turn_in_slices(input_type: InputType) -> None:
    rig = EngineRig()
    inputs = texts(*(f"text {n}" for n in range(300)))
    outcome = await rig.model.embed(EmbedRequest(input_type, inputs))
    assert outcome.vectors.shape[0] == len(outcome.truncated) == len(outcome.cache_tiers) == 300
    one = await rig.model.embed(EmbedRequest(input_type, inputs[299:]))
    np.testing.assert_array_equal(outcome.vectors[299], one.vectors[0])
    assert outcome.usage.inputs_embedded == 300
    assert rig.gate.running_tokens == 0


async def test_a_rerank_is_served_beside_large_batches_and_runs_before_what_waits_of_them() -> None:
    rig = EngineRig()
    rig.embedder.hold()
    inputs = texts(*("much text " * 200 + str(n) for n in range(2000)))
    bulks = [
        asyncio.create_task(rig.model.embed(EmbedRequest(input_type, inputs, namespace=str(n))))
        for n in range(3)
        for input_type in InputType
    ]
    await settle()
    assert rig.gate.waiting_tokens > 0  # the batches would take more than there is
    batched = len(rig.embedder.calls)
    rerank = asyncio.create_task(
        rig.model.rerank(RerankRequest(query="q", documents=documents("x")))
    )
    await settle()
    calls = list(rig.embedder.calls)
    urgent = calls[batched:]
    assert len(urgent) == 2  # its query and its document
    assert max(each.priority for each in urgent) < min(each.priority for each in calls[:batched])
    for task in (*bulks, rerank):
        task.cancel()
    await asyncio.wait([*bulks, rerank])
    assert (rig.gate.running_tokens, rig.gate.waiting_tokens) == (0, 0)


@pytest.mark.parametrize(
    ("input_type", "number", "urgency"),
    [
        (InputType.QUERY, 1, Urgency.PROMPT),
        (InputType.DOCUMENT, 8, Urgency.CANDIDATES),
        (InputType.QUERY, 9, Urgency.BATCH),
        (InputType.DOCUMENT, 9, Urgency.BATCH),
    ],
)
async def test_few_texts_are_urgent_and_many_are_not(
    input_type: InputType, number: int, urgency: Urgency
) -> None:
    rig = EngineRig()
    inputs = texts(*(f"text {n}" for n in range(number)))
    await rig.model.embed(EmbedRequest(input_type, inputs, priority=2))
    assert {call.priority for call in rig.embedder.calls} == {pass_priority(2, urgency)}


async def test_one_failure_fails_the_whole_batch() -> None:
    class FailsOnSecondCall(FakeEmbedder):
        async def embed(
            self, prompts: Sequence[EmbedderPrompt], *, priority: int = 0
        ) -> FloatArray:
            vectors = await super().embed(prompts, priority=priority)
            if len(self.calls) == 2:
                raise UnavailableError("embedder", "gone")
            return vectors

    rig = EngineRig()
    rig.embedder = FailsOnSecondCall(rig.profile.dimension)
    model = rig.another_model()
    with pytest.raises(UnavailableError):
        await model.embed(EmbedRequest(InputType.DOCUMENT, texts("a", "b", "c")))
    outcome = await model.embed(EmbedRequest(InputType.DOCUMENT, texts("a", "b", "c")))
    assert len(outcome.vectors) == 3
