import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2rank_server.embedding_cache.keys import KEY_BYTES
from e2rank_server.embedding_cache.values import (
    OVERHEAD_BYTES,
    ElementType,
    ValueCodec,
    row_codec,
)
from e2rank_server.types import FloatArray

DIMENSION = 24
# Of an element of a unit vector: half a unit in the last place of 11 bits, of 127 steps.
TOLERANCE = {ElementType.FLOAT32: 0, ElementType.FLOAT16: 2**-12, ElementType.INT8: 1 / 127}


def unit_vectors(count: int, seed: int = 0) -> FloatArray:
    rows = np.random.default_rng(seed).standard_normal((count, DIMENSION))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def keys(count: int) -> list[bytes]:
    return [os.urandom(KEY_BYTES) for _ in range(count)]


def untouched(count: int) -> FloatArray:
    return np.full((count, DIMENSION), -1, dtype=np.float32)


@pytest.mark.parametrize("element_type", ElementType)
@given(count=st.integers(0, 20), seed=st.integers(0, 2**32))
def test_rows_come_back_within_the_element_types_tolerance(
    element_type: ElementType, count: int, seed: int
) -> None:
    codec = row_codec(element_type, DIMENSION)
    vectors = unit_vectors(count, seed)
    rows = codec.encode(vectors)
    assert rows.shape == (count, codec.row_bytes)
    assert codec.is_valid(rows).all()
    out = untouched(count)
    codec.decode(rows, out)
    np.testing.assert_allclose(out, vectors, rtol=0, atol=TOLERANCE[element_type])


def test_every_finite_half_is_decoded_as_numpy_casts_it() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)].reshape(2, -1)
    out = np.empty(halves.shape, dtype=np.float32)
    row_codec(ElementType.FLOAT16, halves.shape[1]).decode(halves.view(np.uint8), out)
    np.testing.assert_array_equal(out.view(np.uint32), halves.astype(np.float32).view(np.uint32))


@pytest.mark.parametrize("element_type", ElementType)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_not_valid(element_type: ElementType, wrong: float) -> None:
    codec = row_codec(element_type, DIMENSION)
    vectors = unit_vectors(3)
    vectors[1, 5] = wrong
    assert codec.is_valid(codec.encode(vectors)).tolist() == [True, False, True]


def test_what_a_half_cannot_hold_makes_a_row_that_is_not_valid() -> None:
    codec = row_codec(ElementType.FLOAT16, DIMENSION)
    assert codec.is_valid(codec.encode(unit_vectors(1) * 1e6)).tolist() == [False]


@pytest.mark.parametrize("length", [1e-30, 1e-3, 1.0, 1e6])
def test_int8_rows_come_back_normalised(length: float) -> None:
    codec = row_codec(ElementType.INT8, DIMENSION)
    out = untouched(50)
    vectors = unit_vectors(50)
    codec.decode(codec.encode(vectors * np.float32(length)), out)
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1, rtol=1e-6)
    assert ((out * vectors).sum(axis=1) > 0.999).all()


def test_zeros_have_no_direction_and_stay_zeros() -> None:
    for element_type in ElementType:
        codec = row_codec(element_type, DIMENSION)
        out = untouched(1)
        codec.decode(codec.encode(np.zeros((1, DIMENSION), np.float32)), out)
        assert not out.any()


@pytest.mark.parametrize("element_type", ElementType)
def test_values_are_believed_under_their_keys(element_type: ElementType) -> None:
    codec, names, vectors = ValueCodec(DIMENSION, element_type), keys(4), unit_vectors(4)
    values = codec.encode(names, vectors)
    row_bytes = row_codec(element_type, DIMENSION).row_bytes
    assert {len(value) for value in values} == {OVERHEAD_BYTES + row_bytes}
    out = untouched(4)
    assert codec.decode(names, values, out).all()
    np.testing.assert_allclose(out, vectors, atol=TOLERANCE[element_type])


