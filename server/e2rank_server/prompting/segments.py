"""Segments to token ids: specials by name, text always as the characters that it is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import Encoding, Tokenizer

from e2rank_server.errors import ConfigurationError
from e2rank_server.prompting.budget import Offsets, overlapping
from e2rank_server.prompting.template import Segment, TextRange

_PROBES = (
    "Hello, world",
    " two  spaces and a tab\there ",
    "line\nbreak\r\n\n\nand more\n",
    "naïve café, ﬁne e\u0301, 東京 北京, привет, नमस्ते, \U0001f9d1\u200d\U0001f680",
    "x1234567890 don't {query} [1] <tag> a_b -- ...",
)


class TokenizedSegments:
    """The ids of one sequence of segments, and which characters they came from."""

    def __init__(self, pieces: Sequence[int | Encoding]) -> None:
        self._pieces = pieces
        ids: list[int] = []
        self._starts: list[int] = []
        # Fetching them copies one tuple a token, so it is done once and on demand.
        self._offsets: dict[int, Offsets] = {}
        for piece in pieces:
            self._starts.append(len(ids))
            if isinstance(piece, int):
                ids.append(piece)
            else:
                ids.extend(piece.ids)
        self.token_ids = ids

    def offsets(self, segment: int) -> Offsets:
        """Return the character ranges of the tokens of a text segment."""
        if segment not in self._offsets:
            piece = self._pieces[segment]
            if isinstance(piece, int):
                raise TypeError("a special token has no characters of its own")
            self._offsets[segment] = piece.offsets
        return self._offsets[segment]

    def span(self, characters: TextRange) -> tuple[int, int]:
        """Return the half-open range of token positions that came from these characters."""
        offsets = self.offsets(characters.segment)
        first, last = overlapping(offsets, characters.start, characters.end)
        start = self._starts[characters.segment]
        return start + first, start + last


class SegmentTokenizer:
    """Tokenizes segments as `whole` (see `load_tokenizer`) tokenizes whole strings.

    A special segment becomes exactly its one id. A text segment is tokenized
    whole by a copy of the tokenizer that knows no added tokens, so that
    `<|im_end|>` in a user's text is ten characters. Turning off special-token
    recognition would not do: added tokens that are not marked special, such as
    Qwen's `<think>`, are recognised all the same.

    Raises ConfigurationError when a special token is not exactly one id, or
    cannot be told from the same characters in a text.
    """

    def __init__(self, whole: Tokenizer, special_tokens: Sequence[str]) -> None:
        content = _for_texts(json.loads(whole.to_str()), special_tokens)
        self._text = load_tokenizer(json.dumps(content))
        self._tokens_per_byte = _tokens_per_byte(content)
        self._special_ids = _special_ids(whole, special_tokens)
        self._check_text_is_never_structure()

    def tokenize(self, prompts: Sequence[Iterable[Segment]]) -> list[TokenizedSegments]:
        """Tokenize several sequences of segments, in order."""
        segments = [list(prompt) for prompt in prompts]
        texts = [s.text for prompt in segments for s in prompt if not s.is_special]
        encodings = iter(self.encode_texts(texts))
        return [
            TokenizedSegments(
                [self._special_ids[s.text] if s.is_special else next(encodings) for s in prompt]
            )
            for prompt in segments
        ]

    def encode_texts(self, texts: Sequence[str]) -> list[Encoding]:
        """Tokenize texts alone."""
        encodings: list[Encoding] = self._text.encode_batch(texts, add_special_tokens=False)
        return encodings

    def max_tokens(self, text: str) -> int | None:
        """Return a bound on a text's tokens that costs no tokenization, if there is one."""
        if self._tokens_per_byte is None:
            return None
        num_bytes = len(text.encode())
        # Normalisation leaves ASCII alone.
        return num_bytes if text.isascii() else num_bytes * self._tokens_per_byte

    def check_agrees(self, whole: Tokenizer, prompts: Sequence[Sequence[Segment]]) -> None:
        """Raise ConfigurationError unless `whole` gives the same ids for the prompts as strings.

        They must have no special strings in their texts.
        """
        for prompt, tokenized in zip(prompts, self.tokenize(prompts), strict=True):
            text = "".join(segment.text for segment in prompt)
            expected = whole.encode(text, add_special_tokens=False).ids
            if tokenized.token_ids != expected:
                raise ConfigurationError(
                    [
                        f"the tokenizer gives other ids for the whole of {text!r} than for its "
                        "segments: a template may contain an added token that special_tokens "
                        "does not list, or the tokenizer treats a text's beginning specially"
                    ]
                )

    def _check_text_is_never_structure(self) -> None:
        specials = set(self._special_ids.values())
        for token in self._special_ids:
            for text in (token, f"a {token} b", f"a{token}b"):
                if specials.intersection(self._text.encode(text, add_special_tokens=False).ids):
                    raise ConfigurationError(
                        [f"the tokenizer cannot tell {token!r} in a text from the special token"]
                    )


def probe_texts() -> Sequence[str]:
    """Return texts of many kinds, none with a special string, for self-checks."""
    return _PROBES


def load_tokenizer(tokenizer_json: str) -> Tokenizer:
    """Load a tokenizer, cutting and padding off; raises ConfigurationError if it is broken."""
    try:
        tokenizer = Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # tokenizers raises Exception itself
        raise ConfigurationError([f"tokenizer.json cannot be loaded: {error}"]) from error
    # MiniLM's file, for one, cuts and pads to 128 tokens.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _for_texts(content: dict[str, Any], special_tokens: Sequence[str]) -> dict[str, Any]:
    """Return a tokenizer.json for texts: no added tokens, nothing put around them."""
    model = content["model"]
    if model.get("type") == "BPE" and model.get("unk_token") in special_tokens:
        # SmolLM2's own file writes <|endoftext|> for a byte that its vocabulary lacks.
        model = model | {"unk_token": None}
    return content | {"added_tokens": [], "post_processor": None, "model": model}


def _tokens_per_byte(content: Mapping[str, Any]) -> int | None:
    """Return how many tokens a byte of UTF-8 can become at most; None if that is unknown."""
    pre_tokenizer = content["pre_tokenizer"] or {}
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    is_byte_level = any(
        step.get("type") == "ByteLevel" and not step["add_prefix_space"] for step in steps
    )
    if content["model"]["type"] != "BPE" or not is_byte_level:
        return None
    if content["normalizer"] is None:
        return 1
    # https://unicode.org/faq/normalization.html: NFC triples UTF-8 at worst.
    return 3 if content["normalizer"]["type"] == "NFC" else None


def _special_ids(tokenizer: Tokenizer, special_tokens: Sequence[str]) -> dict[str, int]:
    ids: dict[str, int] = {}
    problems: list[str] = []
    for token in special_tokens:
        found = tokenizer.encode(token, add_special_tokens=False).ids
        if tokenizer.token_to_id(token) is None or len(found) != 1:
            problems.append(f"special token {token!r} is not one token of the tokenizer: {found}")
        else:
            ids[token] = found[0]
    if problems:
        raise ConfigurationError(problems)
    return ids
