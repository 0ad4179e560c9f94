"""Telling an output that declines the task from one that fails at it."""

from __future__ import annotations

import re

_OPENING_CHARACTERS = 400
"""A refusal says so at once; later on the same words are about passages."""

_REFUSAL = re.compile(
    r"""
    \b(?:sorry|apologi[sz]e|apologies|regret)\b
    | \b(?:can(?:no|['\u2019])?t|can\ not|unable\ to|not\ able\ to|won['\u2019]t|will\ not)\b
      .{0,40}?\b(?:rank|help|assist|comply|provide|fulfil|answer|complete|process|engage|do)
    | \bas\ an?\ (?:ai|artificial|large\ language|language)\b
    | \b(?:must|have\ to|need\ to|i)\ (?:respectfully\ )?(?:decline|refuse)\b
    | \bagainst\ (?:my|our|the)\b.{0,20}\b(?:guideline|polic|rule|principle)
    | \b(?:content|usage|safety)\ polic
    | \bnot\ (?:appropriate|comfortable|permitted|allowed)\b
    | 抱歉|对不起|對不起|無法|无法|不能|申し訳|できません
    | \bd[ée]sol[ée]e?\b | \blo\ siento\b | \btut\ mir\ leid\b
    """,
    re.IGNORECASE | re.VERBOSE,
)


def reads_as_refusal(text: str) -> bool:
    """Say whether a text without a usable order declines to give one, or is blank."""
    if not any(character.isprintable() and not character.isspace() for character in text):
        return True
    return _REFUSAL.search(text[:_OPENING_CHARACTERS]) is not None
