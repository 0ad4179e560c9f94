"""The second tier that all replicas share: Valkey, or Redis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from e2rank_server.embedding_cache.protocol import Place
from e2rank_server.errors import ConfigurationError
from e2rank_server.valkey_url import client_url

KEY_PREFIX = "e2rank:v1:"
MAX_TTL_SECONDS = 365 * 24 * 3600

# An answer this late still fills the memory; the request has long gone on without.
_SOCKET_SECONDS = 1.0
_MAX_CONNECTIONS = 16
# How many keys are read and written with one command and one pipeline. Each
# answer of a pipeline costs the client some 20 us of the event loop.
_KEYS_A_READ = 512
_KEYS_A_WRITE = 128
_KEYS_A_SCAN = 1000


class ValkeyTier:
    """Keeps values in a Valkey or Redis, alone or a cluster, for `ttl_seconds` (0: no limit).

    The names of keys are in hexadecimal, which costs 40 bytes an entry and has
    no character that means something in a pattern, so that a namespace can be
    purged by SCAN and UNLINK, and people can read them.

    It connects when it is first asked, so it does not matter whether the server
    is there when this one starts. Nothing is tried twice; after a second a call
    fails. The server should have a `maxmemory` and evict (`allkeys-lfu`).
    """

    place = Place.SHARED

    def __init__(self, url: str, *, ttl_seconds: int = 0, is_cluster: bool = False) -> None:
        """Take note of where it is.

        For `url` see `valkey_url`. No error and no log shows its password.

        Raises:
            ConfigurationError: the URL is wrong, or `ttl_seconds` is out of range.
        """
        if not 0 <= ttl_seconds <= MAX_TTL_SECONDS:
            raise ConfigurationError(
                [
                    f"embedding cache: ttl_seconds {ttl_seconds} is not 0 (no limit) or between 1 "
                    f"and {MAX_TTL_SECONDS} (a year)"
                ]
            )
        self._ttl_milliseconds = 1000 * ttl_seconds or None
        self._client = _cluster_client(url) if is_cluster else _client(url)

    async def get(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """See `SecondTier.get`. A cluster is asked with one pipeline to each of its nodes."""
        values: list[bytes | None] = []
        for names in _steps([_name(key) for key in keys], _KEYS_A_READ):
            if isinstance(self._client, RedisCluster):
                pipeline = self._client.pipeline()
                for name in names:
                    pipeline.get(name)
                values += await pipeline.execute()
            else:
                values += cast("list[bytes | None]", await self._client.mget(names))
        return values

    async def put(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """See `SecondTier.put`."""
        entries = [(_name(key), value) for key, value in zip(keys, values, strict=True)]
        for some in _steps(entries, _KEYS_A_WRITE):
            pipeline = self._client.pipeline(transaction=False)
            for name, value in some:
                pipeline.set(name, value, px=self._ttl_milliseconds)
            await pipeline.execute()

    async def purge(self, namespace_tag: bytes) -> None:
        """See `SecondTier.purge`. Goes through all keys of the server, in steps."""
        found: list[bytes] = []
        pattern = _name(namespace_tag) + "*"
        async for name in self._client.scan_iter(match=pattern, count=_KEYS_A_SCAN):
            found.append(name)
            if len(found) == _KEYS_A_SCAN:
                await self._client.unlink(*found)
                found.clear()
        if found:
            await self._client.unlink(*found)

    async def check_health(self) -> None:
        """See `SecondTier.check_health`."""
        await self._client.ping()

    async def close(self) -> None:
        """See `SecondTier.close`."""
        await self._client.aclose()


def _name(key: bytes) -> str:
    return KEY_PREFIX + key.hex()


def _steps(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _connection_options() -> dict[str, Any]:
    return {
        "socket_timeout": _SOCKET_SECONDS,
        "socket_connect_timeout": _SOCKET_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        # Without HELLO and CLIENT SETINFO, which would be two more round trips a connection.
        "protocol": 2,
        "driver_info": None,
    }


def _client(url: str) -> Redis:
    pool = BlockingConnectionPool.from_url(
        client_url("embedding cache", url),
        max_connections=_MAX_CONNECTIONS,
        timeout=_SOCKET_SECONDS,
        **_connection_options(),
    )
    return Redis.from_pool(pool)


def _cluster_client(url: str) -> RedisCluster:
    checked = client_url("embedding cache", url)
    parts = urlsplit(checked)
    if parts.scheme == "unix" or parts.path.strip("/") or "db" in dict(parse_qsl(parts.query)):
        raise ConfigurationError(
            ["embedding cache: a cluster has neither socket files nor numbers of databases"]
        )
    return RedisCluster.from_url(checked, max_connections=_MAX_CONNECTIONS, **_connection_options())
