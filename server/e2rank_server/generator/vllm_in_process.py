"""The generator that runs vLLM as a child of the gateway and talks to it by token ids."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from e2rank_server.errors import ConfigurationError, FieldViolation, PromptTooLongError
from e2rank_server.generator.chat import ChatTokenizer, ChatTokens
from e2rank_server.generator.protocol import FirstToken, Generation, GeneratorPrompt, OutputBudget
from e2rank_server.generator.vllm_arguments import (
    MAX_LOGPROBS,
    choose_model_length,
    engine_arguments,
)
from e2rank_server.types import GeneratorBackend
from e2rank_server.vllm_process.engine import EngineCounters
from e2rank_server.vllm_process.hardware import DtypeChoice, choose_dtype, runs_on_cpu
from e2rank_server.vllm_process.requests import EngineRequests
from e2rank_server.vllm_process.start import MakeArguments
from e2rank_server.vllm_process.supervised import EngineSpecification, SupervisedEngine


class VllmInProcessGenerator:
    """See `Generator`. Make it with `start`; `close` ends vLLM's processes.

    An output without reasoning has exactly its budget's number of tokens: the
    model cannot end it earlier. When its engine dies, calls in flight raise
    UnavailableError and it is started again in the background, until that works.
    """

    backend = GeneratorBackend.VLLM_IN_PROCESS

    def __init__(
        self, name: str, chat: ChatTokenizer, max_model_tokens: int, arguments: MakeArguments
    ) -> None:
        self.model = name
        self.max_model_tokens: int | None = max_model_tokens
        self._limit = max_model_tokens
        self._chat = chat
        self._engine = SupervisedEngine(
            EngineSpecification("generator", name, arguments, self._warm_up)
        )

    @classmethod
    async def start(
        cls,
        name: str,
        folder: Path,
        *,
        dtype: DtypeChoice = "auto",
        max_model_tokens: int | None = None,
        prefix_caching: bool = True,
    ) -> Self:
        """Load the instruction-tuned model in `folder` and wait until it answers.

        `folder` has config.json, safetensors, tokenizer.json and a chat template.
        `max_model_tokens` None is the model's own length, on a CPU 8192 at most.
        `prefix_caching` reuses the key-value cache between prompts that begin
        alike. Cancelling ends the processes that were started.

        Raises:
            ConfigurationError: vLLM cannot load the model, or its chat template
                or tokenizer cannot be used (see ChatTokenizer).
        """
        try:
            resolved = await asyncio.to_thread(choose_dtype, dtype)
            if max_model_tokens is None:
                is_cpu = await asyncio.to_thread(runs_on_cpu)
                max_model_tokens = choose_model_length(folder, is_cpu=is_cpu)
            arguments = partial(
                engine_arguments,
                folder,
                dtype=resolved,
                max_model_tokens=max_model_tokens,
                prefix_caching=prefix_caching,
            )
            chat = await asyncio.to_thread(ChatTokenizer.load, folder)
            generator = cls(name, chat, max_model_tokens, arguments)
            await generator._engine.open()
        except Exception as error:
            raise ConfigurationError(
                [f"generator {name}: vLLM cannot run {folder}: {error}"]
            ) from error
        return generator

    @property
    def counters(self) -> EngineCounters:
        """What the engine itself reports; goes on counting when it is restarted."""
        return self._engine.counters

    @property
    def num_unfinished_requests(self) -> int:
        """Prompts that were given to vLLM and are neither answered nor aborted."""
        return self._engine.num_unfinished_requests

    async def count_tokens(self, prompt: GeneratorPrompt, budget: OutputBudget) -> int | None:
        """See `Generator.count_tokens`."""
        chat, answer_tokens = await asyncio.to_thread(self._tokenize, prompt, budget)
        return len(chat.token_ids) + answer_tokens + budget.reasoning_tokens

    async def generate(
        self, prompt: GeneratorPrompt, budget: OutputBudget, *, priority: int = 0
    ) -> Generation:
        """See `Generator.generate`."""
        chat, answer_tokens = await asyncio.to_thread(self._tokenize, prompt, budget)
        max_tokens = answer_tokens + budget.reasoning_tokens
        self._check_fits(chat, max_tokens)
        sampling = _greedy(
            max_tokens=max_tokens, min_tokens=0 if budget.reasoning_tokens else answer_tokens
        )
        async with self._engine.requests() as requests:
            outputs = await requests.add(chat.token_ids, sampling, priority=priority)
            [completion] = (await requests.result(outputs)).outputs
        return Generation(
            self._chat.decode(completion.token_ids),
            prompt_tokens=len(chat.token_ids),
            generated_tokens=len(completion.token_ids),
        )

    async def first_token(
        self, prompt: GeneratorPrompt, identifiers: Sequence[str], *, priority: int = 0
    ) -> FirstToken:
        """See `Generator.first_token`.

        An identifier counts with and without a space before it, whichever is
        likelier. Where the vocabulary joins some with the prompt's end ("[A"),
        the step before that end is computed, too: joined tokens compete there
        with the end, after which the others follow.
        """
        chat = await asyncio.to_thread(self._chat.tokenize, prompt)
        self._check_fits(chat, 1)
        tokens = await asyncio.to_thread(self._chat.identifier_tokens, chat, identifiers)
        *earlier, end = chat.token_ids
        logprobs: dict[str, float] = {}
        end_logprob: float | None = 0.0
        async with self._engine.requests() as requests:
            if tokens.joined:
                step = await _next_logprobs(requests, earlier, priority)
                _keep_likeliest(logprobs, step, tokens.joined)
                end_logprob = step.get(end)
            if end_logprob is not None:
                step = await _next_logprobs(requests, chat.token_ids, priority)
                _keep_likeliest(logprobs, step, tokens.following, end_logprob)
        return FirstToken(
            logprobs,
            prompt_tokens=len(chat.token_ids),
            generated_tokens=bool(tokens.joined) + (end_logprob is not None),
        )

    async def check_health(self) -> None:
        """See `Generator.check_health`."""
        self._engine.check_running()

    async def close(self) -> None:
        """End vLLM's processes; takes seconds. Calls in flight raise UnavailableError."""
        await self._engine.close()

    def _tokenize(self, prompt: GeneratorPrompt, budget: OutputBudget) -> tuple[ChatTokens, int]:
        return self._chat.tokenize(prompt), self._chat.num_tokens(budget.answer_like)

    def _check_fits(self, chat: ChatTokens, output_tokens: int) -> None:
        prompt_tokens = len(chat.token_ids)
        if prompt_tokens + output_tokens > self._limit:
            description = (
                f"the LLM's prompt has {prompt_tokens} tokens and its output up to "
                f"{output_tokens}, but {self.model} takes {self._limit} together"
            )
            raise PromptTooLongError([FieldViolation("documents", description)])

    async def _warm_up(self, requests: EngineRequests) -> None:
        await requests.result(await requests.add([0], _greedy(max_tokens=1), priority=0))


def _greedy(**options: int) -> Any:  # noqa: ANN401 - SamplingParams; vllm has no types
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0, output_kind=RequestOutputKind.FINAL_ONLY, detokenize=False, **options
    )


async def _next_logprobs(
    requests: EngineRequests, token_ids: list[int], priority: int
) -> Mapping[int, float]:
    """Compute the log-probabilities of the most likely next tokens."""
    sampling = _greedy(max_tokens=1, logprobs=MAX_LOGPROBS)
    [completion] = (
        await requests.result(await requests.add(token_ids, sampling, priority=priority))
    ).outputs
    [step] = completion.logprobs
    return {token: found.logprob for token, found in step.items()}


def _keep_likeliest(
    logprobs: dict[str, float],
    step: Mapping[int, float],
    identifiers: Mapping[int, str],
    before: float = 0.0,
) -> None:
    """Put those of a step's tokens that mean identifiers into `logprobs`.

    `before` is the log-probability of arriving at the step.
    """
    for token, name in identifiers.items():
        if token in step:
            likelihood = before + step[token]
            logprobs[name] = max(likelihood, logprobs.get(name, likelihood))
