import numpy as np
import pytest

from e2rank_server.engine.scoring import (
    best_first,
    cosine_scores,
    feedback_vector,
    scale_first_stage_scores,
)
from e2rank_server.types import ScoreScaling, VectorPrfOptions


def test_equal_scores_keep_the_request_order() -> None:
    scores = np.array([0.5, 0.9, 0.5, 0.9, 0.1], dtype=np.float32)
    assert best_first(scores).tolist() == [1, 3, 0, 2, 4]


def test_equal_vectors_score_equally_wherever_they_stand() -> None:
    generator = np.random.default_rng(0)
    vector = generator.normal(size=384).astype(np.float32)
    prompt = generator.normal(size=384).astype(np.float32)
    for number in range(1, 70):
        vectors = generator.normal(size=(number + 1, 384)).astype(np.float32)
        vectors[0] = vectors[-1] = vector
        scores = cosine_scores(vectors, prompt)
        assert scores[0] == scores[-1]


def test_scores_are_cosines() -> None:
    vectors = np.array([[1, 0], [0.6, 0.8], [-1, 0]], dtype=np.float32)
    scores = cosine_scores(vectors, np.array([1, 0], dtype=np.float32))
    np.testing.assert_allclose(scores, [1, 0.6, -1], atol=1e-7)


def test_a_score_that_is_not_a_number_is_refused_before_sorting() -> None:
    vectors = np.array([[1, 0], [np.nan, 0]], dtype=np.float32)
    with pytest.raises(ArithmeticError, match="not finite"):
        cosine_scores(vectors, np.array([1, 0], dtype=np.float32))


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        (ScoreScaling.RAW, ["10.000", "7.346", "2.000"]),
        (ScoreScaling.MIN_MAX, ["1.000", "0.668", "0.000"]),
        (ScoreScaling.PERCENT, ["100", "67", "0"]),
    ],
)
def test_first_stage_scores_are_scaled_over_all_candidates(
    scaling: ScoreScaling, expected: list[str]
) -> None:
    assert scale_first_stage_scores([10.0, 7.3456, 2.0], scaling) == expected


def test_equal_first_stage_scores_scale_to_the_top() -> None:
    assert scale_first_stage_scores([3.0, 3.0], ScoreScaling.MIN_MAX) == ["1.000", "1.000"]
    assert scale_first_stage_scores([3.0], ScoreScaling.PERCENT) == ["100"]


def test_feedback_adds_the_weighted_mean_of_the_first_documents() -> None:
    query = np.array([1, 0, 0], np.float32)
    vectors = np.array([[0, 1, 0], [0, 0, 1], [0, 0, -1]], np.float32)
    moved = feedback_vector(query, vectors, VectorPrfOptions(2, 0.8))
    expected = np.array([1, 0.4, 0.4]) / np.sqrt(1 + 2 * 0.4**2)
    assert moved.dtype == np.float32
    assert moved == pytest.approx(expected)


def test_feedback_of_weight_zero_leaves_the_query() -> None:
    query = np.array([0.6, 0.8], np.float32)
    vectors = np.array([[0, 1]], np.float32)
    assert feedback_vector(query, vectors, VectorPrfOptions(5, 0.0)) == pytest.approx(query)


def test_feedback_that_cancels_the_query_is_left_out() -> None:
    query = np.array([1, 0], np.float32)
    vectors = np.array([[-1, 0]], np.float32)
    assert feedback_vector(query, vectors, VectorPrfOptions(1, 1.0)).tolist() == [1, 0]
