"""Collects everything wrong with a request, so that a caller learns it at once."""

from __future__ import annotations

from e2rank_server.errors import FieldViolation, InvalidRequestError, ModelMismatchError


class Violations:
    """The breaches found so far in one request."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []
        self._mismatch: ModelMismatchError | None = None

    def add(self, field: str, description: str) -> None:
        """Note that `field`, a path such as `documents[3].text`, breaks a rule."""
        self._found.append(FieldViolation(field, description))

    def add_mismatch(self, field: str, found: str, expected: str) -> None:
        """Note a vector of another model; the first is the one that is told."""
        if self._mismatch is None:
            self._mismatch = ModelMismatchError(field, found, expected)

    def check_size(self, field: str, num_bytes: int, max_bytes: int) -> None:
        """Note a field of more than `max_bytes`."""
        if num_bytes > max_bytes:
            self.add(field, f"has {num_bytes} bytes, more than the limit of {max_bytes}")

    def check_text(self, field: str, text: str, max_bytes: int) -> None:
        """Note a text that is blank or has more than `max_bytes`."""
        if not text or text.isspace():
            self.add(field, "must not be blank")
        else:
            self.check_size(field, utf8_length(text), max_bytes)

    def raise_if_any(self) -> None:
        """Raise InvalidRequestError with all breaches, or else the ModelMismatchError."""
        if self._found:
            raise InvalidRequestError(self._found)
        if self._mismatch is not None:
            raise self._mismatch


def utf8_length(text: str) -> int:
    """Count the UTF-8 bytes of `text`; for ASCII without making them."""
    return len(text) if text.isascii() else len(text.encode())
