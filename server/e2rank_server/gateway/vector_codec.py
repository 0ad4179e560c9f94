"""Vectors on the wire: little-endian bytes to normalised float32 rows, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from e2rank.v1 import rerank_pb2, types_pb2
from e2rank_server.gateway.limits import GatewayLimits
from e2rank_server.gateway.violations import Violations, utf8_length
from e2rank_server.types import FloatArray, ModelDescription

_DTYPES: Mapping[int, np.dtype[np.floating]] = {
    types_pb2.VECTOR_ENCODING_FLOAT32: np.dtype("<f4"),
    types_pb2.VECTOR_ENCODING_FLOAT16: np.dtype("<f2"),
}


def decode_vectors(
    documents: Iterable[rerank_pb2.Document],
    model: ModelDescription,
    limits: GatewayLimits,
    violations: Violations,
) -> dict[int, FloatArray]:
    """Return the documents' vectors by index: float32 [dimension], L2-normalised.

    A vector that breaks a rule is noted in `violations` and left out.
    """
    data: dict[int, list[tuple[int, bytes]]] = {encoding: [] for encoding in _DTYPES}
    for index, document in enumerate(documents):
        if not document.HasField("vector"):
            continue
        vector = document.vector
        if _is_well_formed(f"documents[{index}].vector", vector, model, limits, violations):
            data[vector.encoding].append((index, vector.data))
    rows: dict[int, FloatArray] = {}
    for encoding, indexed in data.items():
        if indexed:
            rows.update(_normalised(indexed, _DTYPES[encoding], model.dimension, violations))
    return rows


def check_encoding(field: str, encoding: int, violations: Violations) -> None:
    """Note an encoding that is not one of VectorEncoding's element types."""
    if encoding == types_pb2.VECTOR_ENCODING_UNSPECIFIED:
        violations.add(field, "must be set")
    elif encoding not in _DTYPES:
        violations.add(field, f"{encoding} is not a value of VectorEncoding")


def encode_matrix(
    matrix: types_pb2.VectorMatrix,
    vectors: FloatArray,
    encoding: types_pb2.VectorEncoding,
    model: ModelDescription,
) -> None:
    """Fill `matrix` with the rows of `vectors` (float32 [n, dimension]) in `encoding`."""
    matrix.data = vectors.astype(_DTYPES[encoding], copy=False).tobytes()
    matrix.encoding = encoding
    matrix.dimension = model.dimension
    matrix.model_fingerprint = model.fingerprint


def _is_well_formed(
    field: str,
    vector: types_pb2.Vector,
    model: ModelDescription,
    limits: GatewayLimits,
    violations: Violations,
) -> bool:
    """Check all but the elements; note what is wrong."""
    fingerprint = vector.model_fingerprint
    if fingerprint != model.fingerprint:
        # The rest would only be judged by the wrong model's measure.
        _note_fingerprint(f"{field}.model_fingerprint", fingerprint, model, limits, violations)
        return False
    dtype = _DTYPES.get(vector.encoding)
    if dtype is None:
        check_encoding(f"{field}.encoding", vector.encoding, violations)
    elif vector.dimension != model.dimension:
        violations.add(
            f"{field}.dimension", f"is {vector.dimension}, but the model's is {model.dimension}"
        )
    elif len(vector.data) != model.dimension * dtype.itemsize:
        violations.add(
            f"{field}.data",
            f"has {len(vector.data)} bytes, but {model.dimension} elements of "
            f"{dtype.itemsize} bytes take {model.dimension * dtype.itemsize}",
        )
    else:
        return True
    return False


def _note_fingerprint(
    field: str,
    fingerprint: str,
    model: ModelDescription,
    limits: GatewayLimits,
    violations: Violations,
) -> None:
    if not fingerprint:
        violations.add(field, "must be set: GetModel returns it")
    elif utf8_length(fingerprint) > limits.max_name_bytes:
        violations.check_size(field, utf8_length(fingerprint), limits.max_name_bytes)
    else:
        violations.add_mismatch(field, fingerprint, model.fingerprint)


def _normalised(
    indexed: Sequence[tuple[int, bytes]],
    dtype: np.dtype[np.floating],
    dimension: int,
    violations: Violations,
) -> dict[int, FloatArray]:
    # float64, so that no finite float32 vector overflows or underflows when squared.
    raw = np.frombuffer(b"".join(data for _, data in indexed), dtype)
    matrix = raw.astype(np.float64).reshape(len(indexed), dimension)
    with np.errstate(all="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", matrix, matrix))
        normalised = (matrix / norms[:, np.newaxis]).astype(np.float32)
    rows: dict[int, FloatArray] = {}
    for (index, _), norm, row in zip(indexed, norms.tolist(), normalised, strict=True):
        if not np.isfinite(norm):
            violations.add(f"documents[{index}].vector.data", "has elements that are not finite")
        elif norm == 0.0:
            violations.add(f"documents[{index}].vector.data", "has norm zero")
        else:
            rows[index] = row
    return rows
