"""Requests of an exact size, whose documents bring their vectors, so that nothing is embedded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from e2rank.v1 import rerank_pb2, types_pb2

# The prefix of a query of 128 to 16383 bytes has the same two bytes.
_SHORT_QUERY = "which of these is the longest? ".ljust(128, ".")
_MAX_QUERY_BYTES = 16383
# A text's length and its document's grow by so many bytes at most when it is filled.
_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class VectorSpace:
    """What a vector has to say of itself to be taken."""

    dimension: int
    fingerprint: str

    def vector(self) -> types_pb2.Vector:
        """Make any vector."""
        return types_pb2.Vector(
            data=np.ones(self.dimension, "<f4").tobytes(),
            encoding=types_pb2.VECTOR_ENCODING_FLOAT32,
            dimension=self.dimension,
            model_fingerprint=self.fingerprint,
        )


def request_of_size(num_bytes: int, num_documents: int, space: VectorSpace) -> bytes:
    """Make a COSINE request of exactly `num_bytes`, with texts of equal length.

    Raises:
        ValueError: so many documents do not fit, or are too many to fill so many bytes evenly.
    """
    request = rerank_pb2.RerankRequest(query=_SHORT_QUERY)
    request.cosine.SetInParent()
    for index in range(num_documents):
        request.documents.add(id=f"d{index}", text="x", vector=space.vector())
    room = (num_bytes - request.ByteSize()) // num_documents - _LENGTH_BYTES
    for document in request.documents:
        document.text = "x" * max(room, 1)
    missing = num_bytes - request.ByteSize()
    if not 0 <= missing <= _MAX_QUERY_BYTES - len(_SHORT_QUERY):
        raise ValueError(f"{num_documents} documents do not fill {num_bytes} bytes")
    request.query = _SHORT_QUERY + "." * missing
    return request.SerializeToString()
