"""What is sent beside a request: a token, the caller's own metadata, a request id."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Token = str | Callable[[], str]

_AUTHORIZATION_KEY = "authorization"
_REQUEST_ID_KEY = "x-request-id"

_KEY = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[ -~]+")
_VISIBLE = re.compile(r"[!-~]+")
_MAX_REQUEST_ID_CHARACTERS = 128


class CallMetadata:
    """Makes the metadata of each attempt of a call. Its errors never show a value.

    Args:
        token: Sent as `authorization: Bearer <token>`; a function is asked each time.
        own: Keys as gRPC wants them (lower case, digits, `_.-`), values printable ASCII.

    Raises:
        ValueError: A key or value cannot be sent, or two things claim `authorization`.
    """

    def __init__(self, token: Token | None, own: Mapping[str, str]) -> None:
        for key, value in own.items():
            _check(key, value)
        if token is not None and _AUTHORIZATION_KEY in own:
            raise ValueError("give token or metadata['authorization'], not both")
        if isinstance(token, str):
            _bearer(token)
        self._token = token
        self._own = tuple(own.items())

    def of_call(self, request_id: str) -> tuple[tuple[str, str], ...]:
        """Return what to send.

        Raises:
            ValueError: The token is not one, or the id is not visible ASCII of at most 128.
        """
        entries = self._own
        if self._token is not None:
            token = self._token if isinstance(self._token, str) else self._token()
            entries = (*entries, (_AUTHORIZATION_KEY, _bearer(token)))
        if request_id:
            if len(request_id) > _MAX_REQUEST_ID_CHARACTERS or not _VISIBLE.fullmatch(request_id):
                raise ValueError(
                    f"request_id {request_id!r} is not 1..{_MAX_REQUEST_ID_CHARACTERS} "
                    "visible ASCII characters"
                )
            entries = (*entries, (_REQUEST_ID_KEY, request_id))
        return entries


def _check(key: str, value: str) -> None:
    if not _KEY.fullmatch(key) or key.startswith("grpc-") or key.endswith("-bin"):
        raise ValueError(
            f"metadata key {key!r} is not of lower-case letters, digits and _.-, or is gRPC's own"
        )
    if not _VALUE.fullmatch(value):
        raise ValueError(f"metadata[{key!r}] is empty, or not printable ASCII")


def _bearer(token: str) -> str:
    if not _VISIBLE.fullmatch(token):
        raise ValueError("token is empty, or not of visible ASCII characters")
    return f"Bearer {token}"
