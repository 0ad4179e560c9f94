"""The embedder's contract on vLLM, and what only a real engine can show."""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from e2rank_server.embedder.protocol import Embedder, EmbedderPrompt
from e2rank_server.embedder.vllm_in_process import VllmInProcessEmbedder
from e2rank_server.errors import ConfigurationError, UnavailableError
from e2rank_server.profiles.loading import load_profile
from e2rank_server.types import FloatArray
from tests.contract.embedder_contract import (
    EmbedderContract,
    assert_unavailable,
    cosines,
    random_prompts,
    token_ids,
)
from tests.e2e.embedder.conftest import RunningModel

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

STEP_TOKENS = 512
"""Most tokens of a decoder that are computed in one step on a CPU."""


async def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the engine has no event for it
            await asyncio.sleep(0.01)


def full_prompts(number: int, tokens: int) -> list[EmbedderPrompt]:
    generator = np.random.default_rng(1)
    return [
        EmbedderPrompt(generator.integers(104, 1000, tokens, dtype=np.int32)) for _ in range(number)
    ]


async def start_work(
    embedder: VllmInProcessEmbedder, prompts: list[EmbedderPrompt]
) -> asyncio.Task[FloatArray]:
    """Start `embed` and return when the engine has computed some of it."""
    computed = embedder.counters.computed_tokens
    task = asyncio.create_task(embedder.embed(prompts))
    await wait_until(lambda: embedder.counters.computed_tokens > computed)
    assert not task.done()
    return task


async def wait_until_engine_is_idle(embedder: VllmInProcessEmbedder) -> None:
    """Let one more token through the engine: what it reports then is what it has left."""
    assert embedder.num_unfinished_requests == 0
    await embedder.embed([EmbedderPrompt(token_ids(500))])
    assert embedder.counters.running_requests == 0
    assert embedder.counters.waiting_requests == 0


class TestVllmInProcessEmbedder(EmbedderContract):
    tolerance = 1e-3  # bfloat16, and sums in another order in another batch

    @pytest.fixture
    def embedder(self, minilm: RunningModel) -> VllmInProcessEmbedder:
        return minilm.embedder

    async def start_long_work(self, embedder: Embedder) -> asyncio.Task[FloatArray]:
        assert isinstance(embedder, VllmInProcessEmbedder)
        return await start_work(embedder, full_prompts(20, 300))

    async def wait_until_idle(self, embedder: Embedder) -> None:
        assert isinstance(embedder, VllmInProcessEmbedder)
        await wait_until_engine_is_idle(embedder)

    async def test_a_prompt_longer_than_the_model_is_refused(
        self, embedder: VllmInProcessEmbedder
    ) -> None:
        with pytest.raises(ValueError, match="513 tokens, but the model takes 512"):
            await embedder.embed(full_prompts(1, 513))

    async def test_a_prompt_that_the_engine_refuses_takes_the_others_with_it(
        self, embedder: VllmInProcessEmbedder
    ) -> None:
        unknown = EmbedderPrompt(token_ids(2_000_000))
        with pytest.raises(Exception, match="out of vocabulary"):
            await embedder.embed([*full_prompts(5, 300), unknown])
        await wait_until_engine_is_idle(embedder)

    async def test_a_call_that_is_thrown_away_is_aborted_too(
        self, embedder: VllmInProcessEmbedder
    ) -> None:
        call = embedder.embed(full_prompts(20, 300))
        call.send(None)  # as far as its first wait
        assert embedder.num_unfinished_requests > 0
        call.close()  # raises GeneratorExit inside
        await wait_until(lambda: embedder.num_unfinished_requests == 0)
        await wait_until_engine_is_idle(embedder)

    async def test_ctrl_c_in_the_terminal_does_not_reach_the_engine(
        self, minilm: RunningModel
    ) -> None:
        assert minilm.process.pid is not None
        os.kill(minilm.process.pid, signal.SIGINT)
        await minilm.embedder.embed(random_prompts(2))
        assert minilm.process.is_alive()

    async def test_variables_that_vllm_sets_for_its_processes_are_gone(
        self, minilm: RunningModel
    ) -> None:
        assert minilm.process.is_alive()
        assert "LD_PRELOAD" not in os.environ
        assert not [name for name in os.environ if name.startswith("VLLM_")]


async def test_a_cancelled_decoder_pass_is_computed_no_further(smollm2: RunningModel) -> None:
    embedder = smollm2.embedder
    task = await start_work(embedder, full_prompts(8, 600))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    at_cancellation = embedder.counters.computed_tokens
    await wait_until_engine_is_idle(embedder)
    # The step that was being computed ends; of 4800 tokens no other begins.
    assert embedder.counters.computed_tokens - at_cancellation <= STEP_TOKENS + 1


async def test_decoder_prompts_of_exactly_the_models_length_are_embedded(
    smollm2: RunningModel,
) -> None:
    (vector,) = await smollm2.embedder.embed(full_prompts(1, 640))
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


async def test_lower_priority_numbers_run_earlier(smollm2: RunningModel) -> None:
    embedder = smollm2.embedder
    finished: list[str] = []

    async def embed(name: str, priority: int) -> None:
        await embedder.embed(full_prompts(1, 200), priority=priority)
        finished.append(name)

    blocker = await start_work(embedder, full_prompts(1, 600))
    await asyncio.gather(embed("late", 5), embed("later", 9), embed("early", -5), blocker)
    assert finished.index("early") < finished.index("late") < finished.index("later")


async def test_a_start_that_is_called_off_leaves_no_process(minilm: RunningModel) -> None:
    others = set(multiprocessing.active_children())
    start = asyncio.create_task(
        VllmInProcessEmbedder.start(minilm.profile, minilm.folder.path, dtype="bfloat16")
    )
    await wait_until(lambda: not set(multiprocessing.active_children()) <= others)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert set(multiprocessing.active_children()) <= others


async def test_a_folder_that_vllm_cannot_load_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    profile = dataclasses.replace(load_profile("all-minilm-l6-v2"), name="broken")
    with pytest.raises(ConfigurationError, match="profile broken: vLLM cannot serve"):
        await VllmInProcessEmbedder.start(profile, tmp_path, dtype="float32")


async def test_a_killed_engine_is_unavailable_and_comes_back(minilm: RunningModel) -> None:
    """The last test: it replaces the engine's process, which takes half a minute."""
    embedder = minilm.embedder
    prompts = random_prompts(3)
    before = await embedder.embed(prompts)
    task = await start_work(embedder, full_prompts(20, 300))
    minilm.process.kill()
    with pytest.raises(UnavailableError, match="embedder"):
        await task
    await assert_unavailable(embedder)

    async with asyncio.timeout(180):
        while True:
            try:
                after = await embedder.embed(prompts)
            except UnavailableError:
                await asyncio.sleep(0.1)
            else:
                break
    await embedder.check_health()
    assert cosines(after, before).min() > 0.999
