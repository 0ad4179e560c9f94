"""An HTTP server that speaks vLLM's API with the vectors of a FakeEmbedder, and fails as told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from enum import Enum, auto
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web

from e2rank_server.embedder.fake import FakeEmbedder
from e2rank_server.embedder.identity import PROBE_TEXTS, ProbeReferences
from e2rank_server.embedder.protocol import EmbedderPrompt
from e2rank_server.embedder.vllm_remote.embedder import VllmRemoteEmbedder
from e2rank_server.embedder.vllm_remote.lane import Expectation
from e2rank_server.embedder.vllm_remote.limits import RemoteLimits
from e2rank_server.embedder.vllm_span_route import SPAN_PATH
from e2rank_server.profiles.loading import load_profile

FINGERPRINT = "0" * 32
PROFILE = replace(load_profile("all-minilm-l6-v2"), dimension=64)
"""MEAN pooling of texts, QUERY_TOKENS of listwise prompts, 512 tokens."""
PROBES = [
    EmbedderPrompt(np.arange(200 + 10 * index, 203 + 12 * index, dtype=np.int32))
    for index in range(len(PROBE_TEXTS))
]
FAST = RemoteLimits(health_interval_seconds=0.02, first_rest_seconds=0.01, max_rest_seconds=0.05)


class Fault(Enum):
    """What to do instead of answering a request for vectors."""

    RESET = auto()
    HANG = auto()
    TRUNCATE = auto()
    OVERSIZE = auto()
    CUT_STREAM = auto()
    NAN = auto()
    ZERO = auto()
    JSON = auto()
    STATUS_500 = 500
    STATUS_503 = 503
    STATUS_429 = 429
    STATUS_400 = 400
    STATUS_401 = 401
    STATUS_404 = 404
    STATUS_302 = 302


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request for vectors, not of the identity check."""

    prompts: tuple[tuple[int, ...], ...]
    priority: int


class OtherModel(FakeEmbedder):
    """A model with other vectors."""

    def _vector(self, prompt: EmbedderPrompt) -> Any:
        return super()._vector(replace(prompt, token_ids=prompt.token_ids * 7 + 1))


