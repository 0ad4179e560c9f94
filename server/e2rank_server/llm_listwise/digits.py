"""Digits and signs in which models dress up identifiers, as plain ASCII."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
# In escapes, since most of them look like the ASCII signs: full-width, angle, mathematical
# and arrow forms of ">", then full-width, lenticular and tortoise-shell brackets.
_SIGNS = {
    **dict.fromkeys("\uff1e\u203a\xbb\u227b\u2192\u21d2", ">"),
    **dict.fromkeys("\uff3b\u3010\u3014", "["),
    **dict.fromkeys("\uff3d\u3011\u3015", "]"),
}
_MAX_CIRCLED = 50
"""There are circled numbers up to here."""


def plain_digits(text: str) -> str:
    """Write full-width, superscript, subscript and circled digits, brackets and arrows as ASCII.

    A circled number is a number of its own, so that `①②` is 1 and 2, not 12.
    """
    return _NOT_ASCII.sub(lambda match: _plain(match[0]), text).replace("&gt;", ">")


@lru_cache(maxsize=1024)
def _plain(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    number = unicodedata.numeric(character, -1)
    category = unicodedata.category(character)
    # Ideographs and Roman numerals are numeric as well, but they are letters.
    if category not in {"Nd", "No"} or number != int(number) or not 0 <= number <= _MAX_CIRCLED:
        return character
    name = unicodedata.name(character)
    is_digit = category == "Nd" or name.startswith(("SUPERSCRIPT", "SUBSCRIPT"))
    return str(int(number)) if is_digit else f" {int(number)} "
