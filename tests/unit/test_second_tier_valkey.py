"""What Valkey does beyond the contract: its address, its time to live, and being away."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
from redis.exceptions import RedisError

from e2rank_server.embedding_cache import valkey as valkey_module
from e2rank_server.embedding_cache.circuit_breaker import BreakerState, CircuitBreaker
from e2rank_server.embedding_cache.keys import KEY_BYTES
from e2rank_server.embedding_cache.memory import MemoryEmbeddingCache
from e2rank_server.embedding_cache.protocol import Place
from e2rank_server.embedding_cache.tiered import TieredEmbeddingCache
from e2rank_server.embedding_cache.valkey import KEY_PREFIX, MAX_TTL_SECONDS, ValkeyTier
from e2rank_server.embedding_cache.values import ValueCodec
from e2rank_server.errors import ConfigurationError
from e2rank_server.types import FloatArray
from tests.fake_second_tier import look_everywhere, until
from tests.valkey_server import ValkeyProcess, running_valkey

DIMENSION = 384
CODEC = ValueCodec(DIMENSION)


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyProcess]:
    with running_valkey() as process:
        yield process


@pytest.fixture
async def tier(valkey: ValkeyProcess) -> AsyncIterator[ValkeyTier]:
    tier = ValkeyTier(valkey.url)
    yield tier
    await tier.close()


def random_keys(number: int) -> list[bytes]:
    return [os.urandom(KEY_BYTES) for _ in range(number)]


def stored_name(key: bytes) -> str:
    return KEY_PREFIX + key.hex()


# Where it is


def test_an_address_that_is_wrong_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="embedding cache http://host: the scheme is none"):
        ValkeyTier("http://me:secret@host")


@pytest.mark.parametrize("url", ["unix:///a/socket", "valkey://host/3", "valkey://host?db=3"])
def test_a_cluster_has_neither_a_socket_file_nor_databases(url: str) -> None:
    with pytest.raises(
        ConfigurationError, match="a cluster has neither socket files nor numbers of databases"
    ):
        ValkeyTier(url, is_cluster=True)


async def test_user_and_password_are_in_the_address_and_nowhere_else(
    valkey: ValkeyProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    valkey.execute("ACL", "SETUSER", "somebody", "on", ">hunter2", "~*", "+@all")
    for password in ("hunter2", "hunter3"):
        tier = ValkeyTier(valkey.url.replace("unix://", f"unix://somebody:{password}@"))
        if password == "hunter2":
            await tier.check_health()
        else:
            with pytest.raises(RedisError, match="invalid username-password") as caught:
                await tier.check_health()
            assert "hunter" not in str(caught.value)
        await tier.close()
    assert "hunter" not in caplog.text


async def test_values_live_as_long_as_they_are_told_to(
    valkey: ValkeyProcess, tier: ValkeyTier
) -> None:
    [short, unlimited] = random_keys(2)
    mortal = ValkeyTier(valkey.url, ttl_seconds=100)
    await mortal.put([short], [b"value"])
    await tier.put([unlimited], [b"value"])
    assert 90_000 < valkey.execute("PTTL", stored_name(short)) <= 100_000
    assert valkey.execute("PTTL", stored_name(unlimited)) == -1
    valkey.execute("PEXPIRE", stored_name(short), 0)
    assert list(await mortal.get([short, unlimited])) == [None, b"value"]
    await mortal.close()


@pytest.mark.parametrize("ttl_seconds", [-1, MAX_TTL_SECONDS + 1])
def test_a_time_to_live_out_of_range_is_refused(ttl_seconds: int) -> None:
    with pytest.raises(ConfigurationError, match=f"ttl_seconds {ttl_seconds} is not 0 .* 31536000"):
        ValkeyTier("valkey://host", ttl_seconds=ttl_seconds)


async def test_a_purge_leaves_other_peoples_keys_alone(
    valkey: ValkeyProcess, tier: ValkeyTier
) -> None:
    [key] = random_keys(1)
    await tier.put([key], [b"value"])
    others = ["other:" + key.hex(), key.hex(), KEY_PREFIX.replace("v1", "v2") + key.hex()]
    for name in others:
        valkey.execute("SET", name, "theirs")
    await tier.purge(key[:16])
    assert valkey.execute("EXISTS", stored_name(key)) == 0
    assert valkey.execute("EXISTS", *others) == 3


# Away


async def test_a_server_that_is_not_there_fails_at_once_and_is_found_when_it_comes() -> None:
    process = ValkeyProcess()
    try:
        tier = ValkeyTier(process.url)
        for call in (tier.get(random_keys(1)), tier.purge(bytes(16)), tier.check_health()):
            with pytest.raises(RedisError):
                await call
        process.start()
        await tier.check_health()
        await tier.close()
    finally:
        process.remove()


async def test_a_server_that_hangs_fails_after_a_while(
    valkey: ValkeyProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(valkey_module, "_SOCKET_SECONDS", 0.05)
    tier = ValkeyTier(valkey.url)
    await tier.check_health()
    valkey.execute("CLIENT", "PAUSE", "200", "ALL")
    with pytest.raises(RedisError, match="Timeout"):
        await tier.get(random_keys(1))
    valkey.execute("PING")  # returns when the pause is over
    await tier.check_health()
    await tier.close()


async def test_a_full_server_fails_to_write_and_is_read_on(
    valkey: ValkeyProcess, tier: ValkeyTier
) -> None:
    keys = random_keys(2)
    await tier.put(keys[:1], [b"value"])
    valkey.execute("CONFIG", "SET", "maxmemory", "1mb")
    with pytest.raises(RedisError, match="maxmemory"):
        await tier.put(keys[1:], [b"value"])
    assert list(await tier.get(keys)) == [b"value", None]
    valkey.execute("CONFIG", "SET", "maxmemory", "0")
    await tier.put(keys[1:], [b"value"])


# Behind a memory


def tiered(tier: ValkeyTier) -> TieredEmbeddingCache:
    return TieredEmbeddingCache(
        MemoryEmbeddingCache(DIMENSION, 0),  # so that every look-up asks the second tier
        tier,
        CODEC,
        make_breaker=lambda name: CircuitBreaker(name, pause_seconds=0.01, max_pause_seconds=0.02),
    )


def vectors(keys: list[bytes]) -> FloatArray:
    """Return vectors that float16 holds exactly, made from their keys."""
    return np.stack([np.resize(np.frombuffer(key, np.uint8), DIMENSION) for key in keys]).astype(
        np.float32
    )


async def test_a_flipped_byte_is_a_counted_miss(valkey: ValkeyProcess, tier: ValkeyTier) -> None:
    keys = random_keys(20)
    await tier.put(keys, CODEC.encode(keys, vectors(keys)))
    name = stored_name(keys[7])
    byte = valkey.execute("GETRANGE", name, 100, 100)[0]
    valkey.execute("SETRANGE", name, 100, bytes([byte ^ 4]))
    cache = tiered(tier)
    out = np.zeros((20, DIMENSION), dtype=np.float32)
    places = await look_everywhere(cache, keys, out)
    assert np.flatnonzero(places != Place.SHARED).tolist() == [7]
    np.testing.assert_array_equal(np.delete(out, 7, 0), np.delete(vectors(keys), 7, 0))
    assert cache.second_tier_statistics().rejected == 1
    await cache.close()


async def test_killed_and_back_under_load_no_look_up_fails_or_is_wrong() -> None:
    with running_valkey(appendonly="yes", appendfsync="always") as process:
        tier = ValkeyTier(process.url)
        cache = tiered(tier)
        keys = random_keys(100)
        await tier.put(keys, CODEC.encode(keys, vectors(keys)))
        is_over = asyncio.Event()
        slowest = 0.0
        async with asyncio.TaskGroup() as group:

            async def look_up() -> None:
                nonlocal slowest
                loop = asyncio.get_running_loop()
                while not is_over.is_set():
                    out = np.zeros((100, DIMENSION), dtype=np.float32)
                    started = loop.time()
                    is_found = await look_everywhere(cache, keys, out) == Place.SHARED
                    slowest = max(slowest, loop.time() - started)
                    np.testing.assert_array_equal(out, vectors(keys) * is_found[:, np.newaxis])
                    await cache.store(keys[:1], vectors(keys[:1]))
                    await asyncio.sleep(0)

            for _ in range(4):
                group.create_task(look_up())
            for _ in range(2):
                hits = cache.second_tier_statistics().hits
                await until(lambda hits=hits: cache.second_tier_statistics().hits > hits + 500)
                process.kill()
                await until(lambda: cache.second_tier_statistics().breaker is BreakerState.OPEN)
                await asyncio.to_thread(process.start)
                await until(lambda: cache.second_tier_statistics().breaker is BreakerState.CLOSED)
                written = cache.second_tier_statistics().writes.written
                await until(
                    lambda written=written: cache.second_tier_statistics().writes.written > written
                )
            is_over.set()
        statistics = cache.second_tier_statistics()
        assert statistics.errors + statistics.timeouts >= 10
        assert statistics.rejected == 0
        assert slowest < 5  # and not the minutes that a client may try again for
        await cache.close()
        await tier.close()


async def test_two_gateways_share_what_one_of_them_stored(
    valkey: ValkeyProcess, tier: ValkeyTier
) -> None:
    other_tier = ValkeyTier(valkey.url)
    one, other = tiered(tier), tiered(other_tier)
    keys = random_keys(10)
    await one.store(keys, vectors(keys))
    await until(lambda: one.second_tier_statistics().writes.written == 10)
    out = np.zeros((10, DIMENSION), dtype=np.float32)
    assert (await look_everywhere(other, keys, out) == Place.SHARED).all()
    np.testing.assert_array_equal(out, vectors(keys))
    await one.close()
    await other.close()
    await other_tier.close()
