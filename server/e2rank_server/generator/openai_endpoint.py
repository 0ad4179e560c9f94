"""The generator that reaches an LLM at an OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from e2rank_server.errors import ConfigurationError
from e2rank_server.generator.openai_answer import (
    Completion,
    first_identifier_logprobs,
    read_completion,
    read_token_count,
)
from e2rank_server.generator.openai_request import (
    MAX_TOP_LOGPROBS,
    EndpointApi,
    OutputLimits,
    openai_arguments,
    rendering,
    vllm_arguments,
    vllm_messages,
)
from e2rank_server.generator.protocol import FirstToken, Generation, GeneratorPrompt, OutputBudget
from e2rank_server.types import GeneratorBackend

if TYPE_CHECKING:
    from e2rank_server.generator.openai_connection import OpenAiConnection

_MAX_CACHED_LENGTHS = 256
# An answer that cannot be begun for the model may open with a bracket, or with a space and one.
_UNBEGUN_TOKENS = 3


class OpenAiEndpointGenerator:
    """See `Generator`. Make it with `start`, in a running event loop.

    There is no tokenizer here. At `api="vllm"` lengths come from vLLM's
    /tokenize where the endpoint has it. Elsewhere an answer may have as many
    tokens as it has bytes in UTF-8, which no byte-level vocabulary exceeds, and
    is forced to no length.

    Only `api="vllm"` can begin an answer for the model. What looks like a special
    token in a text is sent with an invisible character in it.
    """

    backend = GeneratorBackend.OPENAI_ENDPOINT

    def __init__(
        self,
        model: str,
        connection: OpenAiConnection,
        api: EndpointApi,
        max_model_tokens: int | None,
    ) -> None:
        self.model = model
        self.max_model_tokens = max_model_tokens
        """What was configured, or what /tokenize has said since."""
        self._connection = connection
        self._is_vllm = api == "vllm"
        self._lengths: dict[str, int] = {}

    @classmethod
    async def start(
        cls,
        model: str,
        url: str,
        *,
        api_key: str | None,
        api: EndpointApi,
        timeout_seconds: float,
        max_model_tokens: int | None = None,
        max_retries: int = 2,
    ) -> Self:
        """Make one for the model of that name at `url`, say `http://host:8000/v1`.

        Nothing is asked of the endpoint yet. A call takes `timeout_seconds` at
        most, its repetitions after 429, 5xx and broken connections included.

        Raises:
            ConfigurationError: `url` is none, or the key has characters that no header takes.
        """
        # The official client takes a second to import, and most servers have no such endpoint.
        from e2rank_server.generator.openai_connection import OpenAiConnection

        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise ConfigurationError(["the generator's API key is not printable ASCII"])
        connection = OpenAiConnection(
            _checked(url), api_key, timeout_seconds=timeout_seconds, max_retries=max_retries
        )
        return cls(model, connection, api, max_model_tokens)

    async def count_tokens(self, prompt: GeneratorPrompt, budget: OutputBudget) -> int | None:
        """See `Generator.count_tokens`: known where the endpoint has vLLM's /tokenize."""
        if not self._is_vllm:
            return None
        async with self._connection.bounded():
            answer = await self._connection.tokenize(
                {"model": self.model, "messages": vllm_messages(prompt), **rendering(prompt)}
            )
            if answer is None:
                return None
            num_tokens, max_model_tokens = read_token_count(answer)
            self.max_model_tokens = self.max_model_tokens or max_model_tokens
            return num_tokens + (await self._limits(prompt, budget)).max_tokens

    async def generate(
        self, prompt: GeneratorPrompt, budget: OutputBudget, *, priority: int = 0
    ) -> Generation:
        """See `Generator.generate`."""
        async with self._connection.bounded():
            completion = await self._complete(
                prompt, await self._limits(prompt, budget), priority=priority
            )
        text = completion.text
        if not self._is_vllm:  # the model may have begun its answer so by itself
            text = text.lstrip().removeprefix(prompt.answer_prefix)
        return Generation(
            text, completion.prompt_tokens, completion.generated_tokens, completion.is_refusal
        )

    async def first_token(
        self, prompt: GeneratorPrompt, identifiers: Sequence[str], *, priority: int = 0
    ) -> FirstToken:
        """See `Generator.first_token`: endpoints tell the 20 likeliest tokens, no more."""
        is_begun = self._is_vllm and prompt.answer_prefix != ""
        limits = OutputLimits(
            max_tokens=1 if is_begun else _UNBEGUN_TOKENS, top_logprobs=MAX_TOP_LOGPROBS
        )
        async with self._connection.bounded():
            completion = await self._complete(prompt, limits, priority=priority)
            logprobs = first_identifier_logprobs(
                completion, frozenset(identifiers), is_begun=is_begun
            )
        return FirstToken(logprobs, completion.prompt_tokens, completion.generated_tokens)

    async def check_health(self) -> None:
        """See `Generator.check_health`: the endpoint is asked only after a call has failed."""
        await self._connection.check_health()

    async def close(self) -> None:
        """See `Generator.close`."""
        await self._connection.close()

    async def _complete(
        self, prompt: GeneratorPrompt, limits: OutputLimits, *, priority: int
    ) -> Completion:
        if self._is_vllm:
            priority = priority if self._connection.takes_priority else 0
            arguments = vllm_arguments(self.model, prompt, limits, priority)
        else:
            arguments = openai_arguments(self.model, prompt, limits)
        answer = await self._connection.chat(arguments)
        return Completion(is_refusal=True) if answer is None else read_completion(answer)

    async def _limits(self, prompt: GeneratorPrompt, budget: OutputBudget) -> OutputLimits:
        """Force a length if nothing but the answer is to be written, and its tokens are known."""
        if self._is_vllm and not prompt.thinking and not budget.reasoning_tokens:
            num_tokens = await self._length(budget.answer_like)
            if num_tokens is not None:
                return OutputLimits(max_tokens=num_tokens, min_tokens=num_tokens)
        answer = budget.answer_like if self._is_vllm else prompt.answer_prefix + budget.answer_like
        return OutputLimits(max_tokens=max(1, len(answer.encode())) + budget.reasoning_tokens)

    async def _length(self, answer_like: str) -> int | None:
        """Return an answer's tokens, asked for once; None if the endpoint does not count them."""
        if answer_like in self._lengths:
            return self._lengths[answer_like]
        answer = await self._connection.tokenize(
            {"model": self.model, "prompt": answer_like, "add_special_tokens": False}
        )
        if answer is None:
            return None
        num_tokens, _ = read_token_count(answer)
        if len(self._lengths) == _MAX_CACHED_LENGTHS:
            self._lengths.clear()
        self._lengths[answer_like] = max(1, num_tokens)
        return self._lengths[answer_like]


def _checked(url: str) -> str:
    """Return the URL without a slash at its end."""
    try:
        parts = urlsplit(url)
        is_complete = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError as error:
        raise ConfigurationError([f"generator URL: {error}"]) from error
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(["the generator URL has credentials in it: use an API key"])
    if not is_complete or parts.query or parts.fragment:
        raise ConfigurationError([f"generator URL {url!r}: expected http(s)://HOST[:PORT][/PATH]"])
    return url.rstrip("/")
