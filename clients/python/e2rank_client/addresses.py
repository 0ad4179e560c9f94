"""Where the servers are: from what callers write to a gRPC target."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence

_SCHEMES = frozenset(("dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds"))
_HOST_AND_PORT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\s:/\[\]]+)):(?P<port>\d+)")
_MAX_PORT = 65_535
_FAMILIES = ((socket.AF_INET, "ipv4:", "{}:{}"), (socket.AF_INET6, "ipv6:", "[{}]:{}"))


def target_of(address: str | Sequence[str]) -> str:
    """Return the gRPC target of an address.

    A `host:port` becomes `dns:///host:port`, which stands for all addresses of
    that name and is looked up again when a connection ends. The names of a
    sequence are looked up once, here: gRPC has no target for several names.

    Args:
        address: `host:port`, a gRPC target such as `unix:/path`, or several `host:port`.

    Raises:
        ValueError: It is neither, or a name of a sequence is not known.
    """
    if not isinstance(address, str):
        return _listed([_split(one) for one in address])
    scheme = address.partition(":")[0]
    if scheme in _SCHEMES:
        return address
    if "://" in address:
        known = ", ".join(sorted(_SCHEMES))
        raise ValueError(f"address {address!r}: no scheme {scheme!r} in gRPC; there are {known}")
    _split(address)
    return f"dns:///{address}"


def split_host_and_port(address: str) -> tuple[str, int] | None:
    """Return the parts of a `host:port`, without an IPv6 address's brackets; None for others."""
    parts = _HOST_AND_PORT.fullmatch(address)
    return (parts["v6"] or parts["name"], int(parts["port"])) if parts else None


def _split(address: str) -> tuple[str, int]:
    parts = split_host_and_port(address)
    if not parts:
        raise ValueError(f"address {address!r} is not host:port")
    if not 0 < parts[1] <= _MAX_PORT:
        raise ValueError(f"address {address!r}: the port is not within 1..{_MAX_PORT}")
    return parts


def _listed(hosts: Sequence[tuple[str, int]]) -> str:
    """Return the target of several hosts, which gRPC wants to be of one family."""
    if not hosts:
        raise ValueError("address: a sequence needs at least one host:port")
    found = [_look_up(host, port) for host, port in hosts]
    for family, scheme, form in _FAMILIES:
        if all(family in addresses for addresses in found):
            listed = [
                form.format(ip, port)
                for addresses, (_, port) in zip(found, hosts, strict=True)
                for ip in addresses[family]
            ]
            return scheme + ",".join(dict.fromkeys(listed))
    raise ValueError("address: some hosts have IPv4 addresses only, and some IPv6 only")


def _look_up(host: str, port: int) -> dict[int, list[str]]:
    """Return a host's addresses by family."""
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise ValueError(f"address {host}:{port}: {error}") from error
    addresses: dict[int, list[str]] = {}
    for family, _, _, _, (ip, *_) in infos:
        addresses.setdefault(family, []).append(str(ip))
    return addresses
