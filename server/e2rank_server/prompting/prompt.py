"""Prompts before and after tokenization, as plain values that can travel between processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from e2rank_server.prompting.template import Segment, TextRange


@dataclass(frozen=True, slots=True)
class Prompt:
    """A filled template, ready to be tokenized.

    `own_text` is where the query (also in a listwise prompt) or the document
    stands. `max_tokens` is the limit to which tokenization cuts the own text at
    its end; None if the prompt is known to fit, as a listwise prompt is.
    `is_truncated`: the own text has been cut already.
    """

    segments: tuple[Segment, ...]
    own_text: TextRange
    max_tokens: int | None
    is_truncated: bool = False


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """A tokenized prompt.

    `own_span` is the half-open range of positions in `token_ids` that came, in
    whole or in part, from the prompt's own text.
    """

    token_ids: list[int]
    own_span: tuple[int, int]
    is_truncated: bool


@dataclass(frozen=True, slots=True)
class ListwiseTexts:
    """What a listwise prompt is made of; see ListwisePromptInput for the rules.

    `documents` have their titles joined to them already (`with_title`).
    """

    query: str
    documents: Sequence[str]
    instruction: str | None = None
    scores: Sequence[str] | None = None
    max_tokens_per_document: int | None = None


@dataclass(frozen=True, slots=True)
class ListwisePrompt:
    """A listwise prompt that fits.

    `truncated` says of each document whether its copy was cut; `is_shrunk`
    whether any was cut below its own limit so that the whole fits.
    """

    prompt: Prompt
    truncated: tuple[bool, ...]
    is_shrunk: bool


def with_title(title: str | None, text: str, separator: str) -> str:
    """Join a document's title, if it has one, and its text."""
    return f"{title}{separator}{text}" if title else text
