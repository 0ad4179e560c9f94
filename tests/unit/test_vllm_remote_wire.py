"""Answers of a vLLM server, good and bad."""

from __future__ import annotations

import contextlib
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2rank_server.embedder.vllm_remote.failure import FailureReason, ReplicaError
from e2rank_server.embedder.vllm_remote.wire import served_model, unit_rows

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["data", "id", "max_model_len"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def models(*cards: dict[str, object]) -> bytes:
    return json.dumps({"object": "list", "data": cards}).encode()


@given(st.lists(st.floats(width=32), min_size=4, max_size=4))
def test_rows_come_out_with_length_1_or_not_at_all(elements: list[float]) -> None:
    vectors = None
    with contextlib.suppress(ReplicaError):
        vectors = unit_rows(np.array(elements, "<f4").tobytes(), 2)
    if vectors is not None:
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
def test_one_bad_row_spoils_the_answer(bad: float) -> None:
    answer = np.array([[1, 1], [bad, 0]], "<f4").tobytes()
    with pytest.raises(ReplicaError, match="zero or not finite") as caught:
        unit_rows(answer, 2)
    assert caught.value.reason is FailureReason.NONSENSE


def test_the_model_is_found_under_one_of_its_names() -> None:
    answer = models({"id": "adapter", "max_model_len": None}, {"id": "b", "max_model_len": 512})
    assert served_model(answer, {"a", "b"}, 512) == "b"


def test_a_model_under_both_names_is_ambiguous() -> None:
    cards = [{"id": name, "max_model_len": 512} for name in "ab"]
    with pytest.raises(ReplicaError, match="serves 'a', 'b'; expected exactly one of 'a', 'b'"):
        served_model(models(*cards), {"a", "b"}, 512)


@given(JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=20))
def test_whatever_else_is_listed_is_an_error_of_the_replica(answer: bytes) -> None:
    with pytest.raises(ReplicaError):
        served_model(answer, {"the model of the profile"}, 512)
