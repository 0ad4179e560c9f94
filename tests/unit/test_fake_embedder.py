"""What clients and test suites may rely on beyond the embedder's contract."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2rank_server.embedder.fake import FakeEmbedder, RecordedCall
from e2rank_server.embedder.protocol import EmbedderPrompt


def prompt(*ids: int) -> EmbedderPrompt:
    return EmbedderPrompt(np.array(ids, np.int32))


async def test_prompts_that_share_more_tokens_are_closer() -> None:
    vectors = await FakeEmbedder(384).embed(
        [prompt(1, 2, 3, 4), prompt(1, 2, 3, 9), prompt(1, 7, 8, 9), prompt(5, 6, 7, 8)]
    )
    same, some, none = vectors[0] @ vectors[1:].T
    assert same > 0.6 > some > none


async def test_vectors_are_the_same_in_every_process() -> None:
    (vector,) = await FakeEmbedder(8).embed([prompt(101, 102)])
    small, large = 2 / 32**0.5, 4 / 32**0.5
    expected = [small, 0, -large, small, small, 0, 0, -small]
    np.testing.assert_allclose(vector, expected, atol=1e-6)


async def test_the_dimension_may_be_one() -> None:
    vectors = await FakeEmbedder(1).embed([prompt(token) for token in range(100)])
    assert set(np.abs(vectors).ravel()) == {1.0}


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=50), st.integers(1, 64))
async def test_every_prompt_has_a_unit_vector(ids: list[int], dimension: int) -> None:
    vectors = await FakeEmbedder(dimension).embed([prompt(*ids)])
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-6)


async def test_calls_are_recorded_with_their_priority() -> None:
    embedder = FakeEmbedder(8)
    prompts = (prompt(1), prompt(2, 3))
    await embedder.embed(prompts, priority=3)
    assert list(embedder.calls) == [RecordedCall(prompts, 3)]


async def test_an_error_it_is_told_to_raise_is_raised_until_taken_back() -> None:
    embedder = FakeEmbedder(8)
    embedder.error = RuntimeError("as told")
    with pytest.raises(RuntimeError, match="as told"):
        await embedder.embed([prompt(1)])
    embedder.error = None
    assert (await embedder.embed([prompt(1)])).shape == (1, 8)
