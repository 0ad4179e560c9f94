"""The demo's two passes, with a client that needs no server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.collection import Collection, CollectionDocument
from benchmarks.demo.measuring import PassError, rerank_cold_and_warm
from e2rank_client import CacheTier, Document, RankedDocument, RerankResult, RerankUsage

COLLECTION = Collection(
    "tiny",
    tuple(CollectionDocument(name, "", f"text of {name}") for name in "abc"),
    {"q1": "first", "q2": "second"},
    {"q1": {"a": 2}, "q2": {"b": 1}},
)
CANDIDATES = {"q1": {"a": 3.0, "b": 2.0}, "q2": {"b": 5.0, "c": 1.0}}


class CachingClient:
    """Caches by namespace, as the server does; scores later candidates higher."""

    def __init__(self, *, ignores_namespace: bool = False, forgets: bool = False) -> None:
        self.calls: list[tuple[str, str]] = []
        self._cached: set[tuple[str, str | None]] = set()
        self._ignores_namespace = ignores_namespace
        self._forgets = forgets

    def rerank(
        self, query: str, documents: Sequence[Document], *, method: str, namespace: str
    ) -> RerankResult:
        self.calls.append((query, namespace))
        space = "" if self._ignores_namespace else namespace
        keys = {(space, document.text) for document in documents}
        cached = 0 if self._forgets else len(keys & self._cached)
        self._cached |= keys
        usage = RerankUsage(0, 0, 0, cached, len(documents) - cached, 0, 0, 0)
        results = [
            RankedDocument(index, document.id, float(index), None, CacheTier.COMPUTED)
            for index, document in reversed(list(enumerate(documents)))
        ]
        return RerankResult(results, None, usage, None, None, ())  # type: ignore[arg-type]


def measure(client: Any) -> Any:
    return rerank_cold_and_warm(client, COLLECTION, CANDIDATES, "COSINE", namespace="demo")


def test_nothing_is_cached_in_the_cold_pass_although_queries_share_a_candidate() -> None:
    outcome = measure(CachingClient())
    assert [answer.usage.documents_cached for answer in outcome.cold] == [0, 0]
    assert [answer.usage.documents_embedded for answer in outcome.warm] == [0, 0]


def test_the_ranking_is_the_methods() -> None:
    assert measure(CachingClient()).run == {"q1": {"b": 1.0, "a": 0.0}, "q2": {"c": 1.0, "b": 0.0}}


def test_each_query_has_a_namespace_that_no_other_method_uses() -> None:
    client = CachingClient()
    measure(client)
    namespaces = {namespace for _, namespace in client.calls}
    assert namespaces == {"demo/COSINE/first call", "demo/COSINE/q1", "demo/COSINE/q2"}


def test_a_cold_pass_that_was_not_cold_is_an_error() -> None:
    with pytest.raises(PassError, match="cold pass"):
        measure(CachingClient(ignores_namespace=True))


def test_a_warm_pass_that_was_not_warm_is_an_error() -> None:
    with pytest.raises(PassError, match="warm pass"):
        measure(CachingClient(forgets=True))
