"""The generator's contract on vLLM, and what only a real engine can show."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from e2rank_server.errors import ConfigurationError, PromptTooLongError, UnavailableError
from e2rank_server.generator.chat import ChatTokenizer
from e2rank_server.generator.protocol import Generation, Generator, GeneratorPrompt, OutputBudget
from e2rank_server.generator.vllm_in_process import VllmInProcessGenerator
from e2rank_server.types import ChatMessage
from tests.contract.generator_contract import (
    RANKING,
    THREE,
    GeneratorContract,
    asking,
    assert_unavailable,
)
from tests.e2e.generator.conftest import RunningLlm

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

TOLERANCE = 0.25
"""Between log-probabilities here and in float32: two steps of bfloat16 at logits from 16 to 32."""
LONG = OutputBudget(" > ".join(f"[{number}]" for number in range(1, 26)))


async def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the engine has no event for it
            await asyncio.sleep(0.01)


async def start_work(generator: VllmInProcessGenerator) -> asyncio.Task[Generation]:
    """Start `generate` and return when the engine has computed some of it."""
    computed = generator.counters.computed_tokens
    task = asyncio.create_task(generator.generate(asking("Count to a thousand."), LONG))
    await wait_until(lambda: generator.counters.computed_tokens > computed)
    assert not task.done()
    return task


async def wait_until_engine_is_idle(generator: VllmInProcessGenerator) -> None:
    """Let one more token through the engine: what it reports then is what it has left."""
    assert generator.num_unfinished_requests == 0
    await generator.generate(asking("Hello"), OutputBudget("[", 0))
    assert generator.counters.running_requests == 0
    assert generator.counters.waiting_requests == 0


class TestVllmInProcessGenerator(GeneratorContract):
    forces_length = True
    tolerance = TOLERANCE

    @pytest.fixture
    def generator(self, smollm2_llm: RunningLlm) -> VllmInProcessGenerator:
        return smollm2_llm.generator

    async def start_long_work(self, generator: Generator) -> asyncio.Task[Generation]:
        assert isinstance(generator, VllmInProcessGenerator)
        return await start_work(generator)

    async def wait_until_idle(self, generator: Generator) -> None:
        assert isinstance(generator, VllmInProcessGenerator)
        await wait_until_engine_is_idle(generator)

    async def test_a_model_that_would_stop_is_held_to_the_budget(
        self, generator: VllmInProcessGenerator
    ) -> None:
        prompt = asking("Say yes.", system="You answer in one word.")
        free = await generator.generate(prompt, OutputBudget("[1]", reasoning_tokens=60))
        assert free.generated_tokens < 60  # it ended its turn
        held = await generator.generate(prompt, LONG)
        tokens = await generator.count_tokens(prompt, LONG)
        assert tokens == held.prompt_tokens + held.generated_tokens
        assert held.generated_tokens > 100
        assert "<|im_" not in free.text + held.text

    async def test_prompt_and_output_may_fill_the_model_and_no_more(
        self, generator: VllmInProcessGenerator
    ) -> None:
        limit = generator.max_model_tokens
        used = await generator.count_tokens(asking("Hello"), OutputBudget("[1]"))
        assert limit is not None
        assert used is not None
        # A word more is a token more.
        full = asking("Hello" + " dog" * (limit - used))
        assert await generator.count_tokens(full, OutputBudget("[1]")) == limit
        assert (await generator.generate(full, OutputBudget("[1]"))).generated_tokens == 3
        too_long = asking("Hello" + " dog" * (limit - used + 1))
        with pytest.raises(PromptTooLongError, match=f"takes {limit} together"):
            await generator.generate(too_long, OutputBudget("[1]"))

    async def test_a_prompt_that_was_seen_is_not_computed_again(
        self, generator: VllmInProcessGenerator
    ) -> None:
        computed = []
        for _ in range(2):
            before = generator.counters.computed_tokens
            await generator.generate(asking("A badger went over the hill. " * 30), THREE)
            await wait_until_engine_is_idle(generator)
            computed.append(generator.counters.computed_tokens - before)
        assert computed[1] < computed[0] / 2

    async def test_an_urgent_call_overtakes_others(self, generator: VllmInProcessGenerator) -> None:
        finished: list[int] = []

        async def generate(priority: int) -> None:
            await generator.generate(
                asking(f"{priority} ducks swim. " * 90), OutputBudget("["), priority=priority
            )
            finished.append(priority)

        blocker = asyncio.create_task(generate(0))
        await wait_until(lambda: generator.num_unfinished_requests == 1)
        await asyncio.gather(generate(5), generate(9), generate(-5), blocker)
        assert finished.index(-5) < finished.index(5) < finished.index(9)


class Reference:
    """The same model in transformers, float32: the log-probability of an answer as tokens."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._whole = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._chat = ChatTokenizer.load(folder)

    def ids(self, text: str) -> list[int]:
        return list(self._whole.encode(text, add_special_tokens=False).ids)

    def logprob(
        self, messages: Sequence[ChatMessage], given: list[int], answer: list[int]
    ) -> float:
        """Compute that of `answer` after the messages and the first tokens of the answer."""
        before = self._chat.tokenize(GeneratorPrompt(messages)).token_ids + given
        ids = self._torch.tensor([before + answer])
        with self._torch.inference_mode():
            steps = self._torch.log_softmax(self._model(ids).logits[0], dim=-1)
        places = range(len(before), ids.shape[1])
        return float(sum(steps[place - 1, ids[0, place]] for place in places))


