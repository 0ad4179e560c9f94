"""The tokenizer seam: text in, token ids out, for one profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from e2rank_server.types import InputType, TextInput, TokenIds, TokenizerBackend


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """One query or document in its template, specials included.

    `is_truncated`: the text was cut at its end to respect the profile's limit.
    """

    token_ids: TokenIds
    is_truncated: bool


@dataclass(frozen=True, slots=True)
class ListwisePromptInput:
    """What a listwise prompt is made of.

    `documents` are those shown, in prompt order. `scores`, if given, has the
    text written beside each of them. `instruction` None means the profile's own.
    `max_tokens_per_document` tightens the profile's per-document limit.
    """

    query: str
    documents: Sequence[TextInput]
    instruction: str | None = None
    scores: Sequence[str] | None = None
    max_tokens_per_document: int | None = None


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """A listwise prompt that fits the profile's `max_prompt_tokens`.

    `query_span` is the half-open range of positions in `token_ids` that came
    from the query's own text. `truncated` says of each document, in prompt
    order, whether its copy was cut; `is_shrunk` whether any was cut below its
    own limit so that the whole fits.
    """

    token_ids: TokenIds
    query_span: tuple[int, int]
    truncated: Sequence[bool]
    is_shrunk: bool


class Tokenizer(Protocol):
    """Applies one profile's templates and tokenizes.

    All implementations return identical ids. They never let user text become
    structure: a text containing `<|im_end|>` or `[SEP]` is tokenized as the
    characters that it is.

    Errors: PromptTooLongError when a listwise prompt cannot fit;
    UnavailableError("tokenizer") when the backend is away. A cancelled call
    returns at once; what the backend has begun of it, some milliseconds of
    work, may run on unheard.
    """

    backend: TokenizerBackend

    async def tokenize_texts(
        self, input_type: InputType, texts: Sequence[TextInput], instruction: str | None = None
    ) -> list[TokenizedText]:
        """Tokenize queries or documents, in order. `instruction` is for queries."""
        ...

    async def tokenize_listwise_prompt(self, prompt: ListwisePromptInput) -> TokenizedPrompt:
        """Assemble, fit and tokenize one listwise prompt."""
        ...

    async def check_health(self) -> None:
        """Tokenize a canary; raise UnavailableError if that fails."""
        ...
