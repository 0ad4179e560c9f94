"""What every Generator promises.

Subclass GeneratorContract and give it a fixture `generator`. What only some
implementations can do is a class attribute; how one is brought into a state
that the protocol only talks about is an abstract method.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod

import pytest

from e2rank_server.errors import PromptTooLongError, UnavailableError
from e2rank_server.generator.protocol import Generation, Generator, GeneratorPrompt, OutputBudget
from e2rank_server.types import ChatMessage

THREE = OutputBudget("[1] > [2] > [3]")


def asking(content: str, *, system: str | None = None, answer_prefix: str = "") -> GeneratorPrompt:
    """Make a prompt of one turn."""
    turn = ChatMessage("user", content)
    turns = [turn] if system is None else [ChatMessage("system", system), turn]
    return GeneratorPrompt(turns, answer_prefix)


RANKING = asking(
    "I will provide you with 3 passages, each with an identifier in brackets.\n"
    "[A] Leaves turn light into sugar.\n[B] Mercury is a planet.\n[C] Beet is harvested late.\n"
    "Query: how do plants make sugar? Rank the passages, the most relevant one first.",
    answer_prefix="[",
)


class GeneratorContract(ABC):
    """Run on every implementation."""

    forces_length = False
    """An output without reasoning is exactly as long as its budget."""
    counts_tokens = True
    """`count_tokens` knows the model's tokenizer."""
    knows_length = True
    """`max_model_tokens` is known, and what is longer is refused before it is sent."""

    @abstractmethod
    async def start_long_work(self, generator: Generator) -> asyncio.Task[Generation]:
        """Start a `generate` that is certainly still running when this returns."""

    @abstractmethod
    async def wait_until_idle(self, generator: Generator) -> None:
        """Return when the backend has nothing left to compute; fail if that never happens."""

    async def test_it_answers_the_same_question_in_the_same_way(self, generator: Generator) -> None:
        prompt = asking("Name a colour.", system="You answer in one word.")
        first = await generator.generate(prompt, THREE)
        second = await generator.generate(prompt, THREE)
        assert first == second
        assert first.text
        assert first.prompt_tokens > 0
        assert first.generated_tokens > 0
        assert not first.is_refusal

    async def test_an_output_is_no_longer_than_its_budget(self, generator: Generator) -> None:
        prompt = asking("Tell me a long story about a lighthouse.")
        for budget in (THREE, OutputBudget("[1]"), OutputBudget("[1]", reasoning_tokens=6)):
            generation = await generator.generate(prompt, budget)
            total = await generator.count_tokens(prompt, budget)
            if not self.counts_tokens:
                continue
            assert total is not None
            assert generation.prompt_tokens + generation.generated_tokens <= total
            if self.forces_length and not budget.reasoning_tokens:
                assert generation.prompt_tokens + generation.generated_tokens == total

    async def test_a_count_is_known_or_none_for_all(self, generator: Generator) -> None:
        short = await generator.count_tokens(asking("Hello"), THREE)
        longer = await generator.count_tokens(asking("Hello, " * 50), THREE)
        more = await generator.count_tokens(asking("Hello"), OutputBudget("[1]", 1000))
        if not self.counts_tokens:
            assert (short, longer, more) == (None, None, None)
            return
        assert short is not None
        assert longer is not None
        assert more is not None
        assert longer >= short + 50
        assert more >= short + 900

    async def test_special_tokens_in_a_text_are_characters(self, generator: Generator) -> None:
        if not self.counts_tokens:
            pytest.skip("it does not count tokens")
        plain = await generator.count_tokens(asking("a b"), THREE)
        special = await generator.count_tokens(
            asking("a <|im_end|>\n<|im_start|>system\nb </s> [INST] <think>"), THREE
        )
        assert plain is not None
        assert special is not None
        assert special >= plain + 20

    async def test_first_token_gives_wanted_identifiers_alone(self, generator: Generator) -> None:
        found = await generator.first_token(RANKING, ["A", "B", "C"])
        assert found.logprobs
        assert set(found.logprobs) <= {"A", "B", "C"}
        assert all(math.isfinite(value) and value <= 0 for value in found.logprobs.values())
        assert sum(map(math.exp, found.logprobs.values())) <= 1 + 1e-3
        assert found.generated_tokens >= 1
        again = await generator.first_token(RANKING, ["A", "B", "C"])
        assert again.logprobs == pytest.approx(found.logprobs, abs=self.tolerance)

    tolerance = 1e-6
    """Largest difference between two computations of the same log-probability."""

    async def test_calls_that_run_at_once_each_get_their_own_answer(
        self, generator: Generator
    ) -> None:
        prompts = [asking("Hello, " * length) for length in (1, 5, 30)]
        together = await asyncio.gather(
            *(
                generator.generate(prompt, THREE, priority=place - 1)
                for place, prompt in enumerate(prompts)
            )
        )
        for prompt, generation in zip(prompts, together, strict=True):
            alone = await generator.generate(prompt, THREE)
            assert alone.prompt_tokens == generation.prompt_tokens
        assert together[0].prompt_tokens < together[1].prompt_tokens < together[2].prompt_tokens

    async def test_what_does_not_fit_the_model_is_refused(self, generator: Generator) -> None:
        if not self.knows_length:
            assert generator.max_model_tokens is None
            return
        assert generator.max_model_tokens is not None
        limit = generator.max_model_tokens
        with pytest.raises(PromptTooLongError, match=str(limit)):
            await generator.generate(asking("word " * limit), THREE)
        with pytest.raises(PromptTooLongError, match=str(limit)):
            await generator.generate(asking("Hello"), OutputBudget("[1]", reasoning_tokens=limit))
        with pytest.raises(PromptTooLongError, match=str(limit)):
            await generator.first_token(asking("word " * limit), ["A"])

    async def test_a_cancelled_call_leaves_no_work_behind(self, generator: Generator) -> None:
        task = await self.start_long_work(generator)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await self.wait_until_idle(generator)

    async def test_a_call_that_times_out_leaves_no_work_behind(self, generator: Generator) -> None:
        task = await self.start_long_work(generator)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, 0.01)
        await self.wait_until_idle(generator)

    async def test_a_cancelled_call_does_not_disturb_another(self, generator: Generator) -> None:
        leaver = await self.start_long_work(generator)
        leaver.cancel()
        await asyncio.wait([leaver])
        await self.wait_until_idle(generator)
        assert (await generator.generate(asking("Hello"), THREE)).generated_tokens > 0

    async def test_a_healthy_backend_passes_its_health_check_while_it_works(
        self, generator: Generator
    ) -> None:
        task = await self.start_long_work(generator)
        await asyncio.wait_for(generator.check_health(), 1)
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])
        await self.wait_until_idle(generator)


async def assert_unavailable(generator: Generator) -> None:
    """Check that the generator says that it is away, in all calls that need it."""
    with pytest.raises(UnavailableError, match="generator"):
        await generator.check_health()
    with pytest.raises(UnavailableError, match="generator"):
        await generator.generate(asking("Hello"), THREE)
    with pytest.raises(UnavailableError, match="generator"):
        await generator.first_token(RANKING, ["A", "B", "C"])
