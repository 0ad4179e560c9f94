"""What an OpenAI-compatible endpoint answers, none of which is believed before it is checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from e2rank_server.errors import GeneratorRefusedError, UnavailableError

Record: TypeAlias = Mapping[str, Any]

_T = TypeVar("_T")
_FINISHED = ("stop", "length")
_DECLINED = "content_filter"
# vLLM has had both names; DeepSeek has the first.
_REASONING_FIELDS = ("reasoning_content", "reasoning")
# vLLM writes -9999 for minus infinity, OpenAI too.
_MIN_LOGPROB, _ROUNDING = -1e6, 1e-3


@dataclass(frozen=True, slots=True)
class Completion:
    """A chat completion. `text` has no reasoning that the endpoint has split off."""

    text: str = ""
    is_refusal: bool = False
    prompt_tokens: int = 0
    generated_tokens: int = 0
    choice: Record | None = None


def read_completion(body: bytes) -> Completion:
    """Read a chat completion; token counts that it leaves out are 0.

    An answer without text is a refusal, unless the model has reasoned, or was cut.

    Raises:
        UnavailableError: it is no chat completion, or did not come to its end.
    """
    record = _record(body)
    choices = _field(record, "choices", list)
    if not choices or not isinstance(choices[0], dict):
        raise nonsense("'choices' has no choice")
    choice = choices[0]
    message = _field(choice, "message", dict)
    reason = _field(choice, "finish_reason", str)
    if reason not in (*_FINISHED, _DECLINED):
        raise nonsense(f"'finish_reason' is {reason[:40]!r}")
    usage = _optional(record, "usage", dict) or {}
    text = _optional(message, "content", str) or ""
    return Completion(
        text=text,
        is_refusal=reason == _DECLINED or _is_refusal(message, text, reason),
        prompt_tokens=_count(usage, "prompt_tokens"),
        generated_tokens=_count(usage, "completion_tokens"),
        choice=choice,
    )


def read_token_count(body: bytes) -> tuple[int, int | None]:
    """Read what /tokenize answers: the number of tokens, and the most that the model takes."""
    record = _record(body)
    _field(record, "count", int)
    return _count(record, "count"), _count(record, "max_model_len") or None


def first_identifier_logprobs(
    completion: Completion, identifiers: frozenset[str], *, is_begun: bool
) -> dict[str, float]:
    """Return the log-probabilities of identifiers where the answer has its first.

    That is its first token if the answer `is_begun` for the model. Else it is
    the token after an opening bracket, or the first one if that is itself an
    identifier; if there is neither, no identifier has a value. A token counts
    for an identifier with spaces and brackets around it, the likeliest first.

    Raises:
        GeneratorRefusedError: the endpoint sends no log-probabilities.
        UnavailableError: it sends something else in their place.
    """
    logprobs = _optional(completion.choice or {}, "logprobs", dict) or {}
    positions = [_position(each) for each in _optional(logprobs, "content", list) or []]
    if not positions:
        if completion.is_refusal:
            return {}
        raise GeneratorRefusedError("the endpoint sends no log-probabilities, which FIRST needs")
    index = 0 if is_begun else _first_index(positions, identifiers)
    found: dict[str, float] = {}
    for token, logprob in [] if index is None else positions[index]:
        identifier = _bare(token)
        if identifier in identifiers:
            found[identifier] = max(logprob, found.get(identifier, -math.inf))
    return found


_Position: TypeAlias = Sequence[tuple[str, float]]
"""Tokens that were likely at a position of the output, that of the output first."""


def _position(record: object) -> _Position:
    if not isinstance(record, dict):
        raise nonsense("'logprobs' has no tokens")
    likely = _optional(record, "top_logprobs", list) or []
    return [_token(record), *map(_token, likely)]


def _token(record: object) -> tuple[str, float]:
    if not isinstance(record, dict):
        raise nonsense("'logprobs' has no tokens")
    return _field(record, "token", str), _logprob(record)


def _logprob(record: Record) -> float:
    """Read a logarithm; above 0 it may be by rounding, as OpenAI's are."""
    value = record.get("logprob")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise nonsense("'logprob' is not a number")
    if not _MIN_LOGPROB <= value <= _ROUNDING:
        raise nonsense("'logprob' is not the logarithm of a probability")
    return min(float(value), 0.0)


def _first_index(positions: Sequence[_Position], identifiers: frozenset[str]) -> int | None:
    sampled = [position[0][0] for position in positions]
    if _bare(sampled[0]) in identifiers:
        return 0
    brackets = (index for index, token in enumerate(sampled) if token.rstrip().endswith("["))
    after = next(brackets, len(sampled)) + 1
    return after if after < len(sampled) else None


def _bare(token: str) -> str:
    return token.strip(" \t\r\n[]")


def _is_refusal(message: Record, text: str, reason: str) -> bool:
    if _optional(message, "refusal", str):
        return True
    has_reasoned = any(message.get(name) for name in _REASONING_FIELDS)
    return not text.strip() and not has_reasoned and reason != "length"


def _record(body: bytes) -> Record:
    try:
        record = json.loads(body)
    except (ValueError, RecursionError):
        raise nonsense("it is not JSON") from None
    if not isinstance(record, dict):
        raise nonsense("it is not a JSON object")
    return record


def _field(record: Record, name: str, kind: type[_T]) -> _T:
    value = record.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise nonsense(f"{name!r} is of type {type(value).__name__}, not {kind.__name__}")
    return value


def _optional(record: Record, name: str, kind: type[_T]) -> _T | None:
    return None if record.get(name) is None else _field(record, name, kind)


def _count(record: Record, name: str) -> int:
    count = _optional(record, name, int) or 0
    if not 0 <= count < 1 << 31:
        raise nonsense(f"{name!r} is out of range")
    return count


def nonsense(what: str) -> UnavailableError:
    """Make the error for an answer that cannot be used."""
    return UnavailableError("generator", f"the endpoint's answer makes no sense: {what}")
