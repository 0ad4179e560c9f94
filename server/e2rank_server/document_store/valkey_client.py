"""A Valkey, one server or a cluster, that keeps what it acknowledges.

What is promised, and why:

- One server: each write is followed by WAITAOF 1 0 on the same connection, so
  that its answer comes after the fsync of the append-only file, with
  `appendfsync always` as with `everysec`. The write that goes between them has
  the connection wait for what others wrote before, too, which the answer may
  rest on.
- A cluster: a connection to the right node cannot be held through a
  redirection, so all primaries must have `appendfsync always`, with which Valkey
  answers after its fsync.
- A failover to a replica can lose what the replica had not received. Valkey
  copies to replicas behind its answers, and nothing here waits for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    ConnectionError,  # noqa: A004 - redis calls it so
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    TimeoutError,  # noqa: A004 - redis calls it so
    TryAgainError,
)

from e2rank_server.errors import ConfigurationError, UnavailableError
from e2rank_server.valkey_url import client_url

logger = logging.getLogger(__name__)

_Client: TypeAlias = Redis | RedisCluster

_MAX_CONNECTIONS = 64
_SYNC_KEY = "e2rank:documents:{sync}"
_FORMAT_KEY = "e2rank:documents:{format}"
_FORMAT = 1
_NOTE_FORMAT = """
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return tonumber(redis.call('GET', KEYS[1]))
"""
_SYNC_KEY_SECONDS = 10 * 365 * 24 * 3600
# Less than the socket's patience, so that it is Valkey that says "not yet".
_SYNC_SHARE = 0.8
_CLUSTER_ATTEMPTS = 3
_AWAY = (
    ClusterDownError,
    ConnectionError,
    OSError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    TimeoutError,
    TryAgainError,
)
_NO_ENTRY = (AuthenticationError, AuthorizationError, NoPermissionError)
# What else a server answers that cannot write now, or does not let this user in.
_AWAY_PREFIXES = ("MISCONF", "NOREPLICAS", "NOAUTH", "NOPERM", "WRONGPASS", "UNBLOCKED")


class DurableValkey:
    """Commands to a Valkey whose settings have been checked.

    It may be away at the start; the check is then made when it is back.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        """Connect to nothing yet; see `valkey_url` for `url`.

        Raises:
            ConfigurationError: the URL is wrong.
        """
        self._url = client_url("document store", url)
        self._timeout_seconds = timeout_seconds
        self._checking = asyncio.Lock()
        self._client: _Client | None = None
        self._single = Redis.from_pool(
            BlockingConnectionPool.from_url(
                self._url,
                max_connections=_MAX_CONNECTIONS,
                timeout=timeout_seconds,
                **self._options(attempts=0),
            )
        )

    async def start(self) -> None:
        """Check its settings, unless it is away.

        Raises:
            ConfigurationError: with them it can lose what it has acknowledged.
        """
        try:
            await self._connected()
        except UnavailableError as error:
            logger.warning("%s; documents cannot be named by id until it is back", error)

    async def read(self, *command: str | bytes) -> Any:  # noqa: ANN401 - as Valkey answers
        """Return the answer to a command whose first argument is its key."""
        with _translated():
            client = await self._checked()
            return await client.execute_command(*command)

    async def write(
        self, script: str, keys: Sequence[str], arguments: Sequence[str | bytes | int]
    ) -> Any:  # noqa: ANN401 - as Valkey answers
        """Return the answer of a script, whose keys share a slot, once its writes are synced."""
        with _translated():
            client = await self._checked()
            return await self._run(client, script, keys, arguments)

    async def check_health(self) -> None:
        """Raise UnavailableError if it is away, or no longer keeps what it acknowledges."""
        with _translated():
            problems = await _problems(await self._checked())
        if problems:
            raise UnavailableError("document_store", "; ".join(problems))

    async def close(self) -> None:
        """Close all connections."""
        await self._single.aclose()
        if self._client is not None and self._client is not self._single:
            await self._client.aclose()

    async def _checked(self) -> _Client:
        """Return the client, or raise UnavailableError if its settings are no good."""
        try:
            return await self._connected()
        except ConfigurationError as error:
            raise UnavailableError("document_store", str(error)) from error

    async def _connected(self) -> _Client:
        if self._client is None:
            async with self._checking:
                if self._client is None:
                    with _translated():
                        self._client = await self._connect()
        return self._client

    async def _connect(self) -> _Client:
        """Find out whether it is a cluster, and check it."""
        client: _Client = self._single
        try:
            if (await self._single.info("cluster")).get("cluster_enabled"):
                client = RedisCluster.from_url(
                    self._url,
                    max_connections=_MAX_CONNECTIONS,
                    **self._options(attempts=_CLUSTER_ATTEMPTS),
                )
            await self._check(client)
        except BaseException as error:
            if client is not self._single:
                await client.aclose()
            # While it connects, the client wraps them.
            if isinstance(error, _NO_ENTRY) or isinstance(error.__cause__, _NO_ENTRY):
                raise ConfigurationError([f"document store: Valkey refuses: {error}"]) from error
            raise
        return client

    async def _check(self, client: _Client) -> None:
        problems = await _problems(client)
        if not problems:
            await client.set(_SYNC_KEY, "")
            found = await self._run(client, _NOTE_FORMAT, [_FORMAT_KEY], [_FORMAT])
            if found > _FORMAT:
                problems = [
                    f"document store: has format {found}, written by a newer version; this one "
                    f"knows {_FORMAT}"
                ]
        if problems:
            raise ConfigurationError(problems)

    async def _run(
        self,
        client: _Client,
        script: str,
        keys: Sequence[str],
        arguments: Sequence[str | bytes | int],
    ) -> Any:  # noqa: ANN401 - as Valkey answers
        evaluate = ("EVAL", script, len(keys), *keys, *arguments)
        if isinstance(client, RedisCluster):
            return await client.execute_command(*evaluate)
        pipeline = client.pipeline(transaction=False)
        pipeline.execute_command(*evaluate)
        # A write that a server without free memory allows, too.
        pipeline.expire(_SYNC_KEY, _SYNC_KEY_SECONDS)
        pipeline.waitaof(1, 0, int(self._timeout_seconds * _SYNC_SHARE * 1000))
        answer, _, (synced, _) = await pipeline.execute()
        if not synced:
            raise UnavailableError("document_store", "Valkey has not synced a write in time")
        return answer

    def _options(self, attempts: int) -> dict[str, Any]:
        return {
            "socket_timeout": self._timeout_seconds,
            "socket_connect_timeout": self._timeout_seconds,
            "retry": Retry(NoBackoff(), attempts),
        }


