"""A model's chat template, applied so that it never sees what the messages say."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from e2rank_server.errors import ConfigurationError, GeneratorRefusedError
from e2rank_server.prompting.segments import probe_texts
from e2rank_server.types import ChatMessage

Render: TypeAlias = Callable[[Sequence[ChatMessage], bool | None], str]
"""Renders a conversation up to where the model's answer begins, as transformers does.

The second argument is the template's `enable_thinking`; None leaves it out.
Raises RenderingError.
"""

_PROBES: tuple[tuple[ChatMessage, ...], ...] = (
    (ChatMessage("user", ""),),
    (ChatMessage("system", ""), ChatMessage("user", "")),
    (ChatMessage("user", ""), ChatMessage("assistant", ""), ChatMessage("user", "")),
    (
        ChatMessage("system", ""),
        *(ChatMessage("user", ""), ChatMessage("assistant", "")) * 2,
        ChatMessage("user", ""),
    ),
)
_SWITCHES = (None, False, True)
# Between the two texts where a template takes no system message.
_FOLD = "\n\n"


class RenderingError(Exception):
    """The template refuses a conversation, or what it makes of it cannot be used."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a rendered conversation: the template's own, or one message's text."""

    text: str
    is_structure: bool


class ChatTemplate:
    """Renders conversations with placeholders for the messages' texts.

    So no text is interpreted, whatever it contains. Where the template strips
    white space around the texts of a role, so does this; where it takes no
    system message, that text stands above the first user's.

    Raises ConfigurationError if texts put in the placeholders' places are not
    what the template makes of the texts themselves.
    """

    def __init__(self, render: Render) -> None:
        self._render = render
        self._folds_system = False
        self._stripped_roles: frozenset[str] = frozenset()
        try:
            self._folds_system = not self._takes_system_messages()
            self._stripped_roles = frozenset(
                role for role in ("system", "user", "assistant") if self._strips(role)
            )
            self._check_probes()
        except RenderingError as error:
            raise ConfigurationError([f"the model's chat template cannot be used: {error}"]) from (
                error
            )

    def pieces(self, messages: Sequence[ChatMessage], thinking: bool | None) -> list[Piece]:
        """Render a conversation, in order.

        Raises:
            GeneratorRefusedError: the template takes no such sequence of roles.
        """
        try:
            return self._pieces(self._folded(messages), thinking, self._stripped_roles)
        except RenderingError as error:
            roles = ", ".join(message.role for message in messages)
            raise GeneratorRefusedError(
                f"the model's chat template does not take messages of {roles}: {error}"
            ) from error

    def probes(self) -> Iterator[list[Piece]]:
        """Render conversations of several shapes, with texts of many kinds."""
        for messages, thinking in _probe_conversations():
            yield self.pieces(messages, thinking)

    def _pieces(
        self, messages: Sequence[ChatMessage], thinking: bool | None, stripped_roles: Set[str]
    ) -> list[Piece]:
        texts = {
            # So long that no template contains it by chance, and plain letters, which
            # none has a reason to change.
            f"x{secrets.token_hex(16)}x": (
                message.content.strip() if message.role in stripped_roles else message.content
            )
            for message in messages
        }
        rendered = self._render(
            [
                replace(message, content=placeholder)
                for message, placeholder in zip(messages, texts, strict=True)
            ],
            thinking,
        )
        parts = re.split(f"({'|'.join(texts)})", rendered)
        if parts[1::2] != list(texts):
            raise RenderingError("it leaves messages out, repeats them or changes their order")
        return [
            Piece(texts.get(part, part), is_structure=part not in texts) for part in parts if part
        ]

    def _folded(self, messages: Sequence[ChatMessage]) -> Sequence[ChatMessage]:
        if not self._folds_system or not messages or messages[0].role != "system":
            return messages
        system, *others = messages
        if not others or others[0].role != "user":
            return [replace(system, role="user"), *others]
        first = replace(others[0], content=f"{system.content}{_FOLD}{others[0].content}")
        return [first, *others[1:]]

    def _takes_system_messages(self) -> bool:
        try:
            self._pieces([ChatMessage("system", ""), ChatMessage("user", "")], None, frozenset())
        except RenderingError:
            return False
        return True

    def _strips(self, role: str) -> bool:
        """Say whether the template strips white space around the texts of a role."""
        messages = self._folded(
            [
                replace(message, content="\n edges \n" if message.role == role else "text")
                for message in _PROBES[-1]
            ]
        )
        rendered = self._render(messages, None)
        for stripped_roles in (frozenset[str](), frozenset({role})):
            if rendered == _joined(self._pieces(messages, None, stripped_roles)):
                return bool(stripped_roles)
        raise RenderingError(f"it changes the texts of {role} messages")

    def _check_probes(self) -> None:
        for messages, thinking in _probe_conversations():
            folded = self._folded(messages)
            rendered = _joined(self._pieces(folded, thinking, self._stripped_roles))
            if self._render(folded, thinking) != rendered:
                raise RenderingError(
                    f"what it makes of {[message.content for message in messages]} is not what it "
                    "makes of placeholders for them"
                )


def load_render(folder: Path) -> Render:
    """Load the chat template of the model in `folder`; blocks, for seconds at first.

    Raises:
        ConfigurationError: there is none, or no tokenizer that it belongs to.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # whatever its files make transformers raise
        raise ConfigurationError([f"{folder} has no tokenizer to load: {error}"]) from error
    if tokenizer.chat_template is None:
        raise ConfigurationError(
            [
                f"{folder} has no chat template (in tokenizer_config.json or chat_template.jinja), "
                "as instruction-tuned models have"
            ]
        )

    def render(messages: Sequence[ChatMessage], thinking: bool | None) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        switch = {} if thinking is None else {"enable_thinking": thinking}
        try:
            rendered = tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, **switch
            )
        except Exception as error:  # a template is a program, and may fail in any way
            raise RenderingError(str(error)) from error
        return str(rendered)

    return render


def _probe_conversations() -> Iterator[tuple[list[ChatMessage], bool | None]]:
    texts = probe_texts()
    for shape in _PROBES:
        for thinking in _SWITCHES:
            for first in range(len(texts)):
                yield (
                    [
                        replace(message, content=texts[(first + number) % len(texts)])
                        for number, message in enumerate(shape)
                    ],
                    thinking,
                )


def _joined(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)
