"""What mypy --strict must know of the client's API; never run.

`assert_type` is what a caller gets; each `type: ignore` is a mistake that must
be one (an unused ignore is an error). Checked by tests/unit/test_client_typing.py.
"""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from typing import assert_type

import grpc
import numpy as np
from numpy.typing import NDArray

from e2rank_client import (
    AsyncE2RankClient,
    CosineOptions,
    Document,
    E2RankClient,
    E2RankOptions,
    EmbedManyResult,
    EmbedResult,
    FieldViolation,
    HealthStatus,
    InvalidRequestError,
    Model,
    NamespaceStats,
    OverloadedError,
    PromptOrder,
    PutOutcome,
    PutResult,
    QuotaExceededError,
    RerankResult,
    StoredDocument,
    UnknownDocuments,
    UnknownDocumentsError,
    Vector,
)
from e2rank_client.tracing import AsyncTracingInterceptor, TracingInterceptor


def blocking_methods_return_results(client: E2RankClient) -> None:
    assert_type(client.rerank("q", ["d"]), RerankResult)
    assert_type(client.embed(["t"], input_type="QUERY"), EmbedResult)
    assert_type(client.embed_many(["t"], input_type="DOCUMENT"), EmbedManyResult)
    assert_type(client.get_model(), Model)
    assert_type(client.list_models(), tuple[Model, ...])
    assert_type(client.check_health("models/small"), HealthStatus)
    assert_type(client.put_documents([StoredDocument("a", "t")]), PutResult)
    assert_type(client.get_documents(["a"]), tuple[StoredDocument | None, ...])
    assert_type(client.documents_exist(["a"]), tuple[bool, ...])
    assert_type(client.delete_documents(["a"]), tuple[bool, ...])
    assert_type(client.delete_namespace("n"), NamespaceStats)
    assert_type(client.get_namespace_stats(), NamespaceStats)
    assert_type(client.embed_stored(["a"]), EmbedResult)
    client.wait_until_ready(timeout_seconds=1)
    with client as entered:
        assert_type(entered, E2RankClient)


async def awaitable_methods_return_awaitables(client: AsyncE2RankClient) -> None:
    assert_type(client.rerank("q", ["d"]), Awaitable[RerankResult])
    assert_type(client.embed(["t"], input_type="QUERY"), Awaitable[EmbedResult])
    assert_type(client.embed_many(["t"], input_type="QUERY"), Awaitable[EmbedManyResult])
    assert_type(client.get_model(), Awaitable[Model])
    assert_type(client.list_models(), Awaitable[tuple[Model, ...]])
    assert_type(client.check_health(), Awaitable[HealthStatus])
    assert_type(client.put_documents([StoredDocument("a", "t")]), Awaitable[PutResult])
    assert_type(client.get_documents(["a"]), Awaitable[tuple[StoredDocument | None, ...]])
    assert_type(client.documents_exist(["a"]), Awaitable[tuple[bool, ...]])
    assert_type(client.delete_documents(["a"]), Awaitable[tuple[bool, ...]])
    assert_type(client.delete_namespace("n"), Awaitable[NamespaceStats])
    assert_type(client.get_namespace_stats("n"), Awaitable[NamespaceStats])
    assert_type(client.embed_stored(["a"]), Awaitable[EmbedResult])
    assert_type(await client.rerank("q", ["d"]), RerankResult)
    await client.wait_until_ready(timeout_seconds=1)
    async with client as entered:
        assert_type(entered, AsyncE2RankClient)


def every_argument_has_its_type(client: E2RankClient, vector: Vector) -> None:
    client.rerank(
        "q",
        ["text", Document(text="t", id="1", title="T", vector=vector, first_stage_score=1.5)],
        model="small",
        namespace="n",
        instruction="i",
        method=E2RankOptions(prompt_documents=5, prompt_order=PromptOrder.COSINE),
        top_n=3,
        return_documents=True,
        max_tokens_per_document=64,
        priority=1,
        timeout_seconds=2.5,
        request_id="search-1",
    )
    client.rerank("q", [Document(id="a")], unknown_documents=UnknownDocuments.DROP)
    client.put_documents(
        [StoredDocument("a", "t", title="T")],
        namespace="n",
        models=["small"],
        store_only=False,
        priority=1,
        timeout_seconds=2.5,
        request_id="load-1",
    )
    client.embed_stored(
        ["a"], model="small", namespace="n", unknown_documents="DROP", priority=1, request_id="r"
    )
    client.rerank("q", ["d"], method="COSINE")
    client.rerank("q", ["d"], method=CosineOptions())
    client.embed_many(
        ["t"],
        input_type="DOCUMENT",
        titles=[None],
        batch_size=64,
        concurrency=2,
        on_progress=lambda done, total: None,
    )