@pytest.fixture(scope="module")
def reference(llm_folder: Path) -> Reference:
    return Reference(llm_folder)


@pytest.mark.parametrize("answer_prefix", ["", "["])
async def test_identifiers_that_follow_the_answers_beginning_have_transformers_logprobs(
    smollm2_llm: RunningLlm, reference: Reference, answer_prefix: str
) -> None:
    prompt = GeneratorPrompt(RANKING.messages, answer_prefix)
    found = await smollm2_llm.generator.first_token(prompt, ["A", "B", "C"])
    assert found.logprobs.keys() == {"A", "B", "C"}
    given = reference.ids(answer_prefix)
    for name, logprob in found.logprobs.items():
        expected = max(
            reference.logprob(RANKING.messages, given, reference.ids(variant))
            for variant in (name, f" {name}")
        )
        assert logprob == pytest.approx(expected, abs=TOLERANCE), name


async def test_identifiers_that_join_the_answers_beginning_compete_with_those_that_follow(
    smollm2_llm: RunningLlm, reference: Reference
) -> None:
    """After "A", the model has "As" and "An" as one token, and "A" and "," as two."""
    prompt = GeneratorPrompt(RANKING.messages, "A")
    found = await smollm2_llm.generator.first_token(prompt, ["s", "n", ","])
    assert found.generated_tokens == 2
    for name, answer in {"s": ["As"], "n": ["An"], ",": ["A", ","]}.items():
        ids = [token for text in answer for token in reference.ids(text)]
        assert len(ids) == len(answer)
        expected = reference.logprob(RANKING.messages, [], ids)
        assert found.logprobs[name] == pytest.approx(expected, abs=TOLERANCE), name


async def test_a_folder_without_a_chat_template_is_a_configuration_error(
    llm_folder: Path, tmp_path: Path
) -> None:
    for file in llm_folder.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(ConfigurationError, match=r"generator mute: .* no chat template"):
        await VllmInProcessGenerator.start("mute", tmp_path, dtype="float32")


async def test_a_killed_engine_is_unavailable_and_comes_back(smollm2_llm: RunningLlm) -> None:
    """Almost the last test: it replaces the engine's process, which takes half a minute."""
    generator = smollm2_llm.generator
    before = await generator.generate(RANKING, THREE)
    task = await start_work(generator)
    smollm2_llm.process.kill()
    with pytest.raises(UnavailableError, match="generator"):
        await task
    await assert_unavailable(generator)

    async with asyncio.timeout(180):
        while True:
            try:
                after = await generator.generate(RANKING, THREE)
            except UnavailableError:
                await asyncio.sleep(0.1)
            else:
                break
    await generator.check_health()
    assert after.generated_tokens == before.generated_tokens


async def test_a_closed_generator_fails_what_is_in_flight_and_what_comes(
    smollm2_llm: RunningLlm,
) -> None:
    """The last test."""
    task = await start_work(smollm2_llm.generator)
    await smollm2_llm.generator.close()
    with pytest.raises(UnavailableError, match="generator"):
        await task
    await assert_unavailable(smollm2_llm.generator)
