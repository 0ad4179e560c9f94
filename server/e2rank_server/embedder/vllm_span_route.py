"""Runs in vLLM's API server: adds a route that pools the hidden states of a span of tokens.

vLLM 0.32 gives token vectors over HTTP only on a server that gives nothing else
(`/pooling` takes no task but the server's own), though its engine serves both.
The mean is taken here: a prompt of 500 tokens is 1.5 KB on the wire, not 768.
Started with `--middleware e2rank_server.embedder.vllm_span_route.SpanRoute`,
which is vLLM's hook for code of others; no request passes through this.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

SPAN_PATH = "/v1/span_embeddings"
"""Below /v1, where vLLM asks for its API key.

POST {"token_ids": [...], "span": [start, stop], "priority": n}; the answer is
the mean of the last hidden states at those positions, not normalised, as
float32, little-endian.
"""

_MAX_BODY_BYTES = 16 << 20

_Message: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[_Message]]
_Send: TypeAlias = Callable[[_Message], Awaitable[None]]
_Application: TypeAlias = Callable[[_Message, _Receive, _Send], Awaitable[None]]


class SpanRoute:
    """An ASGI middleware that adds the route when the server starts and then stands aside."""

    def __init__(self, app: _Application) -> None:
        self._app = app

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Pass everything on."""
        if scope["type"] == "lifespan":
            # A route, not an answer of the middleware's own: that would be outside
            # the check of the API key and the handlers that turn errors into 400.
            scope["app"].add_route(SPAN_PATH, _SpanEmbeddings(), methods=["POST"])
        await self._app(scope, receive, send)


class _SpanEmbeddings:
    """The route, as an ASGI application."""

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        token_ids, span, priority = _parse(await _read_body(receive))
        engine = scope["app"].state.engine_client
        computing = asyncio.ensure_future(_mean(engine, token_ids, span, priority))
        leaving = asyncio.ensure_future(_wait_for_disconnect(receive))
        try:
            await asyncio.wait({computing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not computing.done():
                return
            content = computing.result()
        finally:
            # vLLM aborts a request whose task is cancelled.
            computing.cancel()
            leaving.cancel()
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", str(len(content)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


async def _read_body(receive: _Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError("the client left")
        body += message.get("body", b"")
        if len(body) > _MAX_BODY_BYTES:
            raise ValueError(f"the body has more than {_MAX_BODY_BYTES} bytes")
        if not message.get("more_body"):
            return bytes(body)


def _parse(body: bytes) -> tuple[list[int], tuple[int, int], int]:
    """Read a request; ValueError becomes HTTP 400."""
    try:
        request = json.loads(body)
        token_ids = [int(token) for token in request["token_ids"]]
        start, stop = (int(position) for position in request["span"])
        priority = int(request.get("priority", 0))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a span request: {type(error).__name__} {error}") from error
    if not 0 <= start < stop <= len(token_ids):
        raise ValueError(f"the span {start}:{stop} is not within {len(token_ids)} tokens")
    return token_ids, (start, stop), priority


async def _mean(
    engine: Any,  # noqa: ANN401 - vllm's EngineClient; vllm has no types
    token_ids: list[int],
    span: tuple[int, int],
    priority: int,
) -> bytes:
    from vllm import PoolingParams
    from vllm.inputs.engine import tokens_input

    # Without activation: each token's own hidden state, not normalised yet.
    pooling = PoolingParams(task="token_embed", use_activation=False)
    request_id = f"span-{uuid.uuid4().hex}"
    outputs = engine.encode(tokens_input(token_ids), pooling, request_id, priority=priority)
    (output,) = [output async for output in outputs]
    states = output.outputs.data.float().numpy()
    content: bytes = states[span[0] : span[1]].mean(axis=0).astype("<f4").tobytes()
    return content


async def _wait_for_disconnect(receive: _Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
