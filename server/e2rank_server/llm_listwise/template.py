"""An LLM listwise reranker's protocol: what it is asked, and how its answer is read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from e2rank_server.generator.protocol import GeneratorPrompt, OutputBudget
from e2rank_server.llm_listwise.identifiers import IdentifierKind
from e2rank_server.llm_listwise.messages import MessageTemplates, NamedPassage
from e2rank_server.llm_listwise.parsing import AnswerForm, ParsedOrder, parse_order
from e2rank_server.prompting.budget import cut_words
from e2rank_server.types import TextInput

_BRACKETED = {
    IdentifierKind.NUMBERS: re.compile(r"\[(\d+)\]"),
    IdentifierKind.LETTERS: re.compile(r"\[([A-Za-z]+)\]"),
}


@dataclass(frozen=True, slots=True)
class LlmTemplate:
    """A published prompt and what belongs to it. Its text is a file in `templates/`."""

    name: str
    version: str
    source: str
    """Where the text comes from, and what in it does not."""
    has_scores: bool
    """Passages stand beside first-stage scores, and `prompt` needs them."""
    reads_first_token: bool
    """The order is that of the identifiers' log-probabilities as the answer's first token."""
    can_think: bool
    """Thinking can be switched on and off."""
    reasoning_tokens: int
    """Default budget for reasoning, when `reasons`; 0 if it never does."""
    window_size: int
    max_window_size: int
    max_words: int
    """Default cut of a passage, in words."""
    messages: MessageTemplates
    identifier_kind: IdentifierKind
    answer_form: AnswerForm
    answer_prefix: str
    """How the answer is made to begin."""

    def reasons(self, *, thinking: bool) -> bool:
        """Say whether the answer contains more than the bare order."""
        return thinking if self.can_think else self.reasoning_tokens > 0

    def prompt(
        self,
        query: str,
        passages: Sequence[TextInput],
        scores: Sequence[str] | None,
        *,
        max_words: int,
        thinking: bool,
    ) -> tuple[GeneratorPrompt, Sequence[bool]]:
        """Return the prompt for one window, and which of its passages were cut to `max_words`.

        As in rank_llm: white space becomes single spaces, a title goes before
        its text, and what looks like an identifier, `[3]`, becomes `(3)`.
        `scores` are written as they are, each below its own passage.

        Raises ValueError for more passages than there are identifiers, for
        scores without a place or a place without scores, and for `thinking`
        where there is no such switch.
        """
        if (scores is not None) is not self.has_scores:
            raise ValueError(f"scores: template {self.name} has_scores is {self.has_scores}")
        self._check_thinking(thinking=thinking)
        cut = [cut_words(_with_title(passage), max_words) for passage in passages]
        beside: Sequence[str | None] = [None] * len(cut) if scores is None else scores
        named = [
            NamedPassage(identifier, self._unbracketed(text), score)
            for identifier, (text, _), score in zip(
                self.identifiers(len(cut)), cut, beside, strict=True
            )
        ]
        messages = self.messages.write(self._unbracketed(" ".join(query.split())), named)
        prompt = GeneratorPrompt(messages, self.answer_prefix, thinking if self.can_think else None)
        return prompt, [was_cut for _, was_cut in cut]

    def budget(
        self, num_passages: int, *, thinking: bool, reasoning_token_budget: int | None
    ) -> OutputBudget:
        """Return how long an answer may be: exactly an order of `num_passages`, without reasoning.

        Raises ValueError for a reasoning budget where there is no reasoning.
        """
        self._check_thinking(thinking=thinking)
        answer = self._answer_like(num_passages)
        if not self.reasons(thinking=thinking):
            if reasoning_token_budget is not None:
                raise ValueError(f"reasoning_token_budget: template {self.name} does not reason")
            return OutputBudget(answer)
        if reasoning_token_budget is None:
            return OutputBudget(answer, self.reasoning_tokens)
        return OutputBudget(answer, reasoning_token_budget)

    def identifiers(self, num: int) -> Sequence[str]:
        """Return the names of `num` passages as prompted. Raises ValueError for too many."""
        return self.identifier_kind.names(num)

    def parse(self, text: str, num_passages: int) -> ParsedOrder:
        """Read the order from an output, which does not repeat `answer_prefix`. Never fails."""
        answer = self.answer_prefix + text if text.strip() else ""
        return parse_order(answer, num_passages, self.answer_form, self.identifier_kind)

    def rank_first_token(
        self, logprobs: Mapping[str, float], num_passages: int
    ) -> tuple[tuple[int, ...], int]:
        """Return positions by descending log-probability, and how many had none.

        Those without one come last, and equals stay, in their order. A value
        that is not a number is none.
        """
        names = self.identifiers(num_passages)
        values = [logprobs.get(name, math.nan) for name in names]
        present = [position for position, value in enumerate(values) if not math.isnan(value)]
        absent = [position for position, value in enumerate(values) if math.isnan(value)]
        present.sort(key=lambda position: -values[position])
        return (*present, *absent), len(absent)

    def _answer_like(self, num_passages: int) -> str:
        names = self.identifiers(num_passages)
        if self.reads_first_token:
            return names[0]
        if self.answer_form is AnswerForm.JSON_LIST:
            return f"```json\n[{', '.join(names)}]\n```"
        return " > ".join(f"[{name}]" for name in names)

    def _check_thinking(self, *, thinking: bool) -> None:
        if thinking and not self.can_think:
            raise ValueError(f"thinking: template {self.name} has no such switch")

    def _unbracketed(self, text: str) -> str:
        return _BRACKETED[self.identifier_kind].sub(r"(\1)", text)


def _with_title(passage: TextInput) -> str:
    return f"Title: {passage.title} Content: {passage.text}" if passage.title else passage.text