def results_have_types(client: E2RankClient) -> None:
    embedded = client.embed(["t"], input_type="QUERY")
    assert_type(embedded.vectors, NDArray[np.float32])
    assert_type(embedded.vector(0), Vector)
    many = client.embed_many(["t"], input_type="QUERY")
    assert_type(many.vectors, NDArray[np.float32])
    assert_type(many.truncated, NDArray[np.bool_])
    assert_type(client.put_documents([]).outcomes[0], PutOutcome)
    assert_type(client.put_documents([]).stats, NamespaceStats | None)
    for result in client.rerank("q", ["d"]).results:
        assert_type(result.index, int)
        assert_type(result.relevance_score, float)
        assert_type(result.document, Document | None)


def errors_say_what_they_know(client: E2RankClient) -> None:
    try:
        client.rerank("q", ["d"])
    except InvalidRequestError as error:
        assert_type(error.violations, tuple[FieldViolation, ...])
        assert_type(error.code, grpc.StatusCode)
        assert_type(error.request_id, str)
    except UnknownDocumentsError as error:
        assert_type(error.violations, tuple[FieldViolation, ...])
    except QuotaExceededError as error:
        assert_type(error.namespace, str)
        assert_type(error.max_bytes, int | None)
    except OverloadedError as error:
        assert_type(error.retry_after_seconds, float | None)


def clients_take_what_the_documentation_says() -> None:
    credentials = grpc.ssl_channel_credentials(Path("ca.pem").read_bytes())
    E2RankClient(
        ["a:1", "b:1"],
        timeout_seconds=5,
        credentials=credentials,
        token=lambda: "token",
        metadata={"x-tenant": "acme"},
        interceptors=[TracingInterceptor("a:1")],
        max_attempts=2,
        hedge_after_seconds=0.5,
        health_service=None,
        channel_options=[("grpc.keepalive_time_ms", 60_000)],
    )
    AsyncE2RankClient("a:1", token="token", interceptors=[AsyncTracingInterceptor("a:1")])


async def wrong_calls_are_errors(client: E2RankClient, waiting: AsyncE2RankClient) -> None:
    client.rerank("q")  # type: ignore[call-arg]
    client.rerank(["q"], ["d"])  # type: ignore[arg-type]
    client.rerank("q", [b"d"])  # type: ignore[list-item]
    client.rerank("q", ["d"], "COSINE")  # type: ignore[call-arg]
    client.rerank("q", ["d"], method="BM25")  # type: ignore[arg-type]
    client.rerank("q", ["d"], top_k=3)  # type: ignore[call-arg]
    client.embed(["t"])  # type: ignore[call-arg]
    client.embed(["t"], input_type="PASSAGE")  # type: ignore[arg-type]
    client.embed_many(["t"], input_type="QUERY", on_progress=lambda done: None)  # type: ignore[arg-type, misc]
    client.embed_many(["t"], input_type="QUERY", batch_size="8")  # type: ignore[arg-type]
    client.rerank("q", ["d"], unknown_documents="KEEP")  # type: ignore[arg-type]
    client.put_documents([Document(id="a", text="t")])  # type: ignore[list-item]
    client.put_documents(["t"])  # type: ignore[list-item]
    StoredDocument("a")  # type: ignore[call-arg]
    client.delete_namespace()  # type: ignore[call-arg]
    client.embed_stored(["a"], input_type="DOCUMENT")  # type: ignore[call-arg]
    Document(vector=np.zeros(4))  # type: ignore[arg-type]
    E2RankClient(50051)  # type: ignore[arg-type]
    E2RankClient("a:1", token=b"token")  # type: ignore[arg-type]
    E2RankClient("a:1", interceptors=[AsyncTracingInterceptor("a:1")])  # type: ignore[list-item]
    AsyncE2RankClient("a:1", interceptors=[TracingInterceptor("a:1")])  # type: ignore[list-item]
    _ = client.rerank("q", ["d"]).results[0].score  # type: ignore[attr-defined]
    _ = waiting.rerank("q", ["d"]).results  # type: ignore[attr-defined]
    with waiting:  # type: ignore[attr-defined]
        pass
    _ = client.check_health().results  # type: ignore[attr-defined]
