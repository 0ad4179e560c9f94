"""The fake and the remote embedder keep the contract; vLLM's own turn is in tests/e2e."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from e2rank_server.embedder.fake import FakeEmbedder
from e2rank_server.embedder.protocol import Embedder
from e2rank_server.errors import UnavailableError
from e2rank_server.types import FloatArray
from tests.contract.embedder_contract import (
    EmbedderContract,
    assert_unavailable,
    random_prompts,
)
from tests.fake_vllm_server import FakeVllmServer, eventually, remote_embedder


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


class TestVllmRemoteEmbedder(EmbedderContract):
    @pytest.fixture
    async def server(self) -> AsyncIterator[FakeVllmServer]:
        server = FakeVllmServer()
        await server.start()
        yield server
        await server.stop()

    @pytest.fixture
    async def embedder(self, server: FakeVllmServer, tmp_path: Path) -> AsyncIterator[Embedder]:
        self.server = server
        async with remote_embedder(tmp_path, server.url) as embedder:
            yield embedder

    async def start_long_work(self, embedder: Embedder) -> asyncio.Task[FloatArray]:
        self.server.embedder.hold()
        task = asyncio.create_task(embedder.embed(random_prompts(5)))
        await eventually(lambda: self.server.embedder.num_running_prompts == 5)
        return task

    async def wait_until_idle(self, embedder: Embedder) -> None:
        await eventually(lambda: self.server.embedder.num_aborted_prompts == 5)
        assert self.server.embedder.num_running_prompts == 0

    async def test_a_server_that_is_away_is_said_so_and_comes_back(
        self, embedder: Embedder
    ) -> None:
        await self.server.stop()
        await eventually(lambda: not is_healthy(embedder))
        await assert_unavailable(embedder)
        await self.server.start()
        await eventually(lambda: is_healthy(embedder))
        assert (await embedder.embed(random_prompts(1))).shape == (1, embedder.dimension)

    async def test_a_server_that_dies_fails_the_calls_in_flight(self, embedder: Embedder) -> None:
        task = await self.start_long_work(embedder)
        await self.server.stop()
        with pytest.raises(UnavailableError, match="embedder"):
            await task


def is_healthy(embedder: Embedder) -> bool:
    """Run a check that waits for nothing."""
    try:
        embedder.check_health().send(None)
    except StopIteration:
        return True
    except UnavailableError:
        return False
    raise AssertionError("the check waits for something")
