"""The requests of a scenario, one after the other."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from operator import methodcaller
from typing import Any, TypeAlias

from benchmarks.load.parameters import LoadParameters, Method, Scenario
from benchmarks.load.passages import Passages
from benchmarks.load.zipf import ZipfNumbers
from benchmarks.overhead.texts import Texts
from e2rank_client import E2RankClient, E2RankOptions, EmbedResult, RerankResult

Answer: TypeAlias = RerankResult | EmbedResult
Send: TypeAlias = Callable[[E2RankClient], Answer]
"""Makes a call whose texts are ready, and returns its answer."""

_LLM_WARM_UP_CANDIDATES = 2


class Workload:
    """Requests as the parameters say, the same in the same order for the same seed.

    Every rerank has a query of its own and a new order of candidates, so that what is
    cached is embeddings of documents and nothing else.
    """

    def __init__(self, parameters: LoadParameters) -> None:
        self._parameters = parameters
        self._queries = Texts(parameters.seed)
        self._passages = Passages(parameters.document_words, parameters.seed)
        self._numbers = random.Random(parameters.seed)  # noqa: S311 - chooses candidates
        self._of_every_call: dict[str, Any] = {
            "model": parameters.model,
            "namespace": parameters.namespace,
            "timeout_seconds": parameters.timeout_seconds,
        }
        self._set: list[str] = []
        match parameters.scenario:
            case Scenario.RERANK_WARM | Scenario.LLM_LISTWISE:
                self._set = [self._passages.numbered(n) for n in range(parameters.num_documents)]
            case Scenario.RERANK_ZIPF:
                self._zipf = ZipfNumbers(parameters.num_documents, parameters.seed)

    def warm_up(self) -> Iterator[Send]:
        """Yield what is to be answered before anything is measured.

        That is the fixed set of a warm scenario, which becomes cached, and one request
        like those to come.
        """
        step = self._parameters.candidates
        for start in range(0, len(self._set), step):
            yield self._rerank(self._set[start : start + step], Method.COSINE)
        if self._parameters.ranks_with is Method.LLM_LISTWISE:
            yield self._rerank(self._documents()[:_LLM_WARM_UP_CANDIDATES], Method.LLM_LISTWISE)
        else:
            yield self.next()

    def next(self) -> Send:
        """Return the next request."""
        documents = self._documents()
        if self._parameters.scenario is Scenario.EMBED:
            return self._embed(documents)
        return self._rerank(documents, self._parameters.ranks_with)

    def _documents(self) -> list[str]:
        count = self._parameters.candidates
        match self._parameters.scenario:
            case Scenario.RERANK_WARM | Scenario.LLM_LISTWISE:
                return self._numbers.sample(self._set, count)
            case Scenario.RERANK_ZIPF:
                return [self._passages.numbered(n) for n in self._zipf.draw(count)]
            case Scenario.RERANK_COLD | Scenario.EMBED:
                return [self._passages.new() for _ in range(count)]

    def _rerank(self, documents: list[str], method: Method) -> Send:
        options = None
        if method is Method.E2RANK and self._parameters.prompt_documents:
            options = E2RankOptions(prompt_documents=self._parameters.prompt_documents)
        return methodcaller(
            "rerank",
            self._queries.query(),
            documents,
            method=options or method.value,
            **self._of_every_call,
        )

    def _embed(self, documents: list[str]) -> Send:
        return methodcaller("embed", documents, input_type="DOCUMENT", **self._of_every_call)
