"""What a profile says about prompts: templates, special tokens and token budgets, as data.

Serialisable, because Triton's Python backend applies the same specification in
an environment of its own.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class PromptSpecification:
    """Templates and budgets of one profile.

    Templates are text with placeholders in braces. The strings in
    `special_tokens` are structure where a *template* has them, and characters
    where a user's text has them. Token counts include the template.
    """

    special_tokens: tuple[str, ...]
    query_template: str
    """Placeholders: {query}, and {instruction} if the model takes one."""
    document_template: str
    """Placeholder: {document}, which is title, `title_separator` and text."""
    title_separator: str
    query_instruction: str
    """Stands for {instruction} in `query_template` unless a request brings its own."""

    listwise_template: str
    """Placeholders: {documents}, {query}, and {instruction} if the model takes one."""
    listwise_document: str
    """One shown document. Placeholders: {index} from 1, {document}."""
    listwise_score: str
    """Follows a shown document when scores are asked for. Placeholders: {index}, {score}."""
    listwise_separator: str
    """Between shown documents."""
    listwise_instruction: str
    """Stands for {instruction} in `listwise_template` unless a request brings its own."""

    max_query_tokens: int
    max_document_tokens: int
    max_prompt_tokens: int
    max_document_words: int | None = None
    """If set, a document is first cut to so many whitespace-separated words, joined by
    single spaces (E2Rank's evaluation code cuts to 1024), in embedding and prompt alike."""
    max_prompt_document_words: int | None = None
    """The same, for the copy in the listwise prompt only."""
    max_prompt_document_tokens: int | None = None
    """Most tokens of a document's copy in the listwise prompt."""

    def to_json(self) -> str:
        """Serialise; `from_json` is the inverse."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PromptSpecification:
        """Restore what `to_json` wrote."""
        values = json.loads(text)
        values["special_tokens"] = tuple(values["special_tokens"])
        return cls(**values)
