"""The experiment on one shape: E2RANK beside its bare passes, and the LLM beside its own."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from benchmarks.latency.engines import BareEngine, used_cpu_seconds
from benchmarks.latency.prompts import PromptIds, WindowIds, e2rank_request, llm_request
from benchmarks.latency.samples import E2RankSamples, LlmSamples
from benchmarks.latency.shapes import PROMPT_DOCUMENTS, Shape
from benchmarks.latency.turns import Turns
from benchmarks.overhead.texts import Texts
from e2rank.v1 import rerank_pb2

_WARM_NAMESPACE = "warm"
# Windows have the same passages on both sides, but not the same ones together: the LLM has
# moved some, and an identifier may be a token longer beside another passage.
_MAX_TOKEN_DIFFERENCE = 0.02


class UnequalWorkError(Exception):
    """The two sides did not do the same, so their ratio would mean nothing."""


class Experiment:
    """Measures one shape; `advance` is called after each timed call.

    Texts are the same in every run, and new in every iteration: no cache but the
    documents' has anything to find.
    """

    def __init__(
        self,
        shape: Shape,
        prompts: PromptIds,
        passages: Sequence[str],
        advance: Callable[[], None],
    ) -> None:
        self._shape = shape
        self._prompts = prompts
        self._passages = list(passages)
        self._advance = advance
        self._texts = Texts(seed=1)

    async def e2rank(self, turn: Turns) -> E2RankSamples:
        """Rerank warm, then cold, each time beside the passes of a bare embedder."""
        samples = E2RankSamples()
        # Not kept: fills the cache, and lets both sides allocate what they need.
        await self._warm(turn, E2RankSamples(), embedded=len(self._passages))
        for _ in range(self._shape.warm_iterations):
            await self._warm(turn, samples, embedded=0)
            self._advance()
        for iteration in range(self._shape.cold_iterations):
            await self._cold(turn, samples, f"cold-{iteration}")
            self._advance()
        return samples

    async def llm(self, turn: Turns) -> LlmSamples:
        """Let the LLM order the candidates of each query, between windows of a bare generator."""
        samples = LlmSamples()
        await self._warm_up_llm(turn)
        query, candidates = self._query()
        before = await self._bare_windows(turn, self._prompts.windows(query, candidates))
        samples.bare_windows += before
        for _ in range(self._shape.queries):
            schedule = self._prompts.windows(query, candidates)
            await self._llm_query(turn, query, candidates, samples)
            self._advance()
            after = await self._bare_windows(turn, schedule)
            samples.bare_windows += after
            samples.bare_queries.append(len(schedule) * statistics.fmean([*before, *after]))
            before = after
            query, candidates = self._query()
        return samples

    async def _warm(self, turn: Turns, samples: E2RankSamples, embedded: int) -> None:
        query, candidates = self._query()
        request = e2rank_request(query, candidates, _WARM_NAMESPACE)
        token_ids = await self._prompts.listwise(query, candidates)
        seconds, answer = await turn.serve(request)
        _require("documents embedded", answer.usage.documents_embedded, embedded)
        _require("prompt tokens", answer.usage.prompt_tokens, len(token_ids))
        _require("passages cut", answer.usage.prompt_documents_truncated, 0)
        samples.warm.append(seconds)
        samples.prompt_pass.append(_seconds(answer.timings.prompt))
        samples.prompt_tokens.append(len(token_ids))
        samples.bare_prompt.append(await turn.bare(lambda bare: bare.encode(token_ids)))

    async def _cold(self, turn: Turns, samples: E2RankSamples, namespace: str) -> None:
        query, candidates = self._query()
        prompt = await self._prompts.listwise(query, candidates)
        documents = await self._prompts.documents(candidates)
        num_tokens = sum(len(each) for each in documents)
        seconds, answer = await turn.serve(e2rank_request(query, candidates, namespace))
        _require("documents embedded", answer.usage.documents_embedded, len(candidates))
        _require("document tokens", answer.usage.document_tokens, num_tokens)
        samples.cold.append(seconds)
        samples.documents.append(_seconds(answer.timings.documents))
        samples.document_tokens.append(num_tokens)
        bare_documents = await turn.bare(lambda bare: bare.encode_all(documents))
        bare_prompt = await turn.bare(lambda bare: bare.encode(prompt))
        samples.bare_documents.append(bare_documents)
        samples.bare_cold.append(bare_documents + bare_prompt)

    async def _llm_query(
        self, turn: Turns, query: str, candidates: Sequence[str], samples: LlmSamples
    ) -> None:
        schedule = self._prompts.windows(query, candidates)
        request = llm_request(query, candidates, self._prompts.max_words)
        used_before = [used_cpu_seconds(engine) for engine in turn.server.engines]
        seconds, answer = await turn.serve(request)
        used = [
            used_cpu_seconds(engine) - before
            for engine, before in zip(turn.server.engines, used_before, strict=True)
        ]
        report = answer.llm_listwise
        _require_same_windows(schedule, report)
        _require("passages cut", answer.usage.prompt_documents_truncated, 0)
        samples.queries.append(seconds)
        samples.window_prompt_tokens.append(report.prompt_tokens / report.windows)
        samples.window_answer_tokens.append(report.generated_tokens / report.windows)
        samples.idle_engine_cpu_share.append(min(used) / seconds)
        for descriptor, number in report.outputs.ListFields():
            name = descriptor.name
            samples.outputs[name] = samples.outputs.get(name, 0) + number

    async def _bare_windows(self, turn: Turns, schedule: Sequence[WindowIds]) -> list[float]:
        seconds = []
        for number in range(self._shape.windows_between):
            seconds.append(await turn.bare(_generating(schedule[number % len(schedule)])))
            self._advance()
        return seconds

    async def _warm_up_llm(self, turn: Turns) -> None:
        """Run one window on each side."""
        query, candidates = self._query()
        shown = candidates[:PROMPT_DOCUMENTS]
        [window] = self._prompts.windows(query, shown)
        await turn.serve(llm_request(query, shown, self._prompts.max_words))
        await turn.bare(_generating(window))

    def _query(self) -> tuple[str, list[str]]:
        """Return a new query, and the candidates in a new order."""
        return self._texts.query(), self._texts.shuffled(self._passages)


def _generating(window: WindowIds) -> Callable[[BareEngine], Awaitable[None]]:
    return lambda bare: bare.generate(window.token_ids, window.answer_tokens)


def _require_same_windows(
    schedule: Sequence[WindowIds], report: rerank_pb2.LlmListwiseReport
) -> None:
    _require("windows", report.windows, len(schedule))
    answer_tokens = sum(window.answer_tokens for window in schedule)
    _require("generated tokens", report.generated_tokens, answer_tokens)
    expected = sum(len(window.token_ids) for window in schedule)
    if abs(report.prompt_tokens - expected) > _MAX_TOKEN_DIFFERENCE * expected:
        _require("prompt tokens of all windows", report.prompt_tokens, expected)


def _require(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise UnequalWorkError(f"{name}: {found} in the server's answer, {expected} expected")


def _seconds(duration: Any) -> float:  # noqa: ANN401 - protobuf's Duration
    return float(duration.ToNanoseconds() / 1e9)
