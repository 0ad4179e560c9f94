"""First-stage scores for a prompt: the caller's, or BM25 over the candidates alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from e2rank_server.engine.scoring import scale_first_stage_scores
from e2rank_server.errors import InvalidRequestError
from e2rank_server.types import AnswerWarning, Document, FirstStageScores, ScoreSource, WarningCode

# As Anserini sets them for Lucene.
_K1, _B = 0.9, 0.4
_WORDS = r"(?u)\b\w+\b"


async def first_stage_scores(
    wanted: FirstStageScores,
    query: str,
    documents: Sequence[Document],
    positions: Sequence[int],
) -> list[str]:
    """Return each candidate's own score as it stands in a prompt, scaled over all of them.

    `positions` are the candidates' places in the request. For CANDIDATE_BM25 all
    of them have their texts.

    Raises:
        InvalidRequestError: the caller's scores are wanted, and a candidate has none.
    """
    if wanted.source is ScoreSource.CANDIDATE_BM25:
        texts = [f"{document.title or ''} {document.text}" for document in documents]
        scores = await asyncio.to_thread(candidate_bm25, query, texts)
        return scale_first_stage_scores(scores, wanted.scaling)
    given = [document.first_stage_score for document in documents]
    if None in given:
        raise InvalidRequestError.of(
            f"documents[{positions[given.index(None)]}].first_stage_score",
            "is needed, since the options ask for scores in the prompt",
        )
    return scale_first_stage_scores([score for score in given if score is not None], wanted.scaling)


def candidate_bm25(query: str, texts: Sequence[str]) -> list[float]:
    """Score texts by BM25 (Lucene's, k1 0.9, b 0.4) as if they were the whole collection.

    Words are runs of letters and digits in lower case, neither stemmed nor stopped, so
    that it serves any language that has words.
    """
    import bm25s

    tokenized = bm25s.tokenize([*texts, query], stopwords=None, token_pattern=_WORDS, **_SILENT)
    *document_ids, query_ids = tokenized.ids
    if not query_ids or not any(document_ids):
        return [0.0] * len(texts)
    index = bm25s.BM25(k1=_K1, b=_B, method="lucene")
    index.index((document_ids, tokenized.vocab), **_SILENT)
    scores: list[float] = index.get_scores_from_ids(query_ids).astype(np.float64).tolist()
    return scores


def first_stage_warnings(wanted: FirstStageScores | None) -> list[AnswerWarning]:
    """Warn of scores that are not what they would be over a collection."""
    if wanted is None or wanted.source is not ScoreSource.CANDIDATE_BM25:
        return []
    message = (
        "first-stage scores were computed over the candidates alone: a collection's BM25 differs"
    )
    return [AnswerWarning(WarningCode.CANDIDATE_BM25, message)]


_SILENT = {"show_progress": False}
