"""URLs of a Valkey."""

from __future__ import annotations

import pytest

from e2rank_server.errors import ConfigurationError
from e2rank_server.valkey_url import client_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("valkey://host", "redis://host"),
        ("valkeys://me:secret@host:1/2?ssl_ca_certs=/a", "rediss://me:secret@host:1/2"),
        ("redis://[::1]:7000", "redis://[::1]:7000"),
        ("unix:///a/socket?db=3", "unix:///a/socket?db=3"),
    ],
)
def test_a_url_is_given_as_the_client_wants_it(url: str, expected: str) -> None:
    assert client_url("cache", url).startswith(expected)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://me:secret@host", "cache http://host: the scheme is none of valkey, valkeys"),
        ("me:secret@host", "the scheme is none of"),
        ("valkey://me:secret@", "there is no host"),
        ("valkey://me:secret@host:99999", "host:99999: the port is not a number"),
        ("valkey://me:secret@host/x", "is not the number of a database"),
        ("unix://me:secret@", "there is no path"),
        ("valkey://me:secret@host?protocol=3", "the option protocol is none of db"),
        ("valkey://me:secret@host?db=x", "the option db is not the number of a database"),
        ("valkey://me:secret@host?ssl_keyfile=/k", "ssl_keyfile is for valkeys:// and rediss://"),
        ("valkey://me:secret@[::1", "cache: the URL is not one"),
    ],
)
def test_what_is_wrong_is_said_without_the_password(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        client_url("cache", url)
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)
