"""A generator for tests: it answers what a function says, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence

from e2rank_server.errors import UnavailableError
from e2rank_server.generator.protocol import (
    FirstToken,
    Generation,
    GeneratorPrompt,
    OutputBudget,
)
from e2rank_server.types import GeneratorBackend

Answer = Callable[[GeneratorPrompt], str]

_PASSAGE = re.compile(r"^\[(\w+)\]\.? (?P<text>.*)$", re.MULTILINE)
_WORTH = re.compile(r"worth (\d+)")


def passages(prompt: GeneratorPrompt) -> list[str]:
    """Return the texts of a prompt's passages, in its order."""
    text = "\n".join(message.content for message in prompt.messages)
    return [match["text"] for match in _PASSAGE.finditer(text)]


def by_worth(prompt: GeneratorPrompt) -> str:
    """Answer as an LLM that knows its trade: passages say `worth N`, the highest comes first."""
    worths = [int(match[1]) for text in passages(prompt) if (match := _WORTH.search(text))]
    order = sorted(range(len(worths)), key=lambda place: -worths[place])
    return " > ".join(f"[{place + 1}]" for place in order)


class FakeGenerator:
    """See `Generator`. A token is a word; `answer` may raise what a generator raises.

    `hold` set, calls wait for it; `num_cancelled` counts those that were cancelled meanwhile.
    """

    backend = GeneratorBackend.OPENAI_ENDPOINT
    model = "fake-llm"

    def __init__(
        self,
        answer: Answer = by_worth,
        *,
        max_model_tokens: int | None = None,
        logprobs: Callable[[Sequence[str]], dict[str, float]] | None = None,
    ) -> None:
        self.max_model_tokens = max_model_tokens
        self.answer = answer
        self.logprobs = logprobs
        self.prompts: list[GeneratorPrompt] = []
        self.budgets: list[OutputBudget] = []
        self.priorities: list[int] = []
        self.was_asked = asyncio.Event()
        self.hold: asyncio.Event | None = None
        self.num_cancelled = 0
        self.is_closed = False

    async def count_tokens(self, prompt: GeneratorPrompt, budget: OutputBudget) -> int | None:
        """Count words; None where the limit is not known either."""
        if self.max_model_tokens is None:
            return None
        num_words = sum(len(message.content.split()) for message in prompt.messages)
        return num_words + len(budget.answer_like.split()) + budget.reasoning_tokens

    async def generate(
        self, prompt: GeneratorPrompt, budget: OutputBudget, *, priority: int = 0
    ) -> Generation:
        """Answer what `answer` says; an empty answer is a refusal."""
        await self._receive(prompt, priority)
        self.budgets.append(budget)
        text = self.answer(prompt)
        return Generation(text, 10, len(text.split()), is_refusal=not text)

    async def first_token(
        self, prompt: GeneratorPrompt, identifiers: Sequence[str], *, priority: int = 0
    ) -> FirstToken:
        """Answer what `logprobs` says."""
        await self._receive(prompt, priority)
        assert self.logprobs is not None
        return FirstToken(self.logprobs(identifiers), 10, 1)

    async def check_health(self) -> None:
        """Be well."""

    async def close(self) -> None:
        """Remember it."""
        self.is_closed = True

    async def _receive(self, prompt: GeneratorPrompt, priority: int) -> None:
        if self.is_closed:
            raise UnavailableError("generator", "it is closed")
        self.prompts.append(prompt)
        self.priorities.append(priority)
        self.was_asked.set()
        if self.hold is not None:
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.num_cancelled += 1
                raise
