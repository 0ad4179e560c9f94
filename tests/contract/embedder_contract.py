"""What every Embedder promises.

Subclass EmbedderContract and give it a fixture `embedder`. The tests use token
ids below 1000 and prompts of at most 64 tokens, which any model can take.
`has_no_work_left` and `is_away` are how an implementation shows and reaches the
states that the protocol only talks about.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

import numpy as np
import pytest

from e2rank_server.embedder.protocol import Embedder, EmbedderPrompt
from e2rank_server.errors import UnavailableError
from e2rank_server.types import FloatArray, TokenIds


def token_ids(*ids: int) -> TokenIds:
    return np.array(ids, np.int32)


def random_prompts(number: int, *, seed: int = 0, max_tokens: int = 64) -> list[EmbedderPrompt]:
    """Make prompts of 1 to `max_tokens` random tokens."""
    generator = np.random.default_rng(seed)
    return [
        EmbedderPrompt(
            generator.integers(104, 1000, generator.integers(1, max_tokens + 1), dtype=np.int32)
        )
        for _ in range(number)
    ]


def cosines(left: FloatArray, right: FloatArray) -> FloatArray:
    """Cosine of each row with the other's row, in float64 so that rounding does not show."""
    left64, right64 = left.astype(np.float64), right.astype(np.float64)
    norms = np.linalg.norm(left64, axis=1) * np.linalg.norm(right64, axis=1)
    return np.asarray((left64 * right64).sum(axis=1) / norms)


class EmbedderContract(ABC):
    """Run on every implementation."""

    tolerance = 1e-6
    """Largest 1 - cosine between two passes over the same prompt in different batches."""

    @abstractmethod
    async def start_long_work(self, embedder: Embedder) -> asyncio.Task[FloatArray]:
        """Start an `embed` that is certainly still running when this returns."""

    @abstractmethod
    async def wait_until_idle(self, embedder: Embedder) -> None:
        """Return when the engine has nothing left to compute; fail if that never happens."""

    async def test_vectors_are_float32_unit_rows_in_the_prompts_order(
        self, embedder: Embedder
    ) -> None:
        prompts = random_prompts(20)
        vectors = await embedder.embed(prompts)
        assert vectors.dtype == np.float32
        assert vectors.shape == (20, embedder.dimension)
        assert vectors.flags.c_contiguous
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        backwards = await embedder.embed(prompts[::-1])
        assert cosines(vectors, backwards[::-1]).min() > 1 - self.tolerance

    async def test_no_prompts_give_no_rows(self, embedder: Embedder) -> None:
        assert (await embedder.embed([])).shape == (0, embedder.dimension)

    async def test_a_single_token_is_a_prompt(self, embedder: Embedder) -> None:
        vectors = await embedder.embed([EmbedderPrompt(token_ids(500))])
        assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-6)

    async def test_prompts_with_different_tokens_have_different_vectors(
        self, embedder: Embedder
    ) -> None:
        vectors = await embedder.embed(
            [EmbedderPrompt(token_ids(200, 300, 400)), EmbedderPrompt(token_ids(700, 800, 900))]
        )
        assert cosines(vectors[:1], vectors[1:])[0] < 0.99

    async def test_a_span_pools_only_its_own_tokens(self, embedder: Embedder) -> None:
        ids = token_ids(200, 300, 400, 500, 600, 700)
        spans = [(0, 2), (2, 6), (3, 4), None]
        vectors = await embedder.embed([EmbedderPrompt(ids, span) for span in spans])
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        assert (vectors @ vectors.T)[np.triu_indices(4, 1)].max() < 0.9999
        again = await embedder.embed([EmbedderPrompt(ids, (2, 6))])
        assert cosines(again, vectors[1:2])[0] > 1 - self.tolerance

    @pytest.mark.parametrize("span", [(0, 0), (2, 2), (3, 1), (0, 4), (-1, 2)])
    async def test_a_span_outside_the_prompt_is_refused(
        self, embedder: Embedder, span: tuple[int, int]
    ) -> None:
        with pytest.raises(ValueError, match="span"):
            await embedder.embed([EmbedderPrompt(token_ids(200, 300, 400), span)])

    async def test_an_empty_prompt_is_refused(self, embedder: Embedder) -> None:
        with pytest.raises(ValueError, match="no tokens"):
            await embedder.embed([EmbedderPrompt(token_ids())])

    async def test_calls_that_run_at_once_each_get_their_own_vectors(
        self, embedder: Embedder
    ) -> None:
        batches = [random_prompts(3, seed=seed, max_tokens=20) for seed in range(8)]
        together = await asyncio.gather(
            *(embedder.embed(batch, priority=seed) for seed, batch in enumerate(batches))
        )
        for batch, vectors in zip(batches, together, strict=True):
            alone = await embedder.embed(batch)
            assert cosines(alone, vectors).min() > 1 - self.tolerance

    async def test_a_cancelled_call_leaves_no_work_behind(self, embedder: Embedder) -> None:
        task = await self.start_long_work(embedder)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await self.wait_until_idle(embedder)

    async def test_a_call_that_times_out_leaves_no_work_behind(self, embedder: Embedder) -> None:
        task = await self.start_long_work(embedder)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, 0.01)
        await self.wait_until_idle(embedder)

    async def test_a_cancelled_call_does_not_disturb_another(self, embedder: Embedder) -> None:
        expected = await embedder.embed(random_prompts(4, seed=7))
        leaver = asyncio.create_task(embedder.embed(random_prompts(4, seed=8)))
        stayer = asyncio.create_task(embedder.embed(random_prompts(4, seed=7)))
        await asyncio.sleep(0)
        leaver.cancel()
        assert cosines(await stayer, expected).min() > 1 - self.tolerance

    async def test_a_healthy_engine_passes_its_health_check_while_it_works(
        self, embedder: Embedder
    ) -> None:
        task = await self.start_long_work(embedder)
        await asyncio.wait_for(embedder.check_health(), 1)
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])
        await self.wait_until_idle(embedder)


async def assert_unavailable(embedder: Embedder) -> None:
    """Check that the embedder says that it is away, in both of its calls."""
    with pytest.raises(UnavailableError, match="embedder"):
        await embedder.check_health()
    with pytest.raises(UnavailableError, match="embedder"):
        await embedder.embed(random_prompts(1))
