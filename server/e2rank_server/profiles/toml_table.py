"""Strict reading of a TOML table, with all its problems reported together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, TypeVar

Choice = TypeVar("Choice", bound=StrEnum)


class TomlTable:
    """Takes values out of a table and notes what is wrong with them.

    A wrong or missing value is noted in `problems`, which the tables inside
    share, and something of the right type stands for it, so that reading goes on.
    """

    def __init__(self, values: Mapping[str, Any], problems: list[str], path: str = "") -> None:
        self._values = dict(values)
        self._problems = problems
        self._path = path

    def text(self, key: str, default: str | None = None) -> str:
        """Take a string; required unless there is a default."""
        value = self._take(key, str, "a string", default)
        return value if isinstance(value, str) else ""

    def flag(self, key: str) -> bool:
        """Take true or false."""
        return self._take(key, bool, "true or false") is True

    def positive(self, key: str) -> int:
        """Take a required integer of at least 1."""
        value = self._take(key, int, "a positive integer")
        return self._at_least_one(key, value) if isinstance(value, int) else 1

    def optional_positive(self, key: str) -> int | None:
        """Take an integer of at least 1, or None if the key is absent."""
        return self.positive(key) if key in self._values else None

    def choice(self, key: str, choices: Iterable[Choice]) -> Choice:
        """Take one of an enumeration's values, or of some of them."""
        value = self._take(key, str, "a string")
        by_value = {choice.value: choice for choice in choices}
        if isinstance(value, str) and value not in by_value:
            self._note(key, f"{value!r} is none of {', '.join(by_value)}")
        return by_value.get(str(value), next(iter(by_value.values())))

    def texts(self, key: str) -> tuple[str, ...]:
        """Take a list of non-empty strings."""
        value = self._take(key, list, "a list of strings")
        texts = value if isinstance(value, list) else []
        if not all(isinstance(text, str) and text for text in texts):
            self._note(key, "must be a list of non-empty strings")
            return ()
        return tuple(texts)

    def table(self, key: str) -> TomlTable:
        """Take a table inside this one."""
        value = self._take(key, dict, "a table")
        return TomlTable(value if isinstance(value, dict) else {}, self._problems, self._at(key))

    def tables(self) -> dict[str, TomlTable]:
        """Take everything that is left, all of it tables."""
        return {key: self.table(key) for key in list(self._values)}

    def finish(self) -> None:
        """Note every key that nobody has taken."""
        for key in self._values:
            self._note(key, "unknown key")

    def _take(self, key: str, kind: type, expected: str, default: object = None) -> object:
        if key not in self._values:
            if default is None:
                self._note(key, f"missing; expected {expected}")
            return default
        value = self._values.pop(key)
        # bool is a subclass of int, and `max_tokens = true` is a mistake.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self._note(key, f"{value!r} is not {expected}")
            return None
        return value

    def _at_least_one(self, key: str, value: int) -> int:
        if value < 1:
            self._note(key, f"{value} is not a positive integer")
        return max(value, 1)

    def _at(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def _note(self, key: str, problem: str) -> None:
        self._problems.append(f"{self._at(key)}: {problem}")
