"""Reranks of stored documents by their ids alone, beside the same by their texts.

A real gateway and one client, all vectors in the gateway's memory. The model is
a fake, so that the gateway's own time is compared: any model's comes on top of
both sides.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from benchmarks.cache.valkey import running_valkey
from benchmarks.figures import Figures
from benchmarks.intervals import median, ratio_of_medians
from benchmarks.overhead.messages import CHANNEL_OPTIONS, MethodName, raw_rerank
from benchmarks.overhead.texts import Texts
from benchmarks.server_flags import ON_FAKES
from e2rank.v1 import document_pb2, document_pb2_grpc, rerank_pb2
from e2rank_client.local_server import local_server

NUM_DOCUMENTS = 100
DOCUMENT_BYTES = 2048
ITERATIONS = 300
STORES = ("lmdb", "valkey")
METHODS: tuple[MethodName, ...] = ("cosine", "e2rank")
STEPS = ITERATIONS * len(STORES) * len(METHODS)

_HEADLINE = "lmdb.cosine"
_NAMESPACE = "by-id"
_WARM_UP = 30


class UnequalAnswersError(Exception):
    """The two sides did not answer alike, so their ratio would mean nothing."""


class StoredTexts:
    """Documents to be put, and pairs of requests that rerank them in ever new orders."""

    def __init__(self) -> None:
        self._texts = Texts()
        self._passages = {
            f"document-{number}": self._texts.passage_of_bytes(DOCUMENT_BYTES)
            for number in range(NUM_DOCUMENTS)
        }

    def put_request(self) -> document_pb2.PutDocumentsRequest:
        """Store and embed them all."""
        request = document_pb2.PutDocumentsRequest(namespace=_NAMESPACE)
        for name, passage in self._passages.items():
            request.documents.add(id=name, text=passage)
        return request

    def pair(self, method: MethodName) -> tuple[bytes, bytes]:
        """Return one request by id and by text."""
        query = self._texts.query()
        by_id, by_text = (
            rerank_pb2.RerankRequest(query=query, namespace=_NAMESPACE) for _ in range(2)
        )
        for request in (by_id, by_text):
            getattr(request, method).SetInParent()
            if method == "e2rank":
                request.e2rank.prompt_order = rerank_pb2.PROMPT_ORDER_FIRST_STAGE
        for name in self._texts.shuffled(list(self._passages)):
            by_id.documents.add(id=name)
            by_text.documents.add(id=name, text=self._passages[name])
        return by_id.SerializeToString(), by_text.SerializeToString()


async def measure_by_id(advance: Callable[[], None]) -> Figures:
    """Measure with each document store, in a server of its own."""
    figures: dict[str, Any] = {}
    for store in STORES:
        with _server(store) as address:
            async with grpc.aio.insecure_channel(address, CHANNEL_OPTIONS) as channel:
                figures |= await measure_store(channel, store, advance)
    figures["by_id_over_by_text_p50"] = figures[f"by_id_over_by_text_p50.{_HEADLINE}"]
    return figures


async def measure_store(
    channel: grpc.aio.Channel,
    store: str,
    advance: Callable[[], None],
    iterations: int = ITERATIONS,
) -> Figures:
    """Put the documents and rerank them, by id and by text in turns.

    Raises:
        UnequalAnswersError: they were not all cached, or the answers differ.
    """
    texts = StoredTexts()
    documents = document_pb2_grpc.DocumentServiceStub(channel)  # type: ignore[no-untyped-call]
    await documents.PutDocuments(texts.put_request())
    rerank = raw_rerank(channel)
    by_id, by_text = texts.pair("cosine")
    figures: dict[str, Any] = {
        "by_id_request_bytes": float(len(by_id)),
        "by_text_request_bytes": float(len(by_text)),
    }
    for method in METHODS:
        _require_alike(*[await rerank(request) for request in texts.pair(method)])
        by_id_seconds, by_text_seconds = await _timed(rerank, texts, method, iterations, advance)
        name = f"{store}.{method}"
        ratio = ratio_of_medians(by_id_seconds, by_text_seconds)
        figures[f"by_id_over_by_text_p50.{name}"] = ratio
        figures[f"by_id_p50_ms.{name}"] = median([1e3 * each for each in by_id_seconds])
        figures[f"by_text_p50_ms.{name}"] = median([1e3 * each for each in by_text_seconds])
    return figures


async def _timed(
    rerank: Any,  # noqa: ANN401 - grpc's callables are untyped
    texts: StoredTexts,
    method: MethodName,
    iterations: int,
    advance: Callable[[], None],
) -> tuple[list[float], list[float]]:
    """Return the seconds of each call by id and by text, now the one first and now the other."""
    by_id: list[float] = []
    by_text: list[float] = []
    for iteration in range(_WARM_UP + iterations):
        calls = list(zip(texts.pair(method), (by_id, by_text), strict=True))
        for request, samples in calls if iteration % 2 else reversed(calls):
            started = time.perf_counter()
            await rerank(request)
            samples.append(time.perf_counter() - started)
        if iteration >= _WARM_UP:
            advance()
    return by_id[_WARM_UP:], by_text[_WARM_UP:]


def _require_alike(by_id: bytes, by_text: bytes) -> None:
    answers = [rerank_pb2.RerankResponse.FromString(each) for each in (by_id, by_text)]
    for answer in answers:
        if answer.usage.documents_cached != NUM_DOCUMENTS:
            raise UnequalAnswersError(
                f"{answer.usage.documents_cached} of {NUM_DOCUMENTS} documents were cached"
            )
    if answers[0].results != answers[1].results:
        raise UnequalAnswersError("the answers by id and by text differ")


@contextmanager
def _server(store: str) -> Iterator[str]:
    """Run a gateway on fakes with an empty document store of this kind."""
    with tempfile.TemporaryDirectory(prefix="bench-by-id-") as folder, _place(store) as place:
        flags = ("--data-directory", folder, "--second-tier", "off", "--document-store", place)
        with local_server([*ON_FAKES, *flags]) as address:
            yield address


@contextmanager
def _place(store: str) -> Iterator[str]:
    """Yield a value of `--document-store`."""
    if store == "lmdb":
        yield "disk"
        return
    with running_valkey(appendonly="yes", maxmemory_policy="noeviction", save="") as url:
        yield url
