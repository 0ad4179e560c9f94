"""Where a replica is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from yarl import URL

from e2rank_server.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Address:
    """`base` is the URL that paths are appended to; `unix_socket` where it is reached, if set."""

    shown: str
    base: str
    unix_socket: str | None = None


def parse_address(text: str) -> Address:
    """Read `http://host:port`, `https://host:port`, either with a path, or `unix:/path`.

    Raises:
        ConfigurationError: it is none of these.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not Path(path).is_absolute():
            raise _problem(text, "a unix: URL needs an absolute path, such as unix:/run/vllm.sock")
        return Address(text, "http://localhost", path)
    try:
        url = URL(text)
        is_complete = url.scheme in ("http", "https") and bool(url.host) and url.port is not None
    except ValueError as error:
        raise _problem(text, str(error)) from error
    if not is_complete:
        raise _problem(text, "expected http://HOST:PORT, https://HOST:PORT or unix:/PATH")
    if url.user is not None or url.password is not None:
        raise ConfigurationError(["a vLLM URL has credentials in it: use an API key instead"])
    if url.query_string or url.fragment:
        raise _problem(text, "it must not have a query or a fragment")
    base = str(url).rstrip("/")
    return Address(base, base)


def _problem(text: str, what: str) -> ConfigurationError:
    return ConfigurationError([f"vLLM URL {text!r}: {what}"])
