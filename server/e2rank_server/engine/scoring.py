"""From vectors to an order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from e2rank_server.types import FloatArray, ScoreScaling, VectorPrfOptions


def cosine_scores(vectors: FloatArray, prompt_vector: FloatArray) -> FloatArray:
    """Return the cosine of each row of `vectors` [n, dimension] with `prompt_vector`: [n].

    Both are L2-normalised, so that the dot product is the cosine. It is summed
    in float64 and rounded to float32: the order of summation, which depends on
    a row's place in memory, then cannot make equal documents differ.

    Raises:
        ArithmeticError: a score is not a number; sorting it would scramble the rest.
    """
    scores = (vectors.astype(np.float64) @ prompt_vector.astype(np.float64)).astype(np.float32)
    if not np.isfinite(scores).all():
        raise ArithmeticError("a score is not finite")
    return scores


def best_first(scores: FloatArray) -> NDArray[np.intp]:
    """Return positions by descending score; equal scores keep their order."""
    return np.argsort(-scores, kind="stable")


def feedback_vector(
    query_vector: FloatArray, vectors: FloatArray, options: VectorPrfOptions
) -> FloatArray:
    """Move a query's vector towards the documents that the first stage put first: [dimension].

    That is q + weight x mean(d_1 .. d_k), L2-normalised: Rocchio's feedback on embeddings,
    without its negative part (Vector-PRF, arXiv:2108.11044).
    """
    feedback = vectors[: options.feedback_documents].mean(axis=0, dtype=np.float64)
    moved = query_vector + options.feedback_weight * feedback
    length = float(np.linalg.norm(moved))
    # Documents that point away from the query exactly leave nothing to compare with.
    return query_vector if length == 0.0 else (moved / length).astype(np.float32)


def scale_first_stage_scores(scores: Sequence[float], scaling: ScoreScaling) -> list[str]:
    """Write first-stage scores as they stand in a prompt (InsertRank, arXiv:2506.14086).

    RAW has three decimals, as the community's templates do. MIN_MAX and PERCENT
    map the candidates' range to 0..1 and 0..100; where all are equal, to the top.
    """
    if scaling is ScoreScaling.RAW:
        return [f"{score:.3f}" for score in scores]
    low, high = min(scores), max(scores)
    span = high - low
    unit = [(score - low) / span if span else 1.0 for score in scores]
    if scaling is ScoreScaling.MIN_MAX:
        return [f"{value:.3f}" for value in unit]
    return [f"{100 * value:.0f}" for value in unit]
