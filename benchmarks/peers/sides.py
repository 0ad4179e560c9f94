"""The sides of the comparison: our server through its client, and its peers."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import aiohttp
import numpy as np

from benchmarks.overhead.processes import family, listeners
from benchmarks.peers.commands import MODEL_NAME, SENTENCE_TRANSFORMERS
from benchmarks.peers.http_answers import FloatArray, WrongAnswerError, scores, vectors
from benchmarks.peers.peer_process import RunningPeer
from benchmarks.peers.turns import Side
from e2rank_client import AsyncE2RankClient, RerankResult

# A cross-encoder of the large shape takes minutes for one request on a small machine.
_TIMEOUT_SECONDS = 3600.0
_SHOWN_ERROR_CHARACTERS = 500

Batch: TypeAlias = Sequence[str]
MethodName: TypeAlias = Literal["E2RANK", "COSINE"]


@dataclass(frozen=True, slots=True)
class Run:
    """What a side took for some batches, and for each request of them."""

    seconds: float
    request_seconds: Sequence[float]


class EmbeddingSide(Side, Protocol):
    """A side that embeds."""

    async def run(self, batches: Sequence[Batch], clients: int) -> Run:
        """Embed batches, so many of them at once."""


class OurServer:
    """This project's server; `connect` opens its public client."""

    name = "e2rank"

    def __init__(self, address: str) -> None:
        self.processes = family(listeners(address)[0])
        self._address = address

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[OurClient]:
        """Connect for one measurement.

        Of a server that was stopped since, a connection may be lost: all pings of
        that time reach it at once, and too many of them are taken for an attack.
        """
        async with AsyncE2RankClient(self._address, timeout_seconds=_TIMEOUT_SECONDS) as client:
            await client.wait_until_ready()
            yield OurClient(client)

    async def run(self, batches: Sequence[Batch], clients: int) -> Run:
        """Embed batches, so many of them at once, all on one connection."""
        async with self.connect() as client:
            return await closed_loop(client.embed, batches, clients)


class OurClient:
    """The public client of our server."""

    def __init__(self, client: AsyncE2RankClient) -> None:
        self._client = client

    async def embed(self, texts: Batch) -> FloatArray:
        """Return float32 [texts, dimension].

        Raises:
            WrongAnswerError: some were known already, so that it had less to do.
        """
        answer = await self._client.embed(texts, input_type="DOCUMENT")
        if answer.usage.inputs_embedded != len(texts):
            raise WrongAnswerError(f"{answer.usage.inputs_embedded} of {len(texts)} embedded")
        return answer.vectors

    async def rerank(
        self, query: str, documents: Batch, method: MethodName, namespace: str = ""
    ) -> tuple[float, RerankResult]:
        """Return the seconds it took, and the answer."""
        started = time.perf_counter()
        answer = await self._client.rerank(query, documents, method=method, namespace=namespace)
        return time.perf_counter() - started, answer

    async def scores(self, query: str, documents: Batch, method: MethodName) -> FloatArray:
        """Return the score of each document, in their order."""
        _, answer = await self.rerank(query, documents, method)
        found = np.zeros(len(documents), np.float32)
        for result in answer.results:
            found[result.index] = result.relevance_score
        return found


class HttpPeer:
    """A server with OpenAI's embeddings and Jina's rerank, called as its users call it.

    Vectors come as base64, which is quicker on both ends than numbers.
    """

    def __init__(self, peer: RunningPeer, embeddings_path: str) -> None:
        self.name = peer.name
        self.processes = peer.processes()
        self._peer = peer
        self._embeddings_url = peer.url + embeddings_path

    async def embed(self, texts: Batch) -> FloatArray:
        """Return float32 [texts, dimension]."""
        async with _session() as session:
            return await self._embed(session, texts)

    async def run(self, batches: Sequence[Batch], clients: int) -> Run:
        """Embed batches, so many of them at once, each client on a connection that it keeps."""
        async with _session() as session:
            return await closed_loop(lambda batch: self._embed(session, batch), batches, clients)

    async def rerank(self, query: str, documents: Batch) -> float:
        """Score each document; return the seconds it took."""
        async with _session() as session:
            started = time.perf_counter()
            body = {"model": MODEL_NAME, "query": query, "documents": documents}
            answer = await self._post(session, self._peer.url + "/rerank", body)
            scores(answer, len(documents))
            return time.perf_counter() - started

    async def _embed(self, session: aiohttp.ClientSession, texts: Batch) -> FloatArray:
        body = {"model": MODEL_NAME, "input": texts, "encoding_format": "base64"}
        return vectors(await self._post(session, self._embeddings_url, body), len(texts))

    async def _post(self, session: aiohttp.ClientSession, url: str, body: Any) -> Any:  # noqa: ANN401 - JSON
        return await _post(session, url, body, self._peer)


class SentenceTransformersPeer:
    """The library, called in its own process; what it takes is measured there."""

    name = SENTENCE_TRANSFORMERS

    def __init__(self, peer: RunningPeer) -> None:
        self.processes = peer.processes()
        self._peer = peer

    async def embed(self, texts: Batch) -> FloatArray:
        """Return float32 [texts, dimension]."""
        _, rows = await self._call({"batches": [texts]})
        return rows.reshape(len(texts), -1)

    async def run(self, batches: Sequence[Batch], clients: int) -> Run:
        """Embed batches, those of all clients that come at once in one call.

        Calls in threads would take turns on the same cores. One caller that has
        everything is its best: it sorts the texts by length and fills its batches.
        """
        together = [
            [text for batch in batches[start : start + clients] for text in batch]
            for start in range(0, len(batches), clients)
        ]
        seconds, _ = await self._call({"batches": together})
        return Run(sum(seconds), seconds)

    async def rerank(self, query: str, documents: Batch) -> float:
        """Score each document; return the seconds it took."""
        [seconds], rows = await self._call({"query": query, "documents": documents})
        if len(rows) != len(documents):
            raise WrongAnswerError(f"{len(rows)} scores, {len(documents)} expected")
        return seconds

    async def _call(self, body: dict[str, Any]) -> tuple[list[float], FloatArray]:
        async with _session() as session:
            answer = await _post(session, self._peer.url + "/call", body, self._peer)
        return answer["seconds"], np.frombuffer(base64.b64decode(answer["rows"]), "<f4")


EmbeddingPeer: TypeAlias = HttpPeer | SentenceTransformersPeer


async def closed_loop(
    embed: Callable[[Batch], Awaitable[object]], batches: Sequence[Batch], clients: int
) -> Run:
    """Let each client embed one batch after another until there are none left."""
    pending = iter(batches)
    request_seconds: list[float] = []

    async def client() -> None:
        for batch in pending:
            started = time.perf_counter()
            await embed(batch)
            request_seconds.append(time.perf_counter() - started)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return Run(time.perf_counter() - started, request_seconds)


def _session() -> aiohttp.ClientSession:
    """Make connections for one measurement: a server that was stopped since drops its old ones."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS),
    )


async def _post(
    session: aiohttp.ClientSession,
    url: str,
    body: Any,  # noqa: ANN401 - JSON
    peer: RunningPeer,
) -> Any:  # noqa: ANN401 - JSON
    try:
        async with session.post(url, json=body) as response:
            data = await response.read()
    except aiohttp.ClientError as error:
        raise peer.failure(f"gave no answer ({error!r})") from error
    if response.status != 200:
        excerpt = data[:_SHOWN_ERROR_CHARACTERS].decode(errors="replace")
        raise peer.failure(f"answered {response.status}: {excerpt}")
    return json.loads(data)
