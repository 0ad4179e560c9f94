"""An HTTP server that speaks OpenAI's chat completions, with vLLM's /tokenize, and fails as told.

async with FakeOpenAiEndpoint() as endpoint:
    endpoint.answer_with("[2] > [1]")             # or a function of the request's body
    endpoint.fail_with(503, times=1)              # once, then it answers again
    ... endpoint.url ... endpoint.requests[0]["messages"] ...
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Self

from aiohttp import web

Body = dict[str, Any]
"""The JSON of a request."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A chat completion. `logprobs` has the likely tokens of each position, the output's first."""

    text: str | None = ""
    finish_reason: str | None = "stop"
    refusal: str | None = None
    reasoning: str | None = None
    logprobs: Sequence[Mapping[str, float]] = field(default=())


class Break(Enum):
    """How an answer ends without being one."""

    RESET = auto()
    """The connection is cut before anything is sent."""
    TRUNCATE = auto()
    """It is cut in the middle of the body."""
    ENDLESS = auto()
    """The body never ends, and fast."""
    STALL = auto()
    """The body never ends, and nothing more comes."""
    COMPRESS = auto()
    """The body says that it is gzip."""


_Reply = Callable[[web.Request, Body], Awaitable[web.StreamResponse]]


def tokens_of(text: str) -> list[str]:
    """Split as the fake's /tokenize does: a word, or a character that is none, with its space."""
    return re.findall(r"\s?(?:\w+|[^\w\s])|\s", text)


