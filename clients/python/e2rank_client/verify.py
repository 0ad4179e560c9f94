"""Whether a server reproduces published scores of its model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from e2rank_client.client import E2RankClient
from e2rank_client.types import E2RankOptions, PromptOrder

_GOLDEN_FOLDER = resources.files("e2rank_client") / "golden"


@dataclass(frozen=True, slots=True)
class Golden:
    """Scores of E2RANK to reproduce: `scores[q][d]` is query q's with document d.

    All documents are shown in the prompt, in this order.
    """

    source: str
    listwise_template: str
    """Which of the profile's listwise templates made the scores; empty means its default."""
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    scores: tuple[tuple[float, ...], ...]
    tolerance: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One score, as served and as it should be."""

    query: str
    document: str
    served: float
    golden: float
    tolerance: float

    @property
    def difference(self) -> float:
        """Served minus golden."""
        return self.served - self.golden

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance; never for NaN."""
        return abs(self.difference) <= self.tolerance


def golden_profiles() -> list[str]:
    """Name the profiles for which golden scores are shipped."""
    names = (file.name for file in _GOLDEN_FOLDER.iterdir())
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


def read_golden(profile: str) -> Golden:
    """Read the shipped golden scores of a profile.

    Raises:
        KeyError: There are none.
    """
    if profile not in golden_profiles():
        raise KeyError(profile)
    values: dict[str, Any] = json.loads((_GOLDEN_FOLDER / f"{profile}.json").read_text())
    return Golden(
        source=values["source"],
        listwise_template=values["listwise_template"],
        queries=tuple(values["queries"]),
        documents=tuple(values["documents"]),
        scores=tuple(tuple(row) for row in values["scores"]),
        tolerance=values["tolerance"],
    )


def served_scores(client: E2RankClient, golden: Golden, *, model: str) -> list[list[float]]:
    """Have the server score every query with every document, in their order."""
    method = E2RankOptions(
        prompt_documents=len(golden.documents), prompt_order=PromptOrder.FIRST_STAGE
    )
    rows = []
    for query in golden.queries:
        answer = client.rerank(query, golden.documents, model=model, method=method)
        by_index = {result.index: result.relevance_score for result in answer.results}
        rows.append([by_index[index] for index in range(len(golden.documents))])
    return rows


def compare(golden: Golden, served: Sequence[Sequence[float]]) -> list[Comparison]:
    """Set the served scores beside the golden ones.

    Raises:
        ValueError: Their shapes differ.
    """
    return [
        Comparison(query, document, served_score, golden_score, golden.tolerance)
        for query, served_row, golden_row in zip(golden.queries, served, golden.scores, strict=True)
        for document, served_score, golden_score in zip(
            golden.documents, served_row, golden_row, strict=True
        )
    ]
