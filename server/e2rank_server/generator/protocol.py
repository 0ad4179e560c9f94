"""The generator seam: a conversation in, what an LLM answers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from e2rank_server.types import ChatMessage, GeneratorBackend


@dataclass(frozen=True, slots=True)
class GeneratorPrompt:
    """A conversation that the model is to continue.

    `answer_prefix` is how its answer has to begin; the output does not repeat
    it. `thinking` None is for models and templates that know no such switch.
    Messages are texts: what looks like a special token in them is characters.
    """

    messages: Sequence[ChatMessage]
    answer_prefix: str = ""
    thinking: bool | None = None


@dataclass(frozen=True, slots=True)
class OutputBudget:
    """How long an output may be.

    `answer_like` is a text as long as the answer has to be: an output without
    reasoning gets exactly its number of tokens where the backend can force
    that, and at most so many (estimated on the generous side) where it cannot.
    `reasoning_tokens` come on top, and with them nothing is forced.
    """

    answer_like: str
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """An output: `text` is without `<think>` delimiters' content only if the backend split it off.

    `is_refusal` says that the model or its provider declined to answer; `text`
    may be empty then.
    """

    text: str
    prompt_tokens: int
    generated_tokens: int
    is_refusal: bool = False


@dataclass(frozen=True, slots=True)
class FirstToken:
    """What the model thinks of the first token of its answer.

    `logprobs` has those of the wanted identifiers that are among the most
    likely tokens; their natural logarithms, higher is likelier.
    """

    logprobs: Mapping[str, float]
    prompt_tokens: int
    generated_tokens: int


class Generator(Protocol):
    """Runs one instruction-tuned LLM, greedily.

    Errors:
        UnavailableError("generator"): it is away, answers 5xx or nonsense, or took longer
            than the configured time for one call.
        OverloadedError: it says that it has too much to do (429).
        GeneratorRefusedError: it refuses such calls for good (other 4xx).
        PromptTooLongError: prompt and output do not fit its context.

    Cancelling a call stops its work before the cancellation reaches the caller.
    """

    backend: GeneratorBackend
    model: str
    """The name that responses give it."""
    max_model_tokens: int | None
    """Prompt and output together; None if that is not known."""

    async def count_tokens(self, prompt: GeneratorPrompt, budget: OutputBudget) -> int | None:
        """Return the tokens of prompt and output together; None if that cannot be known here."""
        ...

    async def generate(
        self, prompt: GeneratorPrompt, budget: OutputBudget, *, priority: int = 0
    ) -> Generation:
        """Continue the conversation. Lower `priority` runs earlier, where there is a queue."""
        ...

    async def first_token(
        self, prompt: GeneratorPrompt, identifiers: Sequence[str], *, priority: int = 0
    ) -> FirstToken:
        """Compute the first token's log-probabilities (FIRST, arXiv:2406.15657).

        `identifiers` are single characters, say letters.
        """
        ...

    async def check_health(self) -> None:
        """Raise UnavailableError if it is known to be away. Never waits behind queued work."""
        ...

    async def close(self) -> None:
        """Free what it holds; calls in flight raise UnavailableError."""
        ...
