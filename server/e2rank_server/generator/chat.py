"""Conversations to token ids: the chat template's specials by name, texts as characters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tokenizers import Tokenizer

from e2rank_server.errors import GeneratorRefusedError
from e2rank_server.generator.chat_template import ChatTemplate, Piece, load_render
from e2rank_server.generator.protocol import GeneratorPrompt
from e2rank_server.prompting.segments import SegmentTokenizer, load_tokenizer
from e2rank_server.prompting.template import Segment, SegmentWriter


@dataclass(frozen=True, slots=True)
class ChatTokens:
    """A conversation as the model reads it, up to where it goes on.

    `tail` is the text after the last special token: what an answer begins with
    may form a token with its end.
    """

    token_ids: list[int]
    tail: str


@dataclass(frozen=True, slots=True)
class IdentifierTokens:
    """The tokens that make an answer begin with an identifier.

    `following` follow the prompt's last token; `joined` stand in its place,
    where the vocabulary has, say, "[A" as one token and the prompt ends in "[".
    """

    following: Mapping[int, str]
    joined: Mapping[int, str]


class ChatTokenizer:
    """Tokenizes conversations as `whole` tokenizes what the template makes of them.

    That equality holds wherever no text contains a special token's characters;
    where one does, it stays text. Raises ConfigurationError where the template
    or the tokenizer does not allow that.
    """

    def __init__(self, template: ChatTemplate, whole: Tokenizer) -> None:
        self._template = template
        self._whole = whole
        probes = list(template.probes())
        specials = _specials(whole, probes)
        # A pattern that matches nothing, for templates without special tokens.
        self._specials = re.compile("|".join(map(re.escape, specials)) or "(?!)")
        self._segments = SegmentTokenizer(whole, specials)
        self._segments.check_agrees(whole, [self._split(probe, "") for probe in probes])

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the model's tokenizer and template; blocks, for seconds at first.

        Raises:
            ConfigurationError: one of them is missing or cannot be used.
        """
        whole = load_tokenizer((folder / "tokenizer.json").read_text())
        return cls(ChatTemplate(load_render(folder)), whole)

    def tokenize(self, prompt: GeneratorPrompt) -> ChatTokens:
        """Tokenize a conversation and the beginning of its answer.

        Raises:
            GeneratorRefusedError: the template takes no such sequence of roles.
        """
        pieces = self._template.pieces(prompt.messages, prompt.thinking)
        segments = self._split(pieces, prompt.answer_prefix)
        [tokenized] = self._segments.tokenize([segments])
        tail = "" if not segments or segments[-1].is_special else segments[-1].text
        return ChatTokens(tokenized.token_ids, tail)

    def num_tokens(self, text: str) -> int:
        """Count the tokens of a text alone."""
        return len(self._ids([text])[0])

    def identifier_tokens(self, chat: ChatTokens, identifiers: Sequence[str]) -> IdentifierTokens:
        """Find how each identifier may go on from `chat`, with and without a space before it.

        Raises:
            GeneratorRefusedError: an identifier is no single token there.
        """
        texts = {before + name: name for before in ("", " ") for name in identifiers}
        following: dict[int, str] = {}
        joined: dict[int, str] = {}
        prompt, *answers = self._ids([chat.tail, *(chat.tail + text for text in texts)])
        for name, ids in zip(texts.values(), answers, strict=True):
            if ids[:-1] == prompt:
                following[ids[-1]] = name
            elif ids and ids[:-1] == prompt[:-1]:
                joined[ids[-1]] = name
        for name in identifiers:
            if name not in following.values() and name not in joined.values():
                raise GeneratorRefusedError(
                    f"the model's tokenizer has no single token for {name!r} where its answer "
                    "begins"
                )
        return IdentifierTokens(following, joined)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of an output, without its special tokens."""
        return str(self._whole.decode(list(token_ids), skip_special_tokens=True))

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._segments.encode_texts(texts)]

    def _split(self, pieces: Iterable[Piece], answer_prefix: str) -> tuple[Segment, ...]:
        """Part the specials in the template's own text from everything else."""
        writer = SegmentWriter()
        for piece in pieces:
            end = 0
            for found in self._specials.finditer(piece.text) if piece.is_structure else ():
                if found.start() > end:
                    writer.add_text(piece.text[end : found.start()])
                writer.add_special(found[0])
                end = found.end()
            if end < len(piece.text):
                writer.add_text(piece.text[end:])
        if answer_prefix:
            writer.add_text(answer_prefix)
        return writer.segments()


def _specials(whole: Tokenizer, probes: Sequence[Sequence[Piece]]) -> list[str]:
    """Return the added tokens that the template writes, longer ones first.

    Also those that are not marked special, such as Qwen's `<think>`. White
    space is text even if the vocabulary has tokens added for it.
    """
    added = [token.content for token in whole.get_added_tokens_decoder().values()]
    candidates = sorted(filter(str.strip, added), key=len, reverse=True)
    structure = {piece.text for pieces in probes for piece in pieces if piece.is_structure}
    return [token for token in candidates if any(token in text for text in structure)]