def test_what_was_not_found_is_not_believed_and_its_row_left_alone() -> None:
    codec, names, vectors = ValueCodec(DIMENSION), keys(3), unit_vectors(3)
    values: list[bytes | None] = list(codec.encode(names, vectors))
    values[1] = None
    out = untouched(3)
    assert codec.decode(names, values, out).tolist() == [True, False, True]
    np.testing.assert_array_equal(out[[1]], untouched(1))
    np.testing.assert_allclose(out[[0, 2]], vectors[[0, 2]], atol=2**-12)
    assert codec.decode([], [], untouched(0)).shape == (0,)


def test_another_key_is_refused() -> None:
    codec, names = ValueCodec(DIMENSION), keys(2)
    values = codec.encode(names, unit_vectors(2))
    assert not codec.decode(names[::-1], values, untouched(2)).any()


@pytest.mark.parametrize("element_type", ElementType)
def test_each_flipped_bit_and_each_torn_end_is_refused(element_type: ElementType) -> None:
    codec, names = ValueCodec(DIMENSION, element_type), keys(1)
    [value] = codec.encode(names, unit_vectors(1))
    torn = [value[:length] for length in range(len(value))] + [value + b"\0"]
    flipped = []
    for bit in range(8 * len(value)):
        changed = bytearray(value)
        changed[bit // 8] ^= 1 << bit % 8
        flipped.append(bytes(changed))
    wrong = torn + flipped
    out = untouched(len(wrong))
    assert not codec.decode(names * len(wrong), wrong, out).any()
    np.testing.assert_array_equal(out, untouched(len(wrong)))


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=100), max_size=5))
def test_rubbish_is_refused(values: list[bytes]) -> None:
    out = untouched(len(values))
    assert not ValueCodec(DIMENSION).decode(keys(len(values)), values, out).any()


def test_another_dimension_is_refused() -> None:
    names = keys(1)
    values = ValueCodec(2 * DIMENSION, ElementType.FLOAT16).encode(
        names, np.tile(unit_vectors(1), (1, 2))
    )
    # As long as theirs in another element type, or not: neither is ours.
    for element_type in ElementType:
        codec = ValueCodec(DIMENSION, element_type)
        assert not codec.decode(names, values, untouched(1)).any()


@pytest.mark.parametrize(("position", "wrong"), [(0, b"X"), (2, b"\2"), (3, b"\t")])
def test_another_magic_version_or_element_type_is_refused_whole(
    position: int, wrong: bytes
) -> None:
    names = keys(1)
    codec = ValueCodec(DIMENSION)
    [value] = codec.encode(names, unit_vectors(1))
    body = value[:position] + wrong + value[position + 1 : -4]
    assert not codec.decode(names, [checked(names[0], body)], untouched(1)).any()


@pytest.mark.parametrize("element_type", ElementType)
def test_a_value_that_holds_nan_is_refused_though_it_is_whole(element_type: ElementType) -> None:
    codec, names, vectors = ValueCodec(DIMENSION, element_type), keys(3), unit_vectors(3)
    vectors[1, 0] = np.nan
    out = untouched(3)
    believed = codec.decode(names, codec.encode(names, vectors), out)
    assert believed.tolist() == [True, False, True]
    np.testing.assert_array_equal(out[[1]], untouched(1))
    np.testing.assert_allclose(out[[2]], vectors[[2]], atol=TOLERANCE[element_type])


def test_values_of_all_element_types_are_readable_whichever_is_configured() -> None:
    names, vectors = keys(6), unit_vectors(6)
    mixed = [
        ValueCodec(DIMENSION, element_type).encode([name], vectors[[row]])[0]
        for row, (name, element_type) in enumerate(zip(names, [*ElementType] * 2, strict=True))
    ]
    for configured in ElementType:
        out = untouched(6)
        assert ValueCodec(DIMENSION, configured).decode(names, mixed, out).all()
        np.testing.assert_allclose(out, vectors, atol=TOLERANCE[ElementType.INT8])


def test_the_format_is_as_documented() -> None:
    [name] = keys(1)
    vectors = unit_vectors(1)
    header = struct.pack("<2sBBI", b"E2", 1, 2, DIMENSION)
    expected = checked(name, header + vectors.astype("<f2").tobytes())
    assert ValueCodec(DIMENSION).encode([name], vectors) == [expected]


def checked(key: bytes, body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(key + body))
