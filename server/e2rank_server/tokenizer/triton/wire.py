"""What gateway and Triton, and Triton's models among each other, exchange: tensors and error texts.

Every request is a batch of one; a tensor's further dimensions count texts,
segments or prompts.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2rank_server.errors import FieldViolation, InvalidRequestError, PromptTooLongError
from e2rank_server.prompting.prompt import Prompt
from e2rank_server.prompting.template import Segment, TextRange

_ERROR_MARK = "e2rank-error:"
_NO_LIMIT = -1
_LENGTH = struct.Struct("<I")


def pack_texts(texts: Iterable[str]) -> bytes:
    """Serialise a BYTES tensor: each element's length (uint32, little-endian), then its UTF-8."""
    parts: list[bytes] = []
    for text in texts:
        encoded = text.encode()
        parts += (_LENGTH.pack(len(encoded)), encoded)
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class PromptTensors:
    """Prompts between the model that makes them and the one that tokenizes them.

    `segments` and `is_special` (bool) have one element a segment, all prompts'
    in order. `layout` is int32 [prompts, 6]: number of segments; segment, start
    and end of the prompt's own text; max_tokens or -1; is_truncated.
    """

    segments: Sequence[str]
    is_special: NDArray[np.bool_]
    layout: NDArray[np.int32]

    @classmethod
    def of(cls, prompts: Sequence[Prompt]) -> PromptTensors:
        """Lay out prompts."""
        segments = [segment for prompt in prompts for segment in prompt.segments]
        layout = [
            (
                len(prompt.segments),
                prompt.own_text.segment,
                prompt.own_text.start,
                prompt.own_text.end,
                _NO_LIMIT if prompt.max_tokens is None else prompt.max_tokens,
                prompt.is_truncated,
            )
            for prompt in prompts
        ]
        return cls(
            [segment.text for segment in segments],
            np.array([segment.is_special for segment in segments], dtype=np.bool_),
            np.array(layout, dtype=np.int32).reshape(-1, 6),
        )

    def prompts(self) -> list[Prompt]:
        """Restore the prompts. Raises InvalidRequestError if the tensors do not fit together."""
        total = len(self.segments)
        if len(self.is_special) != total or self.layout[:, 0].sum() != total:
            raise InvalidRequestError.of("SEGMENTS", "their number is not what the layout says")
        segments = [
            Segment(text, bool(special))
            for text, special in zip(self.segments, self.is_special, strict=True)
        ]
        prompts: list[Prompt] = []
        position = 0
        for count, segment, start, end, limit, truncated in self.layout.tolist():
            own = segments[position : position + count]
            position += count
            if not (0 <= segment < len(own) and 0 <= start <= end <= len(own[segment].text)):
                raise InvalidRequestError.of("LAYOUT", "a prompt's own text lies outside of it")
            prompts.append(
                Prompt(
                    tuple(own),
                    TextRange(segment, start, end),
                    None if limit == _NO_LIMIT else limit,
                    bool(truncated),
                )
            )
        return prompts


def error_text(error: InvalidRequestError) -> str:
    """Write an error so that `read_error` can raise it anew on the other side."""
    violations = [[v.field, v.description] for v in error.violations]
    return _ERROR_MARK + json.dumps([error.reason, violations])


def read_error(text: str) -> InvalidRequestError | None:
    """Find an error in a status message, to which Triton adds words of its own."""
    _, mark, rest = text.partition(_ERROR_MARK)
    if not mark:
        return None
    try:
        (reason, violations), _ = json.JSONDecoder().raw_decode(rest)
        found = [FieldViolation(str(field), str(words)) for field, words in violations]
    except (ValueError, TypeError):
        return None
    kind = PromptTooLongError if reason == PromptTooLongError.reason else InvalidRequestError
    return kind(found) if found else None