async def _problems(client: _Client) -> list[str]:
    """Return why documents could be lost, in words that say what to set."""
    if isinstance(client, Redis):
        return _problems_of(await client.info("everything"), await _appendfsync(client), "")
    problems = []
    await client.initialize()
    for node in client.get_primaries():
        info = await client.info("everything", target_nodes=node)
        appendfsync = await _appendfsync(client, target_nodes=node)
        where = f" of {node.name}"
        problems += _problems_of(info, appendfsync, where)
        if appendfsync != "always":
            found = "not told to this user" if appendfsync is None else repr(appendfsync)
            problems.append(
                f"document store: appendfsync{where} is {found}; in a cluster set it to always"
            )
    return problems


def _problems_of(info: Mapping[str, Any], appendfsync: str | None, where: str) -> list[str]:
    problems = []
    policy = info.get("maxmemory_policy")
    if policy != "noeviction":
        problems.append(
            f"document store: maxmemory-policy{where} is {policy!r}; set it to noeviction"
        )
    if not info.get("aof_enabled"):
        problems.append(f"document store: appendonly{where} is 'no'; set it to yes")
    if appendfsync == "no":
        problems.append(f"document store: appendfsync{where} is 'no'; set it to always or everysec")
    if info.get("role") != "master":
        problems.append(f"document store: the server{where} is a replica; name its primary")
    return problems


async def _appendfsync(client: _Client, **target: Any) -> str | None:  # noqa: ANN401 - a node
    """Return the setting, None if this user may not ask for it."""
    try:
        answer = await client.config_get("appendfsync", **target)
    except ResponseError:
        return None
    value = answer["appendfsync"]
    return value.decode() if isinstance(value, bytes) else str(value)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what says that Valkey cannot answer now into UnavailableError."""
    try:
        yield
    except _AWAY as error:
        raise UnavailableError("document_store", f"Valkey is away: {error}") from error
    except ResponseError as error:
        if str(error).startswith(_AWAY_PREFIXES):
            raise UnavailableError("document_store", f"Valkey refuses: {error}") from error
        raise
