"""Templates: text with placeholders and special tokens, and the segments they become."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from e2rank_server.errors import ConfigurationError
from e2rank_server.prompting.specification import PromptSpecification

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True)
class Segment:
    """A special token of a template, or all the text between two of them."""

    text: str
    is_special: bool


@dataclass(frozen=True, slots=True)
class TextRange:
    """Characters `start` to `end` (half-open, in code points) of the segment numbered `segment`."""

    segment: int
    start: int
    end: int


class SegmentWriter:
    """Collects segments; text goes into one segment until a special token ends it."""

    def __init__(self) -> None:
        self._closed: list[Segment] = []
        self._texts: list[str] = []
        self._length = 0

    def add_special(self, token: str) -> None:
        """Append a special token of the template."""
        self._close()
        self._closed.append(Segment(token, is_special=True))

    def add_text(self, text: str) -> TextRange:
        """Append text, whatever it contains, and say where it now stands."""
        start = self._length
        self._texts.append(text)
        self._length += len(text)
        return TextRange(len(self._closed), start, self._length)

    def segments(self) -> tuple[Segment, ...]:
        """Return all segments so far."""
        self._close()
        return tuple(self._closed)

    def _close(self) -> None:
        # An empty text keeps its place, because a TextRange may point at it.
        if self._texts:
            self._closed.append(Segment("".join(self._texts), is_special=False))
            self._texts, self._length = [], 0


@dataclass(frozen=True, slots=True)
class _Placeholder:
    name: str


Filling: TypeAlias = str | Callable[[SegmentWriter], None]
"""What stands for a placeholder: a text, or what writes segments of its own."""


class Template:
    """A parsed template.

    `{name}` with a known name is a placeholder; other braces are text. The
    strings in `special_tokens` are structure here, and nowhere else: neither a
    filling's special strings nor its braces mean anything.

    Raises ConfigurationError, naming the template by `name`, when a
    placeholder is unknown, or a required one does not occur exactly once.
    """

    def __init__(
        self,
        name: str,
        text: str,
        special_tokens: Collection[str],
        *,
        required: Collection[str] = (),
        optional: Collection[str] = (),
    ) -> None:
        found = _PLACEHOLDER.findall(text)
        problems = [
            f"{name}: unknown placeholder {{{placeholder}}}"
            for placeholder in dict.fromkeys(found)
            if placeholder not in {*required, *optional}
        ]
        problems += [
            f"{name}: {{{placeholder}}} must occur exactly once, not {times} times"
            for placeholder in required
            if (times := found.count(placeholder)) != 1
        ]
        if problems:
            raise ConfigurationError(problems)
        self.placeholders = frozenset(found)
        self._parts = _parse(text, special_tokens)

    def write(self, writer: SegmentWriter, fillings: Mapping[str, Filling]) -> dict[str, TextRange]:
        """Append the template, filled, and say where each filling that is a text stands."""
        ranges: dict[str, TextRange] = {}
        for part in self._parts:
            if isinstance(part, Segment):
                if part.is_special:
                    writer.add_special(part.text)
                else:
                    writer.add_text(part.text)
                continue
            filling = fillings[part.name]
            if isinstance(filling, str):
                ranges[part.name] = writer.add_text(filling)
            else:
                filling(writer)
        return ranges


@dataclass(frozen=True, slots=True)
class PromptTemplates:
    """All templates of a specification, parsed."""

    query: Template
    document: Template
    listwise: Template
    listwise_document: Template
    listwise_score: Template
    listwise_separator: Template

    @classmethod
    def parse(cls, specification: PromptSpecification) -> PromptTemplates:
        """Parse them; a ConfigurationError has the problems of all."""
        rules: dict[str, tuple[Sequence[str], Sequence[str]]] = {
            "query_template": (["query"], ["instruction"]),
            "document_template": (["document"], []),
            "listwise_template": (["documents", "query"], ["instruction"]),
            "listwise_document": (["document"], ["index"]),
            "listwise_score": (["score"], ["index"]),
            "listwise_separator": ([], []),
        }
        parsed: dict[str, Template] = {}
        problems: list[str] = []
        for name, (required, optional) in rules.items():
            text = getattr(specification, name)
            try:
                parsed[name.removesuffix("_template")] = Template(
                    name, text, specification.special_tokens, required=required, optional=optional
                )
            except ConfigurationError as error:
                problems += error.problems
        if problems:
            raise ConfigurationError(problems)
        return cls(**parsed)


def _parse(text: str, special_tokens: Collection[str]) -> tuple[Segment | _Placeholder, ...]:
    parts: list[Segment | _Placeholder] = []
    # Longest first: one special token may begin with another.
    tokens = sorted(special_tokens, key=len, reverse=True)
    structure = "|".join([_PLACEHOLDER.pattern, *map(re.escape, tokens)])
    position = 0
    for match in re.finditer(structure, text):
        if match.start() > position:
            parts.append(Segment(text[position : match.start()], is_special=False))
        if match[1] is not None:
            parts.append(_Placeholder(match[1]))
        else:
            parts.append(Segment(match[0], is_special=True))
        position = match.end()
    if position < len(text):
        parts.append(Segment(text[position:], is_special=False))
    return tuple(parts)
