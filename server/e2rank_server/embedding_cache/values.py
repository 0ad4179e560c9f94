"""How vectors are kept: as rows of an arena, and as self-describing bytes in a second tier.

A row is a vector in an element type, packed into `RowCodec.row_bytes` bytes.
FLOAT16 rounds each element to 11 significant bits; INT8 keeps a scale beside
the elements, so that its rows come back L2-normalised.

A value is, little-endian: magic `E2`, format version, element type, dimension
(uint32), row, CRC-32 (uint32) of the key and of all that. With the key in it, a
value found under another key is refused. The checksum tells accidents from
vectors; it does not keep out somebody who may write to the store.
Values of all element types are readable whichever is configured, so a change of
that setting rolls through the replicas without emptying what they share.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from enum import StrEnum
from struct import Struct
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from e2rank_server.types import FloatArray

FORMAT_VERSION = 1
_MAGIC = b"E2"
_PREFIX = Struct("<2sBBI")  # magic, format version, element type, dimension
_CHECKSUM = Struct("<I")
OVERHEAD_BYTES = _PREFIX.size + _CHECKSUM.size

# What a CRC-32 becomes, whatever the data, by going on over its own bytes.
_CHECKED = zlib.crc32(_CHECKSUM.pack(zlib.crc32(b"")))

Rows = NDArray[np.uint8]
"""Packed vectors: uint8 [n, row_bytes], C-contiguous."""


class ElementType(StrEnum):
    """What vectors are kept as; they are float32 everywhere else."""

    FLOAT32 = "FLOAT32"
    FLOAT16 = "FLOAT16"
    INT8 = "INT8"


class RowCodec(Protocol):
    """Packs vectors of one dimension into rows and back, vectorised."""

    row_bytes: int

    def encode(self, vectors: FloatArray) -> Rows:
        """Pack float32 [n, dimension]. What a row cannot hold makes it one that is not valid."""
        ...

    def is_valid(self, rows: Rows) -> NDArray[np.bool_]:
        """Return for each row whether all its elements are finite, [n]."""
        ...

    def decode(self, rows: Rows, out: FloatArray) -> None:
        """Unpack valid rows into `out`, float32 [n, dimension], C-contiguous."""
        ...


class _Float32Rows:
    def __init__(self, dimension: int) -> None:
        self.row_bytes = 4 * dimension

    def encode(self, vectors: FloatArray) -> Rows:
        return np.ascontiguousarray(vectors, dtype="<f4").view(np.uint8)

    def is_valid(self, rows: Rows) -> NDArray[np.bool_]:
        valid: NDArray[np.bool_] = np.isfinite(rows.view("<f4")).all(axis=1)
        return valid

    def decode(self, rows: Rows, out: FloatArray) -> None:
        out[:] = rows.view("<f4")


class _Float16Rows:
    """IEEE 754 halves. A quarter of the time of NumPy's own cast, which goes element by element.

    A half has its exponent and significand in bits 0 to 14, a float32 has them
    13 bits higher and counts its exponent from 127 rather than 15. So a shift
    and a product with 2^112 convert all finite halves exactly, subnormal ones
    included.
    """

    _EXPONENT = np.uint16(0x7C00)
    _SIGN_EXPONENT_SIGNIFICAND = np.uint32(0x8FFFE000)
    _REBIAS = np.float32(2.0 ** (127 - 15))

    def __init__(self, dimension: int) -> None:
        self.row_bytes = 2 * dimension

    def encode(self, vectors: FloatArray) -> Rows:
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(vectors.astype("<f2")).view(np.uint8)

    def is_valid(self, rows: Rows) -> NDArray[np.bool_]:
        exponents = rows.view("<u2") & self._EXPONENT
        valid: NDArray[np.bool_] = (exponents != self._EXPONENT).all(axis=1)
        return valid

    def decode(self, rows: Rows, out: FloatArray) -> None:
        # The sign-extending cast puts a copy of the sign where the shift moves it to bit 31.
        bits = out.view(np.int32)
        bits[:] = rows.view("<i2")
        np.left_shift(bits, 13, out=bits)
        np.bitwise_and(
            out.view(np.uint32), self._SIGN_EXPONENT_SIGNIFICAND, out=out.view(np.uint32)
        )
        np.multiply(out, self._REBIAS, out=out)


class _Int8Rows:
    """Symmetric: elements of -127 to 127 and, after them, a float32 that makes the norm 1."""

    _LARGEST = np.float32(127)

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self.row_bytes = dimension + 4

    def encode(self, vectors: FloatArray) -> Rows:
        rows = np.empty((len(vectors), self.row_bytes), dtype=np.uint8)
        largest = np.abs(vectors).max(axis=1, initial=0, keepdims=True)
        is_finite = np.isfinite(largest)
        steps = self._LARGEST / np.where(is_finite & (largest > 0), largest, 1)
        elements = np.rint(np.where(is_finite, vectors, 0) * steps)
        norms = np.linalg.norm(elements, axis=1, keepdims=True)
        rows[:, : self._dimension] = elements.astype(np.int8).view(np.uint8)
        scales = np.where(is_finite, 1 / np.maximum(norms, 1), np.nan).astype("<f4")
        rows[:, self._dimension :] = scales.view(np.uint8)
        return rows

    def is_valid(self, rows: Rows) -> NDArray[np.bool_]:
        return np.isfinite(self._scales(rows)[:, 0])

    def decode(self, rows: Rows, out: FloatArray) -> None:
        np.multiply(rows[:, : self._dimension].view(np.int8), self._scales(rows), out=out)

    def _scales(self, rows: Rows) -> NDArray[np.float32]:
        return rows[:, self._dimension :].view("<f4")


def row_codec(element_type: ElementType, dimension: int) -> RowCodec:
    """Return what packs vectors of `dimension` as `element_type`."""
    match element_type:
        case ElementType.FLOAT32:
            return _Float32Rows(dimension)
        case ElementType.FLOAT16:
            return _Float16Rows(dimension)
        case ElementType.INT8:
            return _Int8Rows(dimension)


_CODES = {ElementType.FLOAT32: 1, ElementType.FLOAT16: 2, ElementType.INT8: 3}


class ValueCodec:
    """Makes values of vectors of one dimension, and reads those of every element type."""

    def __init__(self, dimension: int, element_type: ElementType = ElementType.FLOAT16) -> None:
        self._dimension = dimension
        self._codecs = {
            _PREFIX.pack(_MAGIC, FORMAT_VERSION, code, dimension): row_codec(kind, dimension)
            for kind, code in _CODES.items()
        }
        self._prefix = _PREFIX.pack(_MAGIC, FORMAT_VERSION, _CODES[element_type], dimension)

    def encode(self, keys: Sequence[bytes], vectors: FloatArray) -> list[bytes]:
        """Return the value of each key; `vectors` is float32 [keys, dimension]."""
        rows = self._codecs[self._prefix].encode(vectors)
        values = (self._prefix + row.tobytes() for row in rows)
        return [
            value + _CHECKSUM.pack(zlib.crc32(value, zlib.crc32(key)))
            for key, value in zip(keys, values, strict=True)
        ]

    def decode(
        self, keys: Sequence[bytes], values: Sequence[bytes | None], out: FloatArray
    ) -> NDArray[np.bool_]:
        """Write the vectors of believed values into their rows of `out`; return which, [keys].

        `out` is float32 [keys, dimension]; its other rows are left as they are.
        None is a value that was not found. Any other that is not believed is
        torn, foreign, of another dimension or version, or not finite.
        """
        believed = np.zeros(len(keys), dtype=np.bool_)
        for prefix, positions in self._whole(keys, values).items():
            codec = self._codecs[prefix]
            joined = b"".join([values[at] for at in positions])  # type: ignore[misc] # not None
            columns = np.frombuffer(joined, np.uint8).reshape(len(positions), -1)
            rows = np.ascontiguousarray(columns[:, _PREFIX.size : -_CHECKSUM.size])
            rows_at = np.array(positions)
            valid = codec.is_valid(rows)
            if not valid.all():
                rows, rows_at = rows[valid], rows_at[valid]
            vectors = np.empty((len(rows), self._dimension), dtype=np.float32)
            codec.decode(rows, vectors)
            out[rows_at] = vectors
            believed[rows_at] = True
        return believed

    def _whole(
        self, keys: Sequence[bytes], values: Sequence[bytes | None]
    ) -> dict[bytes, list[int]]:
        """Return the positions of whole values of these keys, by their prefix."""
        found: dict[bytes, list[int]] = {}
        for at, (key, value) in enumerate(zip(keys, values, strict=True)):
            if value is None:
                continue
            prefix = value[: _PREFIX.size]
            codec = self._codecs.get(prefix)
            if codec is None or len(value) != OVERHEAD_BYTES + codec.row_bytes:
                continue
            if zlib.crc32(value, zlib.crc32(key)) == _CHECKED:
                found.setdefault(prefix, []).append(at)
        return found