class FakeVllmServer:
    """Serves at `url` from `start` to `stop`, after which it can be started again.

    `requests` has what was asked for, without the probes, which `num_checks` counts.
    `fault` applies to all requests for vectors, or only to those that are no
    probes if `spares_probes`.
    """

    def __init__(self, embedder: FakeEmbedder | None = None) -> None:
        self.embedder = embedder or FakeEmbedder(PROFILE.dimension)
        self.model = PROFILE.name
        self.max_model_len: Any = PROFILE.max_model_tokens
        self.api_key: str | None = None
        self.fault: Fault | None = None
        self.spares_probes = True
        self.has_span_route = True
        self.takes_priority = True
        self.is_healthy = True
        self.requests: list[RecordedRequest] = []
        self.num_checks = 0
        self.num_refused = 0
        self.num_cancelled = 0
        self._port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def start(self, unix_socket: Path | None = None) -> None:
        app = web.Application(client_max_size=1 << 24)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_post("/v1/embeddings", self._embeddings)
        app.router.add_post(SPAN_PATH, self._span)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        if unix_socket is not None:
            await web.UnixSite(self._runner, str(unix_socket)).start()
            return
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _models(self, request: web.Request) -> web.Response:
        self._require_key(request)
        card = {"id": self.model, "max_model_len": self.max_model_len}
        return web.json_response({"object": "list", "data": [card]})

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.is_healthy else 503)

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        self._require_key(request)
        body = await request.json()
        assert body["encoding_format"] == "bytes_only"
        assert (body["embed_dtype"], body["endianness"]) == ("float32", "little")
        prompts = [EmbedderPrompt(np.array(ids, np.int32)) for ids in body["input"]]
        return await self._answer(request, prompts, body["priority"])

    async def _span(self, request: web.Request) -> web.StreamResponse:
        self._require_key(request)
        if not self.has_span_route:
            raise web.HTTPNotFound
        body = await request.json()
        prompt = EmbedderPrompt(np.array(body["token_ids"], np.int32), tuple(body["span"]))
        return await self._answer(request, [prompt], body["priority"])

    async def _answer(
        self, request: web.Request, prompts: list[EmbedderPrompt], priority: int
    ) -> web.StreamResponse:
        if priority != 0 and not self.takes_priority:
            raise _refusal(400, "priority scheduling is not on")
        is_probe = priority == -1
        if is_probe:
            self.num_checks += prompts[0].pooling_span is None
        else:
            ids = tuple(tuple(prompt.token_ids.tolist()) for prompt in prompts)
            self.requests.append(RecordedRequest(ids, priority))
        fault = None if is_probe and self.spares_probes else self.fault
        if any(int(ids.max()) >= 1_000_000 for ids in (prompt.token_ids for prompt in prompts)):
            self.num_refused += 1
            raise _refusal(400, "a token is out of vocabulary")
        if fault is not None:
            return await self._fail(request, fault, await self._compute(prompts, priority))
        # Probes are not held up with the rest.
        return web.Response(body=await self._compute(prompts, priority, is_probe=is_probe))

    async def _compute(
        self, prompts: list[EmbedderPrompt], priority: int, *, is_probe: bool = True
    ) -> bytes:
        if is_probe:
            vectors = np.stack([self.embedder._vector(prompt) for prompt in prompts])
        else:
            try:
                vectors = await self.embedder.embed(prompts, priority=priority)
            except asyncio.CancelledError:
                self.num_cancelled += 1
                raise
        return (3 * vectors).astype("<f4").tobytes()  # of no particular length

    async def _fail(self, request: web.Request, fault: Fault, content: bytes) -> web.StreamResponse:
        if isinstance(fault.value, int) and fault.value >= 300:
            raise _refusal(fault.value, f"told to answer {fault.value}")
        assert request.transport is not None
        match fault:
            case Fault.RESET:
                request.transport.abort()
                await asyncio.Event().wait()
            case Fault.HANG:
                await asyncio.Event().wait()
            case Fault.CUT_STREAM:
                response = web.StreamResponse()
                await response.prepare(request)
                await response.write(content[:8])
                request.transport.abort()
                return response
        body = {
            Fault.TRUNCATE: content[:-4],
            Fault.OVERSIZE: content + b"\0",
            Fault.NAN: content[:-4] + np.float32(np.nan).tobytes(),
            Fault.ZERO: bytes(len(content)),
            Fault.JSON: b'{"data": []}',
        }[fault]
        return web.Response(body=body)

    def _require_key(self, request: web.Request) -> None:
        if self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            raise web.HTTPUnauthorized


class LoadBalancer:
    """Spreads TCP connections over servers, one after the other."""

    def __init__(self, *servers: FakeVllmServer) -> None:
        self._servers = servers
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self.num_connections = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            self.drop()
            if self._tasks:
                await asyncio.wait(self._tasks)

    def drop(self) -> None:
        """Cut all connections."""
        while self._writers:
            self._writers.pop().transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        target = self._servers[self.num_connections % len(self._servers)]
        self.num_connections += 1
        port = int(target.url.rpartition(":")[2])
        onward, back = await asyncio.open_connection("127.0.0.1", port)
        self._writers += [writer, back]
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(_pump(reader, back), _pump(onward, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


def _refusal(status: int, message: str) -> web.HTTPException:
    class Refusal(web.HTTPException):
        status_code = status

    return Refusal(text=json.dumps({"error": {"message": message}}))


async def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for what happens in another task or process."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


def references(folder: Path) -> ProbeReferences:
    """Make the references of PROFILE's own model."""
    made = ProbeReferences(FINGERPRINT, folder)
    embedder = FakeEmbedder(PROFILE.dimension)
    made.check(np.stack([embedder._vector(prompt) for prompt in PROBES]))
    return made


@asynccontextmanager
async def remote_embedder(
    folder: Path,
    *urls: str,
    limits: RemoteLimits = FAST,
    api_key: str | None = None,
    is_ready: bool = True,
) -> AsyncIterator[VllmRemoteEmbedder]:
    """Run an embedder on the URLs, ready if they can be; check at the end that no task is left."""
    before = asyncio.all_tasks()
    expectation = Expectation(PROFILE, PROBES, references(folder))
    embedder = await VllmRemoteEmbedder.start(expectation, urls, api_key=api_key, limits=limits)
    try:
        if is_ready:
            async with asyncio.timeout(10):
                await embedder.wait_until_ready()
        yield embedder
    finally:
        ours = asyncio.all_tasks() - before
        await embedder.close()
    left = [task for task in ours if "vllm_remote" in repr(task.get_coro()) and not task.done()]
    assert not left
