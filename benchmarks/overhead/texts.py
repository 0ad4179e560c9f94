"""Queries and passages of a wanted size, from the demo's collection: prose, and never the same."""

from __future__ import annotations

import random
from pathlib import Path

from benchmarks.collection import read_collection

_COLLECTION = Path(__file__).resolve().parent.parent / "demo" / "collection"
_SEED = 20


class Texts:
    """An endless, repeatable supply of texts."""

    def __init__(self, seed: int = _SEED) -> None:
        collection = read_collection(_COLLECTION)
        self._words = " ".join(each.full_text for each in collection.documents).split()
        self._queries = list(collection.queries.values())
        self._numbers = random.Random(seed)  # noqa: S311 - chooses texts
        self._count = 0

    def query(self) -> str:
        """Return a question that was not returned before."""
        self._count += 1
        return f"{self._numbers.choice(self._queries)} {self._count}"

    def passage(self, num_words: int) -> str:
        """Return so many words from anywhere in the collection, the first of them a number."""
        self._count += 1
        start = self._numbers.randrange(len(self._words) - num_words)
        return " ".join([str(self._count), *self._words[start : start + num_words - 1]])

    def passage_of_bytes(self, num_bytes: int) -> str:
        """Return a passage of exactly so many bytes, all of them ASCII."""
        # The shortest word has one letter and its space.
        text = self.passage(num_bytes // 2 + 1).encode("ascii", "ignore")[:num_bytes].decode()
        return text.rstrip().ljust(num_bytes, ".")

    def shuffled(self, passages: list[str]) -> list[str]:
        """Return the same passages in a new order."""
        return self._numbers.sample(passages, len(passages))
