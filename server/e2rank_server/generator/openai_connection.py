"""The official client of OpenAI's API, bounded in time and bytes, whose errors stop here.

It imports that client, which takes a second: `OpenAiEndpointGenerator.start` imports it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import openai

from e2rank_server.errors import E2RankError, UnavailableError
from e2rank_server.generator.openai_failure import (
    failure_of,
    is_refused_content,
    retry_after_seconds,
    unavailable,
)

MAX_ANSWER_BYTES = 4 << 20
"""A chat completion has some kilobytes, the tokens of a prompt of 128 Ki tokens one megabyte."""

_CONNECT_SECONDS = 5.0
_HEALTH_SECONDS = 5.0
# Two waits for as long as an endpoint asks leave half of a call's time for the call.
_LARGEST_WAIT_SHARE = 0.25
_MISSING_STATUSES = (404, 405, 501)
# Also what refuses the conversation, though not the text: SGLang's counts only texts.
_NOT_COUNTED_STATUSES = (*_MISSING_STATUSES, 400, 422)


class OpenAiConnection:
    """Sends requests to one endpoint over connections that are kept.

    Make its calls inside `bounded`. Redirects are not followed, and neither
    proxies nor credentials are taken from the environment: what is sent goes to
    the configured URL, with the configured key.
    """

    def __init__(
        self, url: str, api_key: str | None, *, timeout_seconds: float, max_retries: int
    ) -> None:
        self._api_key = api_key
        self._timeout_seconds = timeout_seconds
        # vLLM has it beside /v1, not in it.
        self._tokenize_url = url.removesuffix("/v1") + "/tokenize"
        self._can_tokenize = True
        self.takes_priority = True
        """Until it has refused one: vLLM does unless it schedules by priority."""
        self._failure: UnavailableError | None = None
        self._scopes: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_closed = False
        timeout = httpx2.Timeout(timeout_seconds, connect=min(_CONNECT_SECONDS, timeout_seconds))
        self._client = openai.AsyncOpenAI(
            base_url=url,
            # The client insists on one, and would take that of the environment.
            api_key=api_key or "none",
            timeout=timeout,
            max_retries=max_retries,
            default_headers={"Accept-Encoding": "identity"},
            http_client=httpx2.AsyncClient(
                transport=_BoundedTransport(_LARGEST_WAIT_SHARE * timeout_seconds),
                timeout=timeout,
                trust_env=False,
            ),
        )

    @asynccontextmanager
    async def bounded(self) -> AsyncIterator[None]:
        """Give what is done inside the time of one call, and translate what fails.

        Raises:
            UnavailableError: the time is up, or the connection is closed, before or meanwhile.
            E2RankError: see `openai_failure`.
        """
        if self._is_closed:
            raise unavailable("closed")
        scope = asyncio.timeout(self._timeout_seconds)
        try:
            async with scope:
                self._enter(scope)
                try:
                    yield
                finally:
                    self._leave(scope)
        except TimeoutError:
            raise self._failed(self._ended()) from None
        # Without their causes, which a log would print: those may repeat the key.
        except openai.APIError as error:
            raise self._failed(failure_of(error, self._api_key)) from None
        except E2RankError as error:
            raise self._failed(error) from None
        self._failure = None

    async def chat(self, arguments: Mapping[str, Any]) -> bytes | None:
        """Return the body of a chat completion; None if the provider declines the content."""
        try:
            return await self._create(arguments)
        except openai.APIStatusError as error:
            if is_refused_content(error):
                return None
            if not _refuses_priority(error, arguments):
                raise
        self.takes_priority = False
        return await self._create({**arguments, "extra_body": _without_priority(arguments)})

    async def tokenize(self, body: Mapping[str, Any]) -> bytes | None:
        """Return what vLLM's /tokenize answers; None if there is none, or not for this."""
        if not self._can_tokenize:
            return None
        try:
            response = await self._client.post(
                self._tokenize_url, cast_to=httpx2.Response, body=body
            )
        except openai.APIStatusError as error:
            if error.status_code not in _NOT_COUNTED_STATUSES:
                raise
            self._can_tokenize = error.status_code not in _MISSING_STATUSES
            return None
        return response.content

    async def check_health(self) -> None:
        """Raise UnavailableError if the last call failed and the endpoint is away still.

        It is asked only then, for its list of models: any answer but 5xx says that it is there.
        """
        if self._is_closed:
            raise unavailable("closed")
        if self._failure is None:
            return
        try:
            async with asyncio.timeout(min(_HEALTH_SECONDS, self._timeout_seconds)):
                await self._client.get(
                    "/models", cast_to=httpx2.Response, options={"max_retries": 0}
                )
        except TimeoutError:
            raise unavailable("the endpoint did not answer in time") from None
        except openai.APIError as error:
            failure = failure_of(error, self._api_key)
            if isinstance(failure, UnavailableError):
                raise failure from None
        self._failure = None

    async def close(self) -> None:
        """End all calls, which raise UnavailableError, then close the connections."""
        self._is_closed = True
        now = asyncio.get_running_loop().time()
        for scope in self._scopes:
            if not scope.expired():
                scope.reschedule(now)
        await self._idle.wait()
        await self._client.close()

    async def _create(self, arguments: Mapping[str, Any]) -> bytes:
        response = await self._client.chat.completions.with_raw_response.create(**arguments)
        return bytes(response.content)

    def _enter(self, scope: asyncio.Timeout) -> None:
        self._scopes.add(scope)
        self._idle.clear()

    def _leave(self, scope: asyncio.Timeout) -> None:
        self._scopes.remove(scope)
        if not self._scopes:
            self._idle.set()

    def _ended(self) -> UnavailableError:
        if self._is_closed:
            return unavailable("closed")
        return unavailable(f"no answer within {self._timeout_seconds:g} seconds")

    def _failed(self, error: E2RankError) -> E2RankError:
        """Take note of an error that says that the endpoint is away."""
        self._failure = error if isinstance(error, UnavailableError) else None
        return error


def _refuses_priority(error: openai.APIStatusError, arguments: Mapping[str, Any]) -> bool:
    has_one = "priority" in arguments.get("extra_body", {})
    return has_one and error.status_code == 400 and "priority" in str(error)


def _without_priority(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments["extra_body"].items() if name != "priority"}


class _BoundedTransport(httpx2.AsyncHTTPTransport):
    """Reads no endless answer, none that unpacking makes long, and waits for no patient one."""

    def __init__(self, max_wait_seconds: float) -> None:
        super().__init__(limits=httpx2.Limits(max_keepalive_connections=100))
        self._max_wait_seconds = max_wait_seconds

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _BoundedStream(response.stream)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise unavailable("the endpoint compresses its answer, which it was asked not to do")
        if (retry_after_seconds(response.headers) or 0.0) > self._max_wait_seconds:
            # The official client would sleep through the call's time; its caller knows better.
            response.headers["x-should-retry"] = "false"
        return response


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        num_bytes = 0
        async for part in self._stream:
            num_bytes += len(part)
            if num_bytes > MAX_ANSWER_BYTES:
                raise unavailable(f"the endpoint's answer has more than {MAX_ANSWER_BYTES} bytes")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()
