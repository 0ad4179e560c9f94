"""What passages are called in a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from string import ascii_uppercase

_MAX_NUMBERS = 1000


class IdentifierKind(StrEnum):
    """How passages are counted: 1, 2, 3 or A, B, C."""

    NUMBERS = "NUMBERS"
    LETTERS = "LETTERS"

    @property
    def max_passages(self) -> int:
        """How many passages can be named."""
        return len(ascii_uppercase) if self is IdentifierKind.LETTERS else _MAX_NUMBERS

    def names(self, num: int) -> Sequence[str]:
        """Return the names of the first `num` passages. Raises ValueError for too many."""
        if num > self.max_passages:
            raise ValueError(f"{num} passages: {self} name at most {self.max_passages}")
        if self is IdentifierKind.LETTERS:
            return ascii_uppercase[:num]
        return [str(number) for number in range(1, num + 1)]

    def position(self, name: str) -> int:
        """Return the position from 0 that an ASCII name stands for, -1 if it names nothing.

        Letters may be small, numbers may have leading zeros or a minus sign.
        """
        if self is IdentifierKind.LETTERS:
            return ascii_uppercase.find(name.upper())
        # int() refuses thousands of digits.
        digits = name.lstrip("0")
        return int(digits) - 1 if digits.isdigit() and len(digits) <= 6 else -1
