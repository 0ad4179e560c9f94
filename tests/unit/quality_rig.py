"""A tiny collection, and a client that needs no server, for tests of quality benchmarks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.collection import Collection, CollectionDocument
from e2rank_client import Document, EmbedResult, LlmListwiseOptions, RerankResult
from e2rank_client.types import (
    CacheTier,
    Generator,
    GeneratorBackend,
    LlmListwiseReport,
    LlmOutputCounts,
    Method,
    RankedDocument,
    RerankTimings,
    RerankUsage,
)

COLORS = ("red", "green", "blue")


def vector_of(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Count colour words: texts of one colour are near each other."""
    counts = np.array([text.count(color) for color in COLORS], np.float32)
    return counts / (np.linalg.norm(counts) or 1)


def make_collection(num_documents: int = 200, **changes: Any) -> Collection:
    documents = tuple(
        CollectionDocument(f"d{i}", "", f"{COLORS[i % 3]} thing {'x' * (i % 7)}")
        for i in range(num_documents)
    )
    qrels = {f"q-{color}": {f"d{i}": 1} for i, color in enumerate(COLORS)}
    queries = {f"q-{color}": f"a {color} one" for color in COLORS}
    return Collection("colors", documents, queries, qrels, **changes)


class StubClient:
    """Embeds by colour words and reranks by them; remembers what it embedded and was asked.

    An LLM_LISTWISE of it keeps the order, and writes `llm_outputs` of every kind.
    """

    def __init__(self, llm_outputs: LlmOutputCounts | None = None) -> None:
        self.embedded: list[tuple[str, str, int, str]] = []
        self.reranked: list[tuple[str, list[str], Any]] = []
        self.instructions: list[str] = []
        self.running = self.most_running = 0
        self._cached: set[tuple[str, str]] = set()
        self._llm_outputs = llm_outputs or LlmOutputCounts(1, 3, 0, 0, 0, 0)

    async def embed(
        self,
        texts: Sequence[str],
        *,
        input_type: str,
        titles: Sequence[str | None] | None = None,
        namespace: str = "",
        instruction: str = "",
        **_: Any,
    ) -> EmbedResult:
        self.embedded.append((input_type, namespace, len(texts), instruction))
        await self._busy()
        if input_type == "DOCUMENT":
            self._cached |= {(namespace, text) for text in texts}
        full = [f"{t or ''} {x}" for t, x in zip(titles or [None] * len(texts), texts, strict=True)]
        vectors = np.stack([vector_of(text) for text in full])
        return EmbedResult(vectors, (), (), None, None, None, ())  # type: ignore[arg-type]

    async def rerank(
        self,
        query: str,
        documents: Sequence[Document],
        *,
        method: Any,
        namespace: str = "",
        instruction: str = "",
        **_: Any,
    ) -> RerankResult:
        self.reranked.append((query, [document.id for document in documents], method))
        self.instructions.append(instruction)
        await self._busy()
        new = {(namespace, str(document.text)) for document in documents} - self._cached
        is_llm = isinstance(method, LlmListwiseOptions)
        scores = [
            1 / (i + 1) if is_llm else float(vector_of(query) @ vector_of(str(document.text)))
            for i, document in enumerate(documents)
        ]
        if not is_llm:
            self._cached |= new
        order = sorted(range(len(documents)), key=lambda i: -scores[i])
        results = [
            RankedDocument(i, documents[i].id, scores[i], None, CacheTier.MEMORY) for i in order
        ]
        report = None
        if is_llm:
            report = LlmListwiseReport("g", "t", "1", 4, self._llm_outputs, 0, 0, 0)
        usage = RerankUsage(0, 0, 0, 0, 0 if is_llm else len(new), 0, 0, 0)
        return RerankResult(
            results,
            Method.COSINE,
            usage,
            RerankTimings(0.5, 0, 0, 0, 0, 0, 0),
            None,  # type: ignore[arg-type]
            (),
            llm_listwise=report,
        )

    async def _busy(self) -> None:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await asyncio.sleep(0)
        self.running -= 1


GENERATOR = Generator(
    "/models/small-1b",
    GeneratorBackend.VLLM_IN_PROCESS,
    4096,
    ("rankzephyr", "bright", "insertrank", "rank_llm_insertrank"),
    "rankzephyr",
    "insertrank",
    LlmOutputCounts(0, 0, 0, 0, 0, 0),
)


def make_model(profile: str = "small-0.1b", generator: Generator | None = GENERATOR) -> Any:
    """A model as `get_model` describes it, in the parts that are read."""
    identity = type(
        "Identity",
        (),
        {
            "profile": profile,
            "revision": "r",
            "fingerprint": "f",
            "template_version": "1",
            "embedder_backend": "FAKE",
            "tokenizer_backend": "IN_PROCESS",
        },
    )()
    limits = type("Limits", (), {"default_prompt_documents": 5})()
    return type(
        "Model",
        (),
        {
            "identity": identity,
            "compute_dtype": "float32",
            "default_prompt_order": "FIRST_STAGE",
            "generator": generator,
            "limits": limits,
        },
    )()
