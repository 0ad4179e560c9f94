"""From a hub's tables to a collection. A table is its rows, each a mapping from column to value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from benchmarks.collection import CollectionDocument, Exclusions, Qrels

Row: TypeAlias = Mapping[str, Any]
Table: TypeAlias = Iterable[Row]

_NO_EXCLUSION = "N/A"
"""What stands in BRIGHT's `excluded_ids` where there are none."""


class ConversionError(Exception):
    """A table is not as its owners describe it; the message names table, row and column."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A collection whose documents are read once, as they are written."""

    documents: Iterable[CollectionDocument]
    queries: Mapping[str, str]
    qrels: Qrels
    excluded: Exclusions = field(default_factory=dict)


def from_beir(corpus: Table, queries: Table, qrels: Table) -> Converted:
    """Convert BeIR/<name> (`corpus`, `queries`: _id, title, text) and BeIR/<name>-qrels.

    The judgments' columns are query-id, corpus-id and score.
    """
    return Converted(
        documents=_documents(corpus, id_column="_id", text_column="text", title_column="title"),
        queries={
            _text(row, "_id", where): _text(row, "text", where)
            for where, row in _rows("queries", queries)
        },
        qrels=_judgments(qrels, query_column="query-id", document_column="corpus-id"),
    )


def from_bright(documents: Table, examples: Table) -> Converted:
    """Convert a task of xlangai/BRIGHT: `documents` (id, content) and `examples`.

    Of these id, query, gold_ids and excluded_ids are read; the tables of reasoned
    queries have the same columns, with the reasoning as `query`.

    Raises:
        ConversionError: A document is gold and excluded, which would lose its judgment.
    """
    queries: dict[str, str] = {}
    qrels: Qrels = {}
    excluded: Exclusions = {}
    for where, row in _rows("examples", examples):
        query_id = _text(row, "id", where)
        queries[query_id] = _text(row, "query", where)
        qrels[query_id] = dict.fromkeys(_texts(row, "gold_ids", where), 1)
        barred = frozenset(_texts(row, "excluded_ids", where)) - {_NO_EXCLUSION}
        if both := sorted(barred & qrels[query_id].keys()):
            raise ConversionError(f"{where}: in `gold_ids` and in `excluded_ids`: {both[:5]}")
        if barred:
            excluded[query_id] = barred
    read = _documents(documents, id_column="id", text_column="content")
    return Converted(read, queries, qrels, excluded)


def from_r2med(corpus: Table, query: Table, qrels: Table) -> Converted:
    """Convert R2MED/<name>: `corpus` and `query` (id, text), `qrels` (q_id, p_id, score)."""
    return Converted(
        documents=_documents(corpus, id_column="id", text_column="text"),
        queries={
            _text(row, "id", where): _text(row, "text", where)
            for where, row in _rows("query", query)
        },
        qrels=_judgments(qrels, query_column="q_id", document_column="p_id"),
    )


def _rows(table: str, rows: Table) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(rows, start=1):
        yield f"{table} row {number}", row


def _documents(
    table: Table, *, id_column: str, text_column: str, title_column: str | None = None
) -> Iterator[CollectionDocument]:
    for where, row in _rows("documents", table):
        title = "" if title_column is None else _text(row, title_column, where, "")
        yield CollectionDocument(
            _text(row, id_column, where), title, _text(row, text_column, where)
        )


def _judgments(table: Table, *, query_column: str, document_column: str) -> Qrels:
    qrels: Qrels = {}
    for where, row in _rows("qrels", table):
        grade = _grade(row, where)
        query_id = _text(row, query_column, where)
        qrels.setdefault(query_id, {})[_text(row, document_column, where)] = grade
    return qrels


def _text(row: Row, column: str, where: str, default: str | None = None) -> str:
    """Read a text; ids are numbers in some tables."""
    value = row.get(column)
    if value is None:
        value = default
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ConversionError(f"{where}: `{column}` is not a text: {value!r}")
    return value


def _grade(row: Row, where: str) -> int:
    """Read a judgment; some tables have them as texts, or as numbers with a fraction of zero."""
    score = row.get("score")
    try:
        grade = float(str(score))
    except ValueError:
        grade = float("nan")
    if not grade.is_integer():
        raise ConversionError(f"{where}: `score` {score!r} is not a whole number")
    return int(grade)


def _texts(row: Row, column: str, where: str) -> list[str]:
    values = row.get(column)
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise ConversionError(f"{where}: `{column}` is not a list of texts: {values!r}")
    return values
