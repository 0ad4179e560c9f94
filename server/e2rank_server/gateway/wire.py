"""Says where a message that protobuf refuses to parse is broken.

protobuf itself only says that it is. This walk over the wire format runs on
the failure path alone.
"""

from __future__ import annotations

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from e2rank_server.errors import InvalidRequestError

_VARINT, _FIXED64, _DELIMITED, _START_GROUP, _END_GROUP, _FIXED32 = range(6)
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BYTES = 10
_MAX_DEPTH = 100  # protobuf's own
_MAX_STEPS = 20_000
"""Fields looked at: bounds the time that a hostile message can take from others (about 20 ms)."""


def explain_parse_failure(data: bytes, descriptor: Descriptor) -> InvalidRequestError:
    """Return an error that names the first broken field of `data`."""
    try:
        _Walk(data).message(descriptor, len(data), "", 0)
    except InvalidRequestError as error:
        return error
    return InvalidRequestError.of("request", f"is not a valid {descriptor.full_name}")


class _Walk:
    """A position in the bytes, moving forward."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._steps = 0

    def message(self, descriptor: Descriptor | None, end: int, path: str, depth: int) -> None:
        """Go through one message that ends at `end`; unknown ones have no descriptor."""
        counts: dict[int, int] = {}
        while self._position < end:
            number, wire_type = self._key(end, path)
            field = descriptor.fields_by_number.get(number) if descriptor else None
            field_path = path
            if field is not None:
                field_path = _join(path, field, counts.get(number, 0))
                counts[number] = counts.get(number, 0) + 1
            if wire_type == _DELIMITED:
                self._delimited(field, end, field_path, depth)
            elif wire_type == _START_GROUP:
                self._group(number, end, field_path)
            elif wire_type == _VARINT:
                self._varint(end, field_path)
            elif wire_type in _FIXED_BYTES:
                self._advance(_FIXED_BYTES[wire_type], end, field_path)
            else:
                raise _malformed(path, f"has the impossible wire type {wire_type}")

    def _key(self, end: int, path: str) -> tuple[int, int]:
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise _malformed("", "is too long to say where")
        key = self._varint(end, path)
        if key >> 3 == 0 or key >> 32:
            raise _malformed(path, "has an impossible field number")
        return key >> 3, key & 7

    def _varint(self, end: int, path: str) -> int:
        value = 0
        for count in range(_MAX_VARINT_BYTES):
            if self._position >= end:
                raise _malformed(path, "ends in the middle of a number")
            byte = self._data[self._position]
            self._position += 1
            value |= (byte & 0x7F) << (7 * count)
            if byte < 0x80:
                return value
        raise _malformed(path, "has a number of more than ten bytes")

    def _advance(self, size: int, end: int, path: str) -> None:
        if self._position + size > end:
            raise _malformed(path, f"claims {size} bytes, but {end - self._position} are left")
        self._position += size

    def _delimited(self, field: FieldDescriptor | None, end: int, path: str, depth: int) -> None:
        size = self._varint(end, path)
        start = self._position
        self._advance(size, end, path)
        if field is None:
            return
        if field.type == FieldDescriptor.TYPE_STRING:
            _check_utf8(self._data[start : self._position], path)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            if depth >= _MAX_DEPTH:
                raise _malformed("", f"nests deeper than {_MAX_DEPTH} messages")
            self._position = start
            self.message(field.message_type, start + size, path, depth + 1)

    def _group(self, number: int, end: int, path: str) -> None:
        """Skip a group: nothing of ours uses them, so it is unknown whatever it holds."""
        open_groups = [number]
        while open_groups:
            number, wire_type = self._key(end, path)
            if wire_type == _START_GROUP:
                open_groups.append(number)
            elif wire_type == _END_GROUP:
                if open_groups.pop() != number:
                    raise _malformed(path, "ends a group that was not begun")
            elif wire_type == _DELIMITED:
                self._delimited(None, end, path, 0)
            elif wire_type == _VARINT:
                self._varint(end, path)
            elif wire_type in _FIXED_BYTES:
                self._advance(_FIXED_BYTES[wire_type], end, path)
            else:
                raise _malformed(path, f"has the impossible wire type {wire_type}")


def _join(path: str, field: FieldDescriptor, index: int) -> str:
    name = f"{field.name}[{index}]" if field.is_repeated else field.name
    return f"{path}.{name}" if path else name


def _check_utf8(value: bytes, path: str) -> None:
    try:
        value.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError.of(
            path, f"is not valid UTF-8 at byte {error.start} ({error.reason})"
        ) from None


def _malformed(path: str, description: str) -> InvalidRequestError:
    return InvalidRequestError.of(path or "request", f"is not valid protobuf: {description}")
