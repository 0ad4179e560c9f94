"""The generator at an OpenAI-compatible endpoint keeps the contract, in both dialects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from e2rank_server.errors import UnavailableError
from e2rank_server.generator.openai_endpoint import OpenAiEndpointGenerator
from e2rank_server.generator.openai_request import EndpointApi
from e2rank_server.generator.protocol import Generation, Generator
from tests.contract.generator_contract import (
    THREE,
    GeneratorContract,
    asking,
    assert_unavailable,
)
from tests.fake_openai_endpoint import Answer, Body, FakeOpenAiEndpoint
from tests.fake_vllm_server import eventually


def answer(body: Body) -> Answer:
    """Rank letters where log-probabilities are asked for, else write for as long as is allowed."""
    likely = {"B": -0.5, " A": -1.5, "x": -2.0, "C": -4.0}
    if "continue_final_message" in body:
        return Answer("B", "length", logprobs=[likely])
    if body.get("logprobs"):
        return Answer("[B]", "length", logprobs=[{"[": -0.1}, likely, {"]": -0.1}])
    return Answer("word " * 100, "length")


class OpenAiEndpointContract(GeneratorContract):
    api: EndpointApi = "openai"
    has_tokenize = False
    max_model_tokens: int | None = None

    @pytest.fixture
    async def endpoint(self) -> AsyncIterator[FakeOpenAiEndpoint]:
        async with FakeOpenAiEndpoint() as endpoint:
            endpoint.has_tokenize = self.has_tokenize
            endpoint.answer_with(answer)
            self.endpoint = endpoint
            yield endpoint

    @pytest.fixture
    async def generator(
        self, endpoint: FakeOpenAiEndpoint
    ) -> AsyncIterator[OpenAiEndpointGenerator]:
        if self.max_model_tokens is not None:
            endpoint.max_model_len = self.max_model_tokens
        generator = await OpenAiEndpointGenerator.start(
            endpoint.model,
            endpoint.url,
            api_key=None,
            api=self.api,
            timeout_seconds=30,
            max_model_tokens=self.max_model_tokens,
            max_retries=0,
        )
        yield generator
        await generator.close()

    async def start_long_work(self, generator: Generator) -> asyncio.Task[Generation]:
        self.endpoint.hold()
        task = asyncio.create_task(generator.generate(asking("Tell me a story."), THREE))
        await eventually(lambda: self.endpoint.num_waiting == 1)
        return task

    async def wait_until_idle(self, generator: Generator) -> None:
        await eventually(lambda: self.endpoint.num_disconnects == 1)
        assert self.endpoint.num_waiting == 0
        self.endpoint.release()

    async def test_an_endpoint_that_is_away_says_so_and_comes_back(
        self, generator: Generator
    ) -> None:
        await self.endpoint.stop()
        with pytest.raises(UnavailableError):  # from here on it is known
            await generator.generate(asking("Hello"), THREE)
        await assert_unavailable(generator)
        await self.endpoint.start()
        await generator.check_health()
        assert (await generator.generate(asking("Hello"), THREE)).text


class TestStandardEndpoint(OpenAiEndpointContract):
    counts_tokens = False
    knows_length = False


class TestVllmEndpoint(OpenAiEndpointContract):
    api = "vllm"
    has_tokenize = True
    max_model_tokens = 512
    forces_length = True


class TestEndpointThatCountsNoTokens(OpenAiEndpointContract):
    api = "vllm"
    counts_tokens = False
    knows_length = False
