"""The fake keeps the embedder's contract; vLLM's turn is in tests/e2e."""

from __future__ import annotations

import asyncio

import pytest

from e2rank_server.embedder.fake import FakeEmbedder
from e2rank_server.embedder.protocol import Embedder
from e2rank_server.types import FloatArray
from tests.contract.embedder_contract import (
    EmbedderContract,
    assert_unavailable,
    random_prompts,
)


class TestFakeEmbedder(EmbedderContract):
    @pytest.fixture
    async def embedder(self) -> FakeEmbedder:
        return FakeEmbedder(64)

    async def start_long_work(self, embedder: Embedder) -> asyncio.Task[FloatArray]:
        assert isinstance(embedder, FakeEmbedder)
        embedder.hold()
        task = asyncio.create_task(embedder.embed(random_prompts(5)))
        await asyncio.sleep(0)  # lets the task begin
        assert embedder.num_running_prompts == 5
        return task

    async def wait_until_idle(self, embedder: Embedder) -> None:
        assert isinstance(embedder, FakeEmbedder)
        assert embedder.num_running_prompts == 0
        assert embedder.num_aborted_prompts == 5

    async def test_an_engine_that_is_away_says_so_and_comes_back(
        self, embedder: FakeEmbedder
    ) -> None:
        embedder.is_available = False
        await assert_unavailable(embedder)
        embedder.is_available = True
        await embedder.check_health()
        assert (await embedder.embed(random_prompts(1))).shape == (1, 64)

    async def test_an_engine_that_dies_fails_the_calls_in_flight(
        self, embedder: FakeEmbedder
    ) -> None:
        task = await self.start_long_work(embedder)
        embedder.is_available = False
        embedder.release()
        with pytest.raises(Exception, match="embedder"):
            await task
