"""From what an LLM wrote to an order of all passages, whatever it wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from e2rank_server.llm_listwise.digits import plain_digits
from e2rank_server.llm_listwise.identifiers import IdentifierKind
from e2rank_server.llm_listwise.mentions import (
    CHAIN_GAP,
    LOOSE_GAP,
    Mention,
    find_mentions,
    labelled,
    longest_list,
    longest_run,
    named,
)
from e2rank_server.llm_listwise.refusals import reads_as_refusal

_MAX_CHARACTERS = 65_536
"""Of the end of an output, where the answer is. A thousand identifiers are less than 10,000."""
_END_OF_THOUGHT = "</think>"
_THOUGHT = "<think>"
_FENCE = "```"

_CHAIN = {
    IdentifierKind.NUMBERS: re.compile(r"\[[1-9][0-9]*\](?: > \[[1-9][0-9]*\])*", re.ASCII),
    IdentifierKind.LETTERS: re.compile(r"\[[A-Z]\](?: > \[[A-Z]\])*", re.ASCII),
}
_ARRAY = re.compile(r"\[\s*[1-9][0-9]*(?:\s*,\s*[1-9][0-9]*)*\s*\]", re.ASCII)
_LANGUAGE = re.compile(r"json\b", re.IGNORECASE)
_NAME = re.compile(r"[0-9]+|[A-Z]", re.ASCII)

# "the top 3", "20 passages": how many, not which.
_COUNT = re.compile(
    r"\b(?:top|all|these|following)[\s-]{1,3}[0-9]+\b"
    r"|\b[0-9]+\s{1,3}(?:passages|documents|results|candidates|items)\b",
    re.IGNORECASE,
)
_RANK = re.compile(r"^[ \t]*([0-9]{1,4})[.)][ \t]+", re.MULTILINE)


class AnswerForm(StrEnum):
    """What the order has to look like: `[2] > [1]`, or a JSON list that may follow reasoning."""

    CHAIN = "CHAIN"
    JSON_LIST = "JSON_LIST"


class Defect(StrEnum):
    """What is wrong with an output; the first that applies, in this order, OK last."""

    REFUSED = "REFUSED"
    """Blank, or declined: there is no order in it."""
    MALFORMED = "MALFORMED"
    """Of another form, or with identifiers that were not given."""
    REPETITION = "REPETITION"
    """Of the right form, but names a passage twice; its first place counts."""
    MISSING = "MISSING"
    """Of the right form, but leaves passages out; they follow in their order."""
    OK = "OK"


@dataclass(frozen=True, slots=True)
class ParsedOrder:
    """A permutation of the positions 0 to n - 1, best first, and what was wrong with the output."""

    order: tuple[int, ...]
    defect: Defect


def parse_order(
    text: str, num_passages: int, form: AnswerForm, kind: IdentifierKind
) -> ParsedOrder:
    """Read an order from an output: strictly, or as far as it can be.

    Only what follows the last `</think>` counts. Of an output of another form
    the best evidence counts: a chain, a list, identifiers in brackets, a row of
    bare ones, labelled ones ("Passage 3"), and only then any number. Passages
    that it does not name follow in their order.
    """
    answer = text.rpartition(_END_OF_THOUGHT)[2][-_MAX_CHARACTERS:].strip()
    names = _strict_names(answer, form, kind)
    if names is not None:
        return _judged([kind.position(name) for name in names], num_passages)
    plain = _without_counts(plain_digits(answer))
    is_thought = _THOUGHT in answer
    found = _ordered(plain, form, kind, num_passages)
    if not found and not is_thought:
        found = _bracketed_or_in_a_row(plain, kind, num_passages)
        if not found and reads_as_refusal(answer):
            return ParsedOrder(tuple(range(num_passages)), Defect.REFUSED)
        found = found or _scattered(plain, kind, num_passages)
    order = _completed([mention.position for mention in found], num_passages)
    return ParsedOrder(order, Defect.MALFORMED)


def _strict_names(answer: str, form: AnswerForm, kind: IdentifierKind) -> list[str] | None:
    """Return the identifiers of an answer of exactly the right form, or None."""
    if form is AnswerForm.CHAIN:
        return _NAME.findall(answer) if _CHAIN[kind].fullmatch(answer) else None
    if _THOUGHT in answer:
        return None
    before, *blocks = answer.split(_FENCE)
    if not blocks:
        start = max(before.rfind("["), 0)
        if not _ARRAY.fullmatch(before, start):
            return None
        names = _NAME.findall(before, start)
        # One number in brackets may be the end of anything, a chain for instance.
        return names if len(names) > 1 or start == 0 else None
    if len(blocks) % 2:
        return None
    block = _LANGUAGE.sub("", blocks[-2].strip(), count=1).strip()
    return _NAME.findall(block) if _ARRAY.fullmatch(block) else None


def _judged(positions: Sequence[int], num_passages: int) -> ParsedOrder:
    order = _completed(positions, num_passages)
    different = set(positions)
    if not different <= set(order):
        return ParsedOrder(order, Defect.MALFORMED)
    if len(different) < len(positions):
        return ParsedOrder(order, Defect.REPETITION)
    return ParsedOrder(order, Defect.OK if len(different) == num_passages else Defect.MISSING)


def _completed(positions: Sequence[int], num_passages: int) -> tuple[int, ...]:
    valid = [position for position in positions if 0 <= position < num_passages]
    return tuple(dict.fromkeys([*valid, *range(num_passages)]))


def _without_counts(text: str) -> str:
    """Remove numbers that count, and ranks 1, 2, 3 in front of lines if anything else is named."""
    text = _COUNT.sub(" ", text)
    ranks = _RANK.findall(text)
    if ranks != [str(rank) for rank in range(1, len(ranks) + 1)]:
        return text
    unranked = _RANK.sub("", text)
    return unranked if re.search(r"\b(?:[0-9]+|[A-Z])\b", unranked, re.ASCII) else text


def _ordered(text: str, form: AnswerForm, kind: IdentifierKind, num: int) -> list[Mention]:
    """Return the names of the best chain or list, the demanded form first."""
    mentions = find_mentions(text, kind, num)
    chain = longest_run(text, mentions, CHAIN_GAP)
    listed = _fenced_list(text, kind, num) or longest_list(text, mentions)
    best, other = (chain, listed) if form is AnswerForm.CHAIN else (listed, chain)
    return next((found for found in (best, other) if named(found)), [])


def _fenced_list(text: str, kind: IdentifierKind, num: int) -> list[Mention]:
    """Return the list in the last fenced block that has one; the block may be cut off."""
    for block in reversed(text.split(_FENCE)[1::2]):
        if listed := longest_list(block, find_mentions(block, kind, num)):
            return listed
    return []


def _bracketed_or_in_a_row(text: str, kind: IdentifierKind, num: int) -> list[Mention]:
    mentions = find_mentions(text, kind, num)
    bracketed = [mention for mention in mentions if mention.is_bracketed]
    if named(bracketed):
        # A row of all that are named anywhere is the answer, and the rest is talk about them.
        row = longest_run(text, bracketed, LOOSE_GAP)
        return row if named(row) == named(bracketed) else bracketed
    row = longest_run(text, mentions, LOOSE_GAP)
    return row if named(row) else []


def _scattered(text: str, kind: IdentifierKind, num: int) -> list[Mention]:
    """Return labelled names, or else all numbers; single letters are mostly words."""
    mentions = find_mentions(text, kind, num)
    with_label = labelled(text, mentions)
    if named(with_label):
        return with_label
    is_number = kind is IdentifierKind.NUMBERS
    return mentions if is_number or len(text.strip(" .:;*\"'")) == 1 else []