class FakeOpenAiEndpoint:
    """Serves at `url` within `async with`.

    `requests` has the bodies of chat completions, repetitions included, `headers`
    those of the last; `tokenize_requests` what /tokenize was asked. While it is
    held it lets requests wait; `num_disconnects` counts those whose client left.
    It keeps to `max_model_len`, `max_tokens` and `min_tokens`, in tokens of `tokens_of`.
    """

    def __init__(self) -> None:
        self.model = "llm"
        self.api_key: str | None = None
        self.has_tokenize = False
        self.tokenizes_messages = True
        self.tokenize_answer: Any = None
        """What /tokenize answers in place of a count, if set."""
        self.takes_priority = True
        self.max_model_len = 32_768
        self.requests: list[Body] = []
        self.tokenize_requests: list[Body] = []
        self.headers: Mapping[str, str] = {}
        self.num_model_requests = 0
        self.num_waiting = 0
        self.num_disconnects = 0
        self.connections: set[object] = set()
        """The sockets that chat completions came over."""
        self._answer: Callable[[Body], str | Answer] = lambda _: "[1]"
        self._reply: _Reply | None = None
        self._times: int | None = None
        self._free = asyncio.Event()
        self._free.set()
        self._port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Serve, at the same address if it has served before."""
        app = web.Application(client_max_size=1 << 24)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/tokenize", self._tokenize)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def answer_with(self, answer: str | Answer | Callable[[Body], str | Answer]) -> None:
        """Answer so from now on."""
        self._answer = answer if callable(answer) else lambda _: answer
        self._reply = None

    def fail_with(
        self,
        status: int,
        message: str = "told to fail",
        *,
        times: int | None = None,
        headers: Mapping[str, str] | None = None,
        **error: Any,
    ) -> None:
        """Answer with an error of OpenAI's form; `error` has its fields, say `code`."""

        async def reply(request: web.Request, body: Body) -> web.Response:
            return web.json_response(
                {"error": {"message": message, **error}}, status=status, headers=headers
            )

        self._set_reply(reply, times)

    def send(
        self, body: bytes, *, status: int = 200, content_type: str = "application/json"
    ) -> None:
        """Answer with these bytes, whatever they are."""

        async def reply(request: web.Request, _: Body) -> web.Response:
            return web.Response(body=body, status=status, content_type=content_type)

        self._set_reply(reply, None)

    def break_with(self, how: Break, *, times: int | None = None) -> None:
        """End answers so."""

        async def reply(request: web.Request, body: Body) -> web.StreamResponse:
            return await self._break(request, how)

        self._set_reply(reply, times)

    def hold(self) -> None:
        """Let requests wait until `release`."""
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    def _set_reply(self, reply: _Reply, times: int | None) -> None:
        self._reply, self._times = reply, times

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers = request.headers
        self.connections.add(request.transport)
        try:
            await self._wait()
            return await self._reply_to(request, body)
        except (asyncio.CancelledError, ConnectionError):  # while it waited, or wrote
            self.num_disconnects += 1
            raise

    async def _wait(self) -> None:
        self.num_waiting += 1
        try:
            await self._free.wait()
        finally:
            self.num_waiting -= 1

    async def _reply_to(self, request: web.Request, body: Body) -> web.StreamResponse:
        if self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return _error(401, f"Incorrect API key: {request.headers.get('Authorization')}")
        if body.get("priority") and not self.takes_priority:
            return _error(400, "Got priority 1 but Priority scheduling is not enabled.")
        reply = self._reply
        if reply is not None and self._times is not None:
            self._times -= 1
            if self._times == 0:
                self._reply = None
        if reply is not None:
            return await reply(request, body)
        num_tokens = len(tokens_of(rendered(body))) + _max_tokens(body)
        if num_tokens > self.max_model_len:
            limit = f"This model's maximum context length is {self.max_model_len} tokens."
            return _error(400, f"{limit} However, you requested {num_tokens} tokens.")
        answer = self._answer(body)
        answer = Answer(answer) if isinstance(answer, str) else answer
        return web.json_response(completion(answer, self.model, body))

    async def _break(self, request: web.Request, how: Break) -> web.StreamResponse:
        assert request.transport is not None
        if how is Break.COMPRESS:
            return web.Response(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
        if how is Break.RESET:
            request.transport.abort()
            return web.Response()
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b'{"choices": [')
        if how is Break.TRUNCATE:
            request.transport.abort()
        elif how is Break.STALL:
            await asyncio.Event().wait()
        else:
            while True:
                await response.write(b" " * 65536)
        return response

    async def _models(self, request: web.Request) -> web.Response:
        self.num_model_requests += 1
        return web.json_response({"object": "list", "data": [{"id": self.model}]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.tokenize_requests.append(body)
        if not self.has_tokenize:
            raise web.HTTPNotFound
        if self.tokenize_answer is not None:
            return web.json_response(self.tokenize_answer)
        if "messages" in body and not self.tokenizes_messages:
            return _error(400, "prompt is required")
        text = body.get("prompt") or rendered(body)
        tokens = list(range(len(tokens_of(text))))
        return web.json_response(
            {"count": len(tokens), "max_model_len": self.max_model_len, "tokens": tokens}
        )


def rendered(body: Body) -> str:
    """Render a conversation, one turn a line."""
    return "\n".join(f"{each['role']}: {each['content']}" for each in body["messages"])


def completion(answer: Answer, model: str, body: Body) -> Body:
    """Make the JSON of a chat completion, as long as it may and must be."""
    text = answer.text if answer.text is None else _fitted(answer.text, body)
    message: Body = {"role": "assistant", "content": text, "refusal": answer.refusal}
    if answer.reasoning is not None:
        message["reasoning_content"] = answer.reasoning
    choice: Body = {"index": 0, "message": message, "finish_reason": answer.finish_reason}
    if answer.logprobs and body.get("logprobs"):
        choice["logprobs"] = {"content": [_position(each) for each in answer.logprobs]}
    num_tokens = len(tokens_of(f"{answer.reasoning or ''}{text or ''}"))
    usage = {
        "prompt_tokens": len(tokens_of(rendered(body))),
        "completion_tokens": num_tokens,
    }
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [choice],
        "usage": usage,
    }


def _max_tokens(body: Body) -> int:
    return int(body.get("max_tokens") or body.get("max_completion_tokens") or 0)


def _fitted(text: str, body: Body) -> str:
    tokens = tokens_of(text)
    missing = int(body.get("min_tokens", 0)) - len(tokens)
    return "".join([*tokens, *["."] * missing][: _max_tokens(body) or None])


def _position(likely: Mapping[str, float]) -> Body:
    tokens = [{"token": token, "logprob": logprob} for token, logprob in likely.items()]
    return {**tokens[0], "top_logprobs": tokens}


def _error(status: int, message: str) -> web.Response:
    return web.Response(
        text=json.dumps({"error": {"message": message}}),
        status=status,
        content_type="application/json",
    )
