"""Runs in TREC's format, six columns a line: query-id Q0 document-id rank score tag."""

from __future__ import annotations

import math
from pathlib import Path

from benchmarks.collection import Run

_COLUMNS = "query-id Q0 document-id rank score tag"


class TrecError(Exception):
    """A run cannot be read or written; the message names the file and line, or the id."""


def read_run(file: Path) -> Run:
    """Read a run; each query's documents come best score first, equal ones by rank.

    Raises:
        TrecError: The file is not there, or a line is malformed or repeats a document.
    """
    if not file.is_file():
        raise TrecError(f"{file.name}: no such file")
    ranked: dict[str, dict[str, tuple[float, int]]] = {}
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{file.name} line {number}"
            query_id, document_id, rank, score = _parse(line, where)
            ranking = ranked.setdefault(query_id, {})
            if document_id in ranking:
                raise TrecError(f"{where}: document {document_id!r} occurs twice for {query_id!r}")
            ranking[document_id] = (-score, rank)
    if not ranked:
        raise TrecError(f"{file.name}: no line")
    return {
        query_id: {each: -ranking[each][0] for each in sorted(ranking, key=ranking.__getitem__)}
        for query_id, ranking in ranked.items()
    }


def write_run(file: Path, run: Run, tag: str) -> None:
    """Write a run whose documents come best first, whole or not at all.

    Raises:
        TrecError: An id or the tag has white space, which the format cannot hold.
    """
    lines = []
    for query_id, ranking in run.items():
        for rank, (document_id, score) in enumerate(ranking.items(), start=1):
            for word in (query_id, document_id, tag):
                if len(word.split()) != 1:
                    raise TrecError(f"{word!r} is empty or has white space: not for TREC's format")
            lines.append(f"{query_id} Q0 {document_id} {rank} {score!r} {tag}\n")
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.tmp")
    draft.write_text("".join(lines), encoding="utf-8")
    draft.replace(file)


def _parse(line: str, where: str) -> tuple[str, str, int, float]:
    parts = line.split()
    if len(parts) != 6:
        raise TrecError(f"{where}: {len(parts)} columns, not the six of {_COLUMNS}")
    query_id, _, document_id, rank, score, _ = parts
    if not (rank.isascii() and rank.isdigit()):
        raise TrecError(f"{where}: rank {rank!r} is not a number from 0")
    try:
        value = float(score)
    except ValueError:
        raise TrecError(f"{where}: score {score!r} is not a number") from None
    if not math.isfinite(value):
        raise TrecError(f"{where}: score {score!r} is not finite")
    return query_id, document_id, int(rank), value
