"""What can go wrong at an OpenAI-compatible endpoint, as errors that callers may see."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import openai

from e2rank_server.errors import (
    E2RankError,
    GeneratorRefusedError,
    OverloadedError,
    PromptTooLongError,
    UnavailableError,
)

MAX_RETRY_AFTER_SECONDS = 60.0
"""However long an endpoint wants to be left alone, callers are told no more."""

_DEFAULT_RETRY_AFTER_SECONDS = 1.0
_MAX_MESSAGE_CHARACTERS = 300
_TIMEOUT, _CONFLICT, _TOO_MANY_REQUESTS = 408, 409, 429
_TOO_LONG_STATUSES = (400, 413, 422)
# OpenAI's code and the words of vLLM, SGLang, llama.cpp and others.
_TOO_LONG = re.compile(r"context.?(length|window|size)|max_model_len|prompt is too long", re.I)
# What a key looks like when an endpoint repeats a part of it.
_KEY = re.compile(r"\bsk-[\w*-]+|\bBearer\s+\S+", re.I)
_REFUSED_CONTENT = ("content_filter", "content_policy_violation")


def unavailable(message: str) -> UnavailableError:
    """Make the error for an endpoint that is away or answers nonsense."""
    return UnavailableError("generator", message)


def failure_of(error: openai.APIError, api_key: str | None) -> E2RankError:
    """Return what an exception of the official client means here; no text has the key."""
    match error:
        case openai.APITimeoutError():
            return unavailable("the endpoint did not answer in time")
        case openai.APIConnectionError():
            return unavailable(f"no connection to the endpoint: {_cause(error)}")
        case openai.APIStatusError():
            return _status_failure(error, _message(error.body, api_key))
        case _:
            return unavailable("the endpoint's answer cannot be read")


def is_refused_content(error: openai.APIStatusError) -> bool:
    """Tell whether the provider declined because of what the prompt says (Azure and others)."""
    return error.code in _REFUSED_CONTENT


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Return how long an answer asks to wait: not negative, None if it does not say."""
    for name, unit_seconds in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        seconds = _seconds(value)
        if seconds is not None and math.isfinite(seconds):
            return max(0.0, seconds * unit_seconds)
    return None


def _status_failure(error: openai.APIStatusError, message: str) -> E2RankError:
    status = error.status_code
    text = f"the endpoint answers HTTP {status}" + (f": {message}" if message else "")
    if status == _TOO_MANY_REQUESTS:
        wait = retry_after_seconds(error.response.headers)
        if wait is None:
            wait = _DEFAULT_RETRY_AFTER_SECONDS
        return OverloadedError(f"generator: {text}", min(wait, MAX_RETRY_AFTER_SECONDS))
    if status >= 500 or status in (_TIMEOUT, _CONFLICT):
        return unavailable(text)
    if status in _TOO_LONG_STATUSES and _TOO_LONG.search(f"{error.code} {error.type} {message}"):
        return PromptTooLongError.of("llm_listwise", f"the prompt does not fit the LLM: {message}")
    if status == 400 and _names_temperature(error, message):
        text += " (it is called with temperature 0, which some reasoning models do not take)"
    return GeneratorRefusedError(text)


def _names_temperature(error: openai.APIStatusError, message: str) -> bool:
    return error.param == "temperature" or "temperature" in message.casefold()


def _seconds(value: str) -> float | None:
    """Read a number. A date is as good as none: two clocks are not to be compared."""
    try:
        return float(value)
    except ValueError:
        return None


def _cause(error: BaseException) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__} {cause}".strip()[:_MAX_MESSAGE_CHARACTERS]


def _message(body: object, api_key: str | None) -> str:
    """Return the beginning of what an error answer says: one line without the key."""
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail") or body.get("error") or ""
    text = str(body)
    if api_key:
        text = text.replace(api_key, "***")
    text = _KEY.sub("***", text)
    return " ".join(text.split())[:_MAX_MESSAGE_CHARACTERS]
