"""The first stage: BM25 as Lucene computes it, k1 0.9 and b 0.4 as Anserini sets them.

Tokens are runs of letters, digits and underscores, lower-cased, without
Lucene's 33 English stop words, stemmed by Porter's algorithm. Title and text
are one field.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import bm25s
import Stemmer  # type: ignore[import-not-found,import-untyped,unused-ignore]  # PyStemmer

from benchmarks.collection import CollectionDocument, Exclusions, Run

K1, B = 0.9, 0.4
TOKENIZATION = "lower case, words of letters and digits, Lucene's English stop words, Porter stems"
_TOKEN_PATTERN = r"(?u)\b\w+\b"  # noqa: S105 - a pattern, no password


class Bm25:
    """An index of documents."""

    def __init__(self, documents: Sequence[CollectionDocument]) -> None:
        self._ids = [document.id for document in documents]
        self._stemmer = Stemmer.Stemmer("porter")
        self._index = bm25s.BM25(k1=K1, b=B, method="lucene")
        tokens = self._tokenize([document.full_text for document in documents])
        self._index.index(tokens, show_progress=False)

    def rank(
        self, queries: dict[str, str], *, depth: int, excluded: Exclusions | None = None
    ) -> Run:
        """Rank the best `depth` documents for each query; fewer if fewer match.

        Those that are `excluded` for a query take no place.
        """
        barred = excluded or {}
        most = max((len(barred.get(query_id, ())) for query_id in queries), default=0)
        found, scores = self._index.retrieve(
            self._tokenize(list(queries.values())),
            k=min(depth + most, len(self._ids)),
            show_progress=False,
        )
        run: Run = {}
        for query_id, row, row_scores in zip(queries, found, scores, strict=True):
            ranked = (
                (self._ids[position], float(score))
                for position, score in zip(row, row_scores, strict=True)
                if score > 0 and self._ids[position] not in barred.get(query_id, ())
            )
            run[query_id] = dict(islice(ranked, depth))
        return run

    def _tokenize(self, texts: list[str]) -> Any:  # noqa: ANN401 - bm25s has no types
        return bm25s.tokenize(
            texts,
            stopwords="english",
            token_pattern=_TOKEN_PATTERN,
            stemmer=self._stemmer,
            show_progress=False,
        )
