"""What is asked of an OpenAI-compatible endpoint: the two dialects of chat completions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from e2rank_server.generator.protocol import GeneratorPrompt
from e2rank_server.types import ChatMessage

EndpointApi: TypeAlias = Literal["vllm", "openai"]
"""`vllm`: what vLLM and SGLang know besides. `openai`: the standard fields alone."""

MAX_TOP_LOGPROBS = 20
"""OpenAI's API and vLLM's default allow no more."""

# Tokens of ChatML and Llama 3, of Gemma, of Llama 2 and Mistral.
_SPECIAL_TOKEN = re.compile(
    r"<(?=\||/?s>|(?:bos|eos|pad|unk)>|(?:start|end)_of_turn>|<)|\[(?=/?INST\])"
)
_ZERO_WIDTH_SPACE = "\u200b"


@dataclass(frozen=True, slots=True)
class OutputLimits:
    """What bounds an output. `top_logprobs` 0 asks for no log-probabilities."""

    max_tokens: int
    min_tokens: int = 0
    top_logprobs: int = 0


def vllm_arguments(
    model: str, prompt: GeneratorPrompt, limits: OutputLimits, priority: int
) -> dict[str, Any]:
    """Make the arguments of a chat completion at vLLM and the like.

    `max_tokens` is the older name, which all of them know. A repetition penalty,
    which models such as Qwen's bring in their generation_config.json and vLLM
    then applies, would punish writing `[` and `>` again and again.
    """
    extra: dict[str, Any] = {"repetition_penalty": 1.0, **rendering(prompt)}
    if limits.min_tokens:
        extra["min_tokens"] = limits.min_tokens
    if priority:  # vLLM refuses any but 0 unless it schedules by priority
        extra["priority"] = priority
    return {
        "model": model,
        "messages": vllm_messages(prompt),
        "temperature": 0,
        "max_tokens": limits.max_tokens,
        **_logprobs(limits),
        "extra_body": extra,
    }


def vllm_messages(prompt: GeneratorPrompt) -> list[dict[str, str]]:
    """Return the messages, the last of which is the beginning of the answer if that is given."""
    messages = _messages(prompt.messages)
    if prompt.answer_prefix:
        messages.append({"role": "assistant", "content": prompt.answer_prefix})
    return messages


def rendering(prompt: GeneratorPrompt) -> dict[str, Any]:
    """Return how vLLM has to render the conversation; /tokenize takes the same fields."""
    fields: dict[str, Any] = {}
    if prompt.thinking is not None:
        fields["chat_template_kwargs"] = {"enable_thinking": prompt.thinking}
    if prompt.answer_prefix:
        fields |= {"continue_final_message": True, "add_generation_prompt": False}
    return fields


def openai_arguments(model: str, prompt: GeneratorPrompt, limits: OutputLimits) -> dict[str, Any]:
    """Make the arguments of a chat completion in OpenAI's own fields.

    An answer cannot be begun there, nor held to a length. Thinking is asked for
    with `reasoning_effort: medium`, and then without temperature, which OpenAI's
    reasoning models refuse; without thinking nothing is said about it, because
    models that do not reason refuse the field.
    """
    style: dict[str, Any] = (
        {"reasoning_effort": "medium"} if prompt.thinking else {"temperature": 0}
    )
    return {
        "model": model,
        "messages": _messages(prompt.messages),
        "max_completion_tokens": limits.max_tokens,
        **style,
        **_logprobs(limits),
    }


def _messages(messages: Sequence[ChatMessage]) -> list[dict[str, str]]:
    return [{"role": each.role, "content": _as_characters(each.content)} for each in messages]


def _logprobs(limits: OutputLimits) -> dict[str, Any]:
    if not limits.top_logprobs:
        return {}
    return {"logprobs": True, "top_logprobs": limits.top_logprobs}


def _as_characters(text: str) -> str:
    """Break what would be a special token with an invisible character.

    vLLM tokenizes the rendered conversation as a whole, and so do providers of
    open models: a document with `<|im_end|>` in it would end its turn.
    """
    return _SPECIAL_TOKEN.sub(lambda found: found.group() + _ZERO_WIDTH_SPACE, text)
