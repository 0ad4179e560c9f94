"""The embedder's contract on a vLLM server, and what only a real one can show."""

from __future__ import annotations

import asyncio

import aiohttp
import numpy as np
import psutil
import pytest

from e2rank_server.embedder.protocol import Embedder, EmbedderPrompt
from e2rank_server.embedder.vllm_remote.embedder import VllmRemoteEmbedder
from e2rank_server.embedder.vllm_remote.failure import RefusedError
from e2rank_server.embedder.vllm_span_route import SPAN_PATH
from e2rank_server.errors import UnavailableError
from e2rank_server.types import FloatArray
from tests.contract.embedder_contract import (
    EmbedderContract,
    assert_unavailable,
    cosines,
    random_prompts,
    token_ids,
)
from tests.e2e.embedder.conftest import RunningModel, VllmServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

MIN_COSINE = 0.999


def full_prompts(number: int, tokens: int) -> list[EmbedderPrompt]:
    generator = np.random.default_rng(1)
    return [
        EmbedderPrompt(generator.integers(104, 1000, tokens, dtype=np.int32)) for _ in range(number)
    ]


async def start_work(
    embedder: Embedder, server: VllmServerProcess, prompts: list[EmbedderPrompt]
) -> asyncio.Task[FloatArray]:
    """Start `embed` and return when the engine has computed some of it."""
    before = await server.metric("vllm:prompt_tokens_total")
    task = asyncio.create_task(embedder.embed(prompts))
    async with asyncio.timeout(60):
        while await server.metric("vllm:prompt_tokens_total") == before:
            pass  # asking takes long enough
    assert not task.done()
    return task


class TestVllmRemoteEmbedder(EmbedderContract):
    tolerance = 1e-3

    @pytest.fixture
    def embedder(
        self, remote_minilm: VllmRemoteEmbedder, vllm_server: VllmServerProcess
    ) -> VllmRemoteEmbedder:
        self.server = vllm_server
        return remote_minilm

    async def start_long_work(self, embedder: Embedder) -> asyncio.Task[FloatArray]:
        return await start_work(embedder, self.server, full_prompts(60, 300))

    async def wait_until_idle(self, embedder: Embedder) -> None:
        """Let one more token through the engine: what it reports then is what it has left."""
        await embedder.embed([EmbedderPrompt(token_ids(500))])
        assert await self.server.metric("vllm:num_requests_running") == 0
        assert await self.server.metric("vllm:num_requests_waiting") == 0

    async def test_inputs_of_exactly_the_models_length_are_embedded(
        self, embedder: VllmRemoteEmbedder
    ) -> None:
        (full,) = full_prompts(1, 512)
        vectors = await embedder.embed([full, EmbedderPrompt(full.token_ids, (500, 512))])
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)

    @pytest.mark.parametrize("span", [None, (0, 1)])
    async def test_a_prompt_that_the_engine_refuses_is_a_defect_and_ejects_nobody(
        self, embedder: VllmRemoteEmbedder, span: tuple[int, int] | None
    ) -> None:
        with pytest.raises(RefusedError, match="HTTP 400"):
            await embedder.embed([EmbedderPrompt(token_ids(2_000_000), span)])
        await embedder.check_health()


async def test_in_process_and_remote_agree_on_texts_and_on_spans(
    minilm: RunningModel, remote_minilm: VllmRemoteEmbedder
) -> None:
    prompts = random_prompts(16, seed=3, max_tokens=100)
    spans = [
        EmbedderPrompt(prompt.token_ids, (len(prompt.token_ids) // 3, len(prompt.token_ids)))
        for prompt in prompts[:8]
    ]
    here = await minilm.embedder.embed([*prompts, *spans])
    there = await remote_minilm.embed([*prompts, *spans])
    assert cosines(here, there).min() >= MIN_COSINE


async def test_what_is_cancelled_is_computed_no_further(
    remote_minilm: VllmRemoteEmbedder, vllm_server: VllmServerProcess
) -> None:
    prompts = full_prompts(100, 300)
    before = await vllm_server.metric("vllm:prompt_tokens_total")
    task = await start_work(remote_minilm, vllm_server, prompts)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await remote_minilm.embed([EmbedderPrompt(token_ids(500))])
    assert await vllm_server.metric("vllm:num_requests_running") == 0
    # vLLM counts what it has finished. The rest, most of it, it never will.
    assert await vllm_server.metric("vllm:prompt_tokens_total") - before < 30_000 / 2


@pytest.mark.parametrize("path", ["/v1/embeddings", SPAN_PATH])
async def test_without_the_key_nothing_is_embedded(
    vllm_server: VllmServerProcess, remote_minilm: VllmRemoteEmbedder, path: str
) -> None:
    connector = aiohttp.UnixConnector(str(vllm_server.socket))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post("http://localhost" + path, json={"token_ids": [5], "span": [0, 1]}) as answer,
    ):
        assert answer.status == 401


async def test_a_server_whose_parent_is_killed_ends_and_another_takes_over_its_url(
    remote_minilm: VllmRemoteEmbedder, vllm_server: VllmServerProcess
) -> None:
    """The last test: it starts the server again, which takes half a minute."""
    prompts = random_prompts(3)
    before = await remote_minilm.embed(prompts)
    task = await start_work(remote_minilm, vllm_server, full_prompts(60, 300))
    below = vllm_server.kill_parent()
    with pytest.raises(UnavailableError, match="embedder"):
        await task
    await assert_unavailable(remote_minilm)
    _, alive = await asyncio.to_thread(psutil.wait_procs, below, 30)
    assert not alive

    vllm_server.start()
    async with asyncio.timeout(180):
        await remote_minilm.wait_until_ready()
    assert cosines(await remote_minilm.embed(prompts), before).min() > MIN_COSINE
