"""One HTTP connection to one replica, kept open, whose replacements are counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import aiohttp

from e2rank_server.embedder.vllm_remote.address import Address
from e2rank_server.embedder.vllm_remote.failure import FailureReason, RefusedError, ReplicaError

_CONNECT_SECONDS = 5.0
# For what is not queued behind work, on a server whose processors are busy.
_GET_SECONDS = 10.0
# Longer than any server keeps an idle connection: the server decides.
_KEEP_ALIVE_SECONDS = 24 * 3600.0
_MAX_ERROR_BYTES = 4096
_MAX_ERROR_CHARACTERS = 300
_BUSY = (408, 429)


class Connection:
    """Sends one request after the other; `close` it, and make it in a running event loop.

    All failures of the replica are ReplicaErrors. Cancelling a request closes
    the connection, by which vLLM notices. Redirects are not followed and nothing
    is decompressed, so that an answer is as long as it says.
    """

    def __init__(self, address: Address, api_key: str | None, timeout_seconds: float) -> None:
        self.number = 0
        """How many connections have been made so far: names the present one."""
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(self._count)
        headers = {"Accept-Encoding": "identity"}
        if api_key is not None:
            headers["Authorization"] = f"Bearer {api_key}"
        self._base = address.base
        self._session = aiohttp.ClientSession(
            connector=_connector(address),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=_CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trace_configs=[trace],
        )

    async def get(self, path: str, max_bytes: int) -> bytes:
        """Return what is at `path`, of at most so many bytes."""
        with _replica_errors():
            async with asyncio.timeout(_GET_SECONDS), self._answer("GET", path) as response:
                content = await _read_up_to(response, max_bytes + 1)
        if len(content) > max_bytes:
            raise ReplicaError(FailureReason.NONSENSE, f"{path} has more than {max_bytes} bytes")
        return content

    async def post(self, path: str, body: bytes, num_bytes: int) -> bytes:
        """Send JSON and return an answer of exactly so many bytes."""
        with _replica_errors():
            async with self._answer("POST", path, data=body) as response:
                content = await _read_up_to(response, num_bytes + 1)
        if len(content) != num_bytes:
            found = str(len(content)) if len(content) < num_bytes else "more"
            raise ReplicaError(
                FailureReason.NONSENSE, f"an answer of {found} bytes; expected {num_bytes}"
            )
        return content

    async def close(self) -> None:
        """Close the connection."""
        await self._session.close()

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, data: bytes | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {} if data is None else {"Content-Type": "application/json"}
        async with self._session.request(
            method, self._base + path, data=data, headers=headers, allow_redirects=False
        ) as response:
            if response.status != 200:
                raise _failure(response.status, path, await _read_message(response))
            yield response

    async def _count(self, *_: Any) -> None:  # noqa: ANN401 - what aiohttp passes is not used
        self.number += 1


def _connector(address: Address) -> aiohttp.BaseConnector:
    if address.unix_socket is not None:
        return aiohttp.UnixConnector(
            address.unix_socket, limit=1, keepalive_timeout=_KEEP_ALIVE_SECONDS
        )
    return aiohttp.TCPConnector(limit=1, keepalive_timeout=_KEEP_ALIVE_SECONDS)


@contextmanager
def _replica_errors() -> Iterator[None]:
    """Translate what aiohttp raises."""
    try:
        yield
    except TimeoutError as error:
        raise ReplicaError(FailureReason.TIMED_OUT, _words(error)) from error
    except aiohttp.ClientConnectorError as error:
        raise ReplicaError(FailureReason.UNREACHABLE, _words(error)) from error
    except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError) as error:
        raise ReplicaError(FailureReason.NONSENSE, _words(error)) from error
    except aiohttp.ClientError as error:
        raise ReplicaError(FailureReason.DISCONNECTED, _words(error)) from error


def _words(error: BaseException) -> str:
    return f"{type(error).__name__} {error}".strip()[:_MAX_ERROR_CHARACTERS]


def _failure(status: int, path: str, message: str) -> Exception:
    detail = f"HTTP {status} from {path}: {message}"
    if status in (401, 403):
        return ReplicaError(FailureReason.UNAUTHORIZED, detail)
    if status >= 500 or status in _BUSY:
        return ReplicaError(FailureReason.SERVER_ERROR, detail)
    if status in (404, 405):
        return ReplicaError(FailureReason.WRONG_MODEL, detail)
    if status >= 400:
        return RefusedError(detail)
    return ReplicaError(FailureReason.NONSENSE, detail)


async def _read_up_to(response: aiohttp.ClientResponse, num_bytes: int) -> bytes:
    content = bytearray()
    while len(content) < num_bytes:
        chunk = await response.content.read(num_bytes - len(content))
        if not chunk:
            break
        content += chunk
    return bytes(content)


async def _read_message(response: aiohttp.ClientResponse) -> str:
    """Return the beginning of what an error answer says, on one line."""
    text = (await _read_up_to(response, _MAX_ERROR_BYTES)).decode(errors="replace")
    # What is not of vLLM's form is shown as it is.
    with suppress(ValueError, LookupError, TypeError, RecursionError):
        text = json.loads(text)["error"]["message"]
    return " ".join(str(text).split())[:_MAX_ERROR_CHARACTERS]
