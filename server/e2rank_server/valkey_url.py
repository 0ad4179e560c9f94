"""URLs of a Valkey or Redis, checked before a client sees them."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from e2rank_server.errors import ConfigurationError

_SCHEMES = {
    "valkey": "redis",
    "valkeys": "rediss",
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
}
_OPTIONS = ("db", "ssl_ca_certs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile")


def client_url(purpose: str, url: str) -> str:
    """Return the URL as the client library wants it.

    `url` is `valkey://[[user]:password@]host[:port][/database]`, `valkeys://` for
    TLS, the same with `redis` and `rediss`, or `unix://[user:password@]/path`; its
    options are those of `_OPTIONS`. `purpose`, say "document store", begins messages.

    Raises:
        ConfigurationError: saying what is wrong, without the user and the password.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError([f"{purpose}: the URL is not one ({error})"]) from None
    problems = list(_problems(parts))
    if problems:
        shown = f"{parts.scheme}://" + (parts.netloc + parts.path).rpartition("@")[2]
        raise ConfigurationError([f"{purpose} {shown}: {problem}" for problem in problems])
    options = urlencode(parse_qsl(parts.query))
    # Not geturl(), which makes unix:/path of unix:///path.
    return f"{_SCHEMES[parts.scheme]}://{parts.netloc}{parts.path}?{options}"


def _problems(parts: SplitResult) -> Iterator[str]:
    if parts.scheme not in _SCHEMES:
        yield f"the scheme is none of {', '.join(_SCHEMES)}"
        return
    if parts.scheme == "unix":
        if not parts.path:
            yield "there is no path"
    else:
        if not parts.hostname:
            yield "there is no host"
        try:
            parts.port  # noqa: B018 # raises when it is read
        except ValueError:
            yield "the port is not a number from 0 to 65535"
        database = parts.path.removeprefix("/")
        if database and not database.isdecimal():
            yield "what follows the slash is not the number of a database"
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _OPTIONS:
            yield f"the option {name} is none of {', '.join(_OPTIONS)}"
        elif name == "db" and not value.isdecimal():
            yield "the option db is not the number of a database"
        elif name != "db" and _SCHEMES[parts.scheme] != "rediss":
            yield f"the option {name} is for valkeys:// and rediss:// only"
