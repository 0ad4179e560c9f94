"""A rerank beside its own model passes.

Warm means that the documents' vectors are cached, and nothing else: each
iteration has a new query and a new order of candidates, and prefix caching is
off on both sides. The bare side embeds the very token ids that the server's
prompt has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.intervals import Estimate, median, ratio_of_medians
from benchmarks.overhead.messages import MethodName, rerank_request
from benchmarks.overhead.processes import stopped
from benchmarks.overhead.rig import Rig
from benchmarks.overhead.texts import Texts
from e2rank.v1 import rerank_pb2
from e2rank_server.profiles.profile import Pooling
from e2rank_server.tokenizer.protocol import ListwisePromptInput
from e2rank_server.types import InputType, TextInput, TokenIds

NUM_DOCUMENTS = 100
_WARM_UP_ITERATIONS = 2
_WARM_NAMESPACE = "warm"


class UnequalWorkError(Exception):
    """The two sides did not do the same, so their ratio would mean nothing."""


@dataclass(frozen=True, slots=True)
class PassesPlan:
    """What to measure on a profile, and how often."""

    profile: str
    methods: Sequence[MethodName]
    passage_words: int
    prompt_documents: int
    iterations: int
    cold_iterations: int = 0

    @property
    def steps(self) -> int:
        """How often `measure_passes` reports progress."""
        warm = len(self.methods) * (_WARM_UP_ITERATIONS + self.iterations)
        return warm + 2 * self.cold_iterations


@dataclass(slots=True)
class WarmSamples:
    """An iteration each: seconds as the client sees them and of what they are compared with."""

    rerank: list[float]
    bare: list[float]
    tokenize: list[float]
    tokenize_in_process: list[float]
    prompt_tokens: list[float]

    @property
    def rerank_tokenizing_in_process(self) -> list[float]:
        """What a rerank would have taken with the in-process tokenizer."""
        samples = zip(self.rerank, self.tokenize, self.tokenize_in_process, strict=True)
        return [rerank - triton + here for rerank, triton, here in samples]


class PassesExperiment:
    """Reranks on one profile."""

    def __init__(self, rig: Rig, plan: PassesPlan) -> None:
        self._rig = rig
        self._plan = plan
        self._texts = Texts()
        self._passages = [self._texts.passage(plan.passage_words) for _ in range(NUM_DOCUMENTS)]

    async def warm(self, method: MethodName, advance: Callable[[], None]) -> WarmSamples:
        """Rerank cached documents and run the bare pass, in turns."""
        samples = WarmSamples([], [], [], [], [])
        await self._rerank(self._request("cosine", _WARM_NAMESPACE))  # fills the cache
        for iteration in range(_WARM_UP_ITERATIONS + self._plan.iterations):
            if iteration == _WARM_UP_ITERATIONS:
                samples = WarmSamples([], [], [], [], [])
            await self._warm_iteration(method, samples)
            advance()
        return samples

    async def cold(self, advance: Callable[[], None]) -> tuple[list[float], list[float]]:
        """Return seconds of reranks whose documents are new, and of the same a second time."""
        cold: list[float] = []
        warm: list[float] = []
        for iteration in range(self._plan.cold_iterations):
            for samples in (cold, warm):
                request = self._request("e2rank", f"cold-{iteration}")
                seconds, answer = await self._rerank(request)
                samples.append(seconds)
                expected = NUM_DOCUMENTS if samples is cold else 0
                _require("documents embedded", answer.usage.documents_embedded, expected)
                advance()
        return cold, warm

    async def _warm_iteration(self, method: MethodName, samples: WarmSamples) -> None:
        request = self._request(method, _WARM_NAMESPACE)
        with stopped([*self._rig.server_processes, *self._rig.bare_processes]):
            started = time.perf_counter()
            token_ids = await self._token_ids(request, method)
            seconds_here = time.perf_counter() - started
        seconds, answer = await self._rerank(request)
        _require("documents cached", answer.usage.documents_cached, NUM_DOCUMENTS)
        _require("prompt tokens", answer.usage.prompt_tokens, len(token_ids))
        by_token = self._rig.profile.listwise_pooling is Pooling.QUERY_TOKENS
        bare = self._rig.bare.encode(token_ids, each_token=by_token and method == "e2rank")
        samples.rerank.append(seconds)
        samples.bare.append(await self._rig.time_bare(bare))
        samples.tokenize.append(answer.timings.tokenize.ToNanoseconds() / 1e9)
        samples.tokenize_in_process.append(seconds_here)
        samples.prompt_tokens.append(len(token_ids))

    def _request(self, method: MethodName, namespace: str) -> rerank_pb2.RerankRequest:
        return rerank_request(
            self._texts.query(),
            self._texts.shuffled(self._passages),
            method,
            prompt_documents=self._plan.prompt_documents,
            namespace=namespace,
        )

    async def _rerank(
        self, request: rerank_pb2.RerankRequest
    ) -> tuple[float, rerank_pb2.RerankResponse]:
        return await self._rig.time_server(self._rig.rerank(request))

    async def _token_ids(self, request: rerank_pb2.RerankRequest, method: MethodName) -> TokenIds:
        """Tokenize the request's prompt as the server does, but here."""
        tokenizer = self._rig.tokenizer
        if method == "cosine":
            [query] = await tokenizer.tokenize_texts(InputType.QUERY, [TextInput(request.query)])
            return query.token_ids
        shown = request.documents[: self._plan.prompt_documents]
        prompt = await tokenizer.tokenize_listwise_prompt(
            ListwisePromptInput(request.query, [TextInput(document.text) for document in shown])
        )
        return prompt.token_ids


async def measure_passes(
    rig: Rig, plan: PassesPlan, prefix: str, advance: Callable[[], None]
) -> dict[str, Estimate]:
    """Return the plan's figures, their names beginning with `prefix`."""
    experiment = PassesExperiment(rig, plan)
    figures: dict[str, Estimate] = {}
    for method in plan.methods:
        samples = await experiment.warm(method, advance)
        figures |= _warm_figures(f"{prefix}.{method}", samples)
    if plan.cold_iterations:
        cold, warm = await experiment.cold(advance)
        figures[f"{prefix}.cold_over_warm_p50"] = ratio_of_medians(cold, warm)
        figures[f"{prefix}.cold_rerank_p50_ms"] = _milliseconds(cold)
    return figures


def _warm_figures(prefix: str, samples: WarmSamples) -> dict[str, Estimate]:
    in_process = samples.rerank_tokenizing_in_process
    return {
        f"{prefix}.warm_rerank_over_passes_p50": ratio_of_medians(samples.rerank, samples.bare),
        f"{prefix}.warm_rerank_p50_ms": _milliseconds(samples.rerank),
        f"{prefix}.passes_p50_ms": _milliseconds(samples.bare),
        f"{prefix}.prompt_tokens": median(samples.prompt_tokens),
        f"{prefix}.tokenize_p50_ms": _milliseconds(samples.tokenize),
        f"{prefix}.tokenize_in_process_p50_ms": _milliseconds(samples.tokenize_in_process),
        f"{prefix}.triton_share_of_rerank": ratio_of_medians(samples.tokenize, samples.rerank),
        f"{prefix}.in_process_share_of_rerank": ratio_of_medians(
            samples.tokenize_in_process, in_process
        ),
    }


def _milliseconds(seconds: Sequence[float]) -> Estimate:
    return median([1000 * each for each in seconds])


def _require(name: str, found: int, expected: int) -> None:
    if found != expected:
        raise UnequalWorkError(f"{name}: {found} in the server's answer, {expected} expected")
