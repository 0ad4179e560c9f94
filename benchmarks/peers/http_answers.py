"""What peers answer over HTTP, as arrays."""

from __future__ import annotations

import base64
import binascii
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]


class WrongAnswerError(Exception):
    """An answer is not what was asked for; the message says in which field."""


def vectors(answer: Any, num_texts: int) -> FloatArray:  # noqa: ANN401 - foreign JSON
    """Return OpenAI's embeddings, [num_texts, dimension] in the order of the texts.

    They may be lists of numbers or base64 of little-endian float32.

    Raises:
        WrongAnswerError: there are others than asked for.
    """
    rows: list[FloatArray | None] = [None] * num_texts
    for entry in _list(answer, "data"):
        rows[_index(entry, num_texts)] = _vector(entry.get("embedding"))
    found = [row for row in rows if row is not None]
    if len(found) != num_texts or len({len(row) for row in found}) != 1:
        raise WrongAnswerError(f"data: {len(found)} vectors of one length, {num_texts} expected")
    return np.stack(found)


def scores(answer: Any, num_documents: int) -> FloatArray:  # noqa: ANN401 - foreign JSON
    """Return the scores of a rerank in the order of the request's documents.

    Raises:
        WrongAnswerError: a document has none.
    """
    found = np.full(num_documents, np.nan, np.float32)
    for entry in _list(answer, "results"):
        score = entry.get("relevance_score")
        if not isinstance(score, int | float):
            raise WrongAnswerError(f"relevance_score: {score!r} is not a number")
        found[_index(entry, num_documents)] = score
    if missing := int(np.isnan(found).sum()):
        raise WrongAnswerError(f"results: {missing} of {num_documents} documents have no score")
    return found


def _list(answer: Any, field: str) -> list[dict[str, Any]]:  # noqa: ANN401 - foreign JSON
    found = answer.get(field) if isinstance(answer, dict) else None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise WrongAnswerError(f"{field}: not a list of objects")
    return found


def _index(entry: dict[str, Any], count: int) -> int:
    index = entry.get("index")
    if not isinstance(index, int) or not 0 <= index < count:
        raise WrongAnswerError(f"index: {index!r} is not between 0 and {count - 1}")
    return index


def _vector(value: object) -> FloatArray:
    try:
        if isinstance(value, str):
            return np.frombuffer(base64.b64decode(value, validate=True), "<f4")
        return np.array(value, np.float32)
    except (binascii.Error, TypeError, ValueError) as error:
        raise WrongAnswerError(f"embedding: {error}") from error
