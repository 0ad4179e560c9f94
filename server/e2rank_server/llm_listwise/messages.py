"""A template's words, and how they become the messages of a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from e2rank_server.errors import ConfigurationError
from e2rank_server.prompting.template import SegmentWriter, Template
from e2rank_server.types import ChatMessage

_FRAME = ["query", "num"]
_PLACEHOLDERS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "prefix": ([], _FRAME),
    "prefix_reply": ([], []),
    "passage": (["passage"], ["identifier", "score"]),
    "passage_reply": ([], ["identifier"]),
    "suffix": ([], _FRAME),
}
"""Of each part of a template: what must stand in it exactly once, and what may."""


@dataclass(frozen=True, slots=True)
class NamedPassage:
    """A passage as it goes into a prompt: cut, under its name, with its score if it has one."""

    identifier: str
    text: str
    score: str | None


class MessageTemplates:
    """The parts of a prompt, parsed.

    Without replies prefix, passages and suffix are one user message. With
    replies each is a user message of its own, and the replies are what the
    assistant is made to say between them. An empty `system` is no message.

    Raises ConfigurationError with everything that is wrong with them.
    """

    def __init__(self, system: str, parts: Mapping[str, str]) -> None:
        problems: list[str] = []
        self._system = system
        self._parts: dict[str, Template] = {}
        for name, (required, optional) in _PLACEHOLDERS.items():
            try:
                self._parts[name] = Template(
                    f"messages.{name}", parts[name], (), required=required, optional=optional
                )
            except ConfigurationError as error:
                problems += error.problems
        self._is_multi_turn = bool(parts["passage_reply"])
        if self._is_multi_turn != bool(parts["prefix_reply"]):
            problems.append("messages: prefix_reply and passage_reply need one another")
        if not problems:
            problems += self._unnamed()
        if problems:
            raise ConfigurationError(problems)

    @property
    def has_scores(self) -> bool:
        """Whether passages stand beside their scores."""
        return "score" in self._parts["passage"].placeholders

    def write(self, query: str, passages: Sequence[NamedPassage]) -> list[ChatMessage]:
        """Fill the templates. The texts' own braces mean nothing."""
        frame = {"query": query, "num": str(len(passages))}
        user = [self._fill("prefix", frame)]
        user += [self._fill("passage", _fillings(passage)) for passage in passages]
        user += [self._fill("suffix", frame)]
        messages = [ChatMessage("system", self._system)] if self._system else []
        if not self._is_multi_turn:
            return [*messages, ChatMessage("user", "".join(user))]
        replies = [self._fill("prefix_reply", {})]
        replies += [self._fill("passage_reply", _fillings(passage)) for passage in passages]
        for content, reply in zip(user, replies, strict=False):
            messages += [ChatMessage("user", content), ChatMessage("assistant", reply)]
        return [*messages, ChatMessage("user", user[-1])]

    def _fill(self, part: str, fillings: Mapping[str, str]) -> str:
        writer = SegmentWriter()
        self._parts[part].write(writer, fillings)
        return "".join(segment.text for segment in writer.segments())

    def _unnamed(self) -> list[str]:
        problems = []
        if "identifier" not in self._parts["passage"].placeholders:
            problems.append("messages.passage: {identifier} is missing")
        if not any("query" in self._parts[part].placeholders for part in ("prefix", "suffix")):
            problems.append("messages: {query} stands neither in prefix nor in suffix")
        return problems


def _fillings(passage: NamedPassage) -> dict[str, str]:
    fillings = {"identifier": passage.identifier, "passage": passage.text}
    return fillings if passage.score is None else {**fillings, "score": passage.score}
