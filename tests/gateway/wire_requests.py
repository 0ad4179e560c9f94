"""Valid requests, to be spoilt one field at a time."""

from __future__ import annotations

import numpy as np

from e2rank.v1 import embedding_pb2, rerank_pb2, types_pb2
from tests.fakes import DESCRIPTION


def rerank_request(num_documents: int = 2, **fields: object) -> rerank_pb2.RerankRequest:
    documents = [
        rerank_pb2.Document(id=f"d{index}", text=f"text {index}") for index in range(num_documents)
    ]
    return rerank_pb2.RerankRequest(**{"query": "which one", "documents": documents, **fields})


def embed_request(**fields: object) -> embedding_pb2.EmbedRequest:
    values = {
        "input_type": embedding_pb2.INPUT_TYPE_DOCUMENT,
        "inputs": [embedding_pb2.TextInput(text="text 0"), embedding_pb2.TextInput(text="text 1")],
    }
    return embedding_pb2.EmbedRequest(**{**values, **fields})


def vector(*elements: float, dtype: str = "<f4", **fields: object) -> types_pb2.Vector:
    encoding = {"<f4": "FLOAT32", "<f2": "FLOAT16"}[dtype]
    with np.errstate(over="ignore"):
        data = np.array(elements or (1.0, 0.0, 0.0, 0.0)).astype(dtype).tobytes()
    values = {
        "data": data,
        "encoding": f"VECTOR_ENCODING_{encoding}",
        "dimension": len(data) // np.dtype(dtype).itemsize,
        "model_fingerprint": DESCRIPTION.fingerprint,
    }
    return types_pb2.Vector(**{**values, **fields})
