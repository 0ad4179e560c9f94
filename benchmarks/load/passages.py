"""Documents of a wanted length that cost next to nothing to make: prose, and each one different."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

from benchmarks.collection import read_collection

_COLLECTION = Path(__file__).resolve().parent.parent / "demo" / "collection"
_STRIDE = 7919
"""A prime: neighbouring numbers begin at words far apart."""


class Passages:
    """An endless supply, the same for the same seed.

    A passage is a cut from one long text, found by the place where its words
    begin, so that making 100 of them takes some 50 µs; sending them takes 20 times that.
    """

    def __init__(self, num_words: int, seed: int) -> None:
        words = " ".join(each.full_text for each in read_collection(_COLLECTION).documents).split()
        self._text = " ".join(words)
        self._num_words = num_words
        self._seed = seed
        self._count = 0
        self._starts = [0, *accumulate(len(word) + 1 for word in words)]
        self._num_starts = len(words) - num_words

    def numbered(self, number: int) -> str:
        """Return the document of that number, the same for every seed."""
        return self._cut(str(number), number)

    def new(self) -> str:
        """Return one that neither this method nor one of another seed returned before."""
        self._count += 1
        return self._cut(f"{self._seed}-{self._count}", self._seed + self._count)

    def _cut(self, name: str, number: int) -> str:
        """Return so many words, the first of them the name."""
        first = number * _STRIDE % self._num_starts
        begin, end = self._starts[first], self._starts[first + self._num_words - 1]
        return f"{name} {self._text[begin:end]}".rstrip()
