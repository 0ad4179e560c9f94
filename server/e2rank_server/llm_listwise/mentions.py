"""Where an LLM's output names passages, and which of the names belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from e2rank_server.llm_listwise.identifiers import IdentifierKind

# A name is no part of a word ("3rd", "a"), a decimal (0.95) or a percentage. "_" parts words.
_NAME = {
    IdentifierKind.NUMBERS: re.compile(
        r"(?<![^\W_])(?<!\.)-?[0-9]+(?![^\W_]|\.[0-9]|\s?%)", re.ASCII
    ),
    IdentifierKind.LETTERS: re.compile(r"(?<![^\W_])[A-Za-z](?![^\W_])"),
}
_LABEL = r"(?:passage|document|doc|identifier|id)"
_OPENING = re.compile(rf"\[\s*(?:{_LABEL}[\s#:_]*)?[\"']?$", re.IGNORECASE)
_LABELLED = re.compile(rf"{_LABEL}[\s#:_\"'*\[(-]*$", re.IGNORECASE)
_LIST_OPENING = re.compile(r"\[[\s\"']*$")
_CONTEXT_CHARACTERS = 24
"""How far around a name is looked; it bounds the work on hostile outputs."""

CHAIN_GAP = re.compile(
    rf"[\s\])}}*\"'`]*[-=]*>+[\s\[({{*\"'`#]*(?:{_LABEL}[\s#:_\[]*)?", re.IGNORECASE
)
"""Between the names of `[3] > [1]`."""
LIST_GAP = re.compile(r"[\s\"']*,[\s\"']*")
"""Between the names of `[3, 1]`."""
LOOSE_GAP = re.compile(r"[\s,;|\"'\[\](){}*`-]+(?:and[\s\"'\[(*]+)?", re.IGNORECASE)
"""Between the names of `[3], [1] and [2]`, in lines or in one."""


class Mention(NamedTuple):
    """One name in a text: where it stands, and the position it means, -1 if out of range."""

    start: int
    end: int
    position: int
    is_bracketed: bool


def find_mentions(text: str, kind: IdentifierKind, num_passages: int) -> list[Mention]:
    """Return all names in a text, in its order. A small letter is a name in brackets only."""
    mentions: list[Mention] = []
    for match in _NAME[kind].finditer(text):
        start, end = match.span()
        is_bracketed = _is_bracketed(text, start, end)
        if kind is IdentifierKind.LETTERS and not (is_bracketed or match[0].isupper()):
            continue
        position = kind.position(match[0])
        in_range = position if position < num_passages else -1
        mentions.append(Mention(start, end, in_range, is_bracketed))
    return mentions


def longest_run(text: str, mentions: Sequence[Mention], gap: re.Pattern[str]) -> list[Mention]:
    """Return the run that names most passages, the last of equals; none if no two are linked.

    A run is of mentions that follow one another with nothing but `gap` between them.
    """
    runs = [run for run in _runs(text, mentions, gap) if len(run) > 1]
    return max(reversed(runs), key=_num_named, default=[])


def longest_list(text: str, mentions: Sequence[Mention]) -> list[Mention]:
    """Return the list in one pair of brackets that names most passages, the last of equals.

    A list that is cut off at the text's end counts.
    """
    lists = [
        run
        for run in _runs(text, mentions, LIST_GAP)
        if len(run) > 1 and _LIST_OPENING.search(_before(text, run[0].start))
    ]
    return max(reversed(lists), key=_num_named, default=[])


def labelled(text: str, mentions: Iterable[Mention]) -> list[Mention]:
    """Return those that stand behind a word such as "Passage" or `"id":`."""
    return [mention for mention in mentions if _LABELLED.search(_before(text, mention.start))]


def named(mentions: Iterable[Mention]) -> set[int]:
    """Return the positions that are named, without those out of range."""
    return {mention.position for mention in mentions if mention.position >= 0}


def _runs(text: str, mentions: Sequence[Mention], gap: re.Pattern[str]) -> list[list[Mention]]:
    runs: list[list[Mention]] = []
    for mention in mentions:
        if runs and _is_linked(text, runs[-1][-1], mention, gap):
            runs[-1].append(mention)
        else:
            runs.append([mention])
    return runs


def _is_linked(text: str, left: Mention, right: Mention, gap: re.Pattern[str]) -> bool:
    if right.start - left.end > _CONTEXT_CHARACTERS:
        return False
    return gap.fullmatch(text, left.end, right.start) is not None


def _num_named(run: Iterable[Mention]) -> int:
    return len(named(run))


def _is_bracketed(text: str, start: int, end: int) -> bool:
    behind = text[end : end + 4].lstrip(" \"'")
    return behind.startswith("]") and _OPENING.search(_before(text, start)) is not None


def _before(text: str, start: int) -> str:
    return text[max(start - _CONTEXT_CHARACTERS, 0) : start]
