"""From an address to a gRPC target."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from e2rank_client.addresses import target_of


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("localhost:50051", "dns:///localhost:50051"),
        ("gateway.e2rank.svc.cluster.local:50051", "dns:///gateway.e2rank.svc.cluster.local:50051"),
        ("[::1]:50051", "dns:///[::1]:50051"),
        ("dns:///gateway:1", "dns:///gateway:1"),
        ("dns://8.8.8.8/gateway:1", "dns://8.8.8.8/gateway:1"),
        ("unix:/run/e2rank.sock", "unix:/run/e2rank.sock"),
        ("ipv4:10.0.0.1:1,10.0.0.2:1", "ipv4:10.0.0.1:1,10.0.0.2:1"),
        ("xds:///gateway", "xds:///gateway"),
        (["10.0.0.1:1", "10.0.0.2:2"], "ipv4:10.0.0.1:1,10.0.0.2:2"),
        (("[::1]:1", "[::2]:2"), "ipv6:[::1]:1,[::2]:2"),
        (["10.0.0.1:1", "10.0.0.1:1"], "ipv4:10.0.0.1:1"),
    ],
)
def test_an_address_becomes_a_target(address: Any, target: str) -> None:
    assert target_of(address) == target


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("localhost", "address 'localhost' is not host:port"),
        ("", "address '' is not host:port"),
        ("a b:1", "is not host:port"),
        ("::1:50051", "is not host:port"),
        ("host:http", "is not host:port"),
        ("host:0", "the port is not within 1..65535"),
        ("host:65536", "the port is not within 1..65535"),
        ("http://host:1", "no scheme 'http' in gRPC; there are dns, ipv4, "),
        ([], "a sequence needs at least one host:port"),
        (["10.0.0.1"], "address '10.0.0.1' is not host:port"),
        (["unix:/run/e2rank.sock"], "is not host:port"),
        (["10.0.0.1:1", "[::1]:1"], "some hosts have IPv4 addresses only, and some IPv6 only"),
    ],
)
def test_an_address_that_is_none_is_refused_and_named(address: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        target_of(address)
    assert problem in str(caught.value)


def looked_up(monkeypatch: pytest.MonkeyPatch, hosts: dict[str, list[str]]) -> None:
    """Have the resolver know these hosts alone."""

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        if host not in hosts:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        families = [socket.AF_INET6 if ":" in ip else socket.AF_INET for ip in hosts[host]]
        return [
            (family, socket.SOCK_STREAM, 6, "", (ip, port))
            for family, ip in zip(families, hosts[host], strict=True)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_names_of_a_sequence_stand_for_all_their_addresses_of_one_family(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_up(monkeypatch, {"a": ["::1", "10.0.0.1", "10.0.0.2"], "b": ["10.0.0.3"], "c": ["::3"]})
    assert target_of(["a:1", "b:2"]) == "ipv4:10.0.0.1:1,10.0.0.2:1,10.0.0.3:2"
    assert target_of(["a:1", "c:2"]) == "ipv6:[::1]:1,[::3]:2"


def test_a_name_of_a_sequence_that_is_not_known_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up(monkeypatch, {})
    with pytest.raises(ValueError, match=r"address nowhere:1: .*Name or service not known"):
        target_of(["nowhere:1"])
