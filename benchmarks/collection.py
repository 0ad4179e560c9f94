"""Test collections in BEIR's layout: corpus.jsonl, queries.jsonl, qrels, and excluded_ids.tsv."""

from __future__ import annotations

import json
import random
from collections.abc import Collection as Container
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

Qrels: TypeAlias = dict[str, dict[str, int]]
"""Judgments: query id → document id → grade, 0 for not relevant."""

Run: TypeAlias = dict[str, dict[str, float]]
"""A ranking of documents for each query: query id → document id → score."""

Exclusions: TypeAlias = dict[str, frozenset[str]]
"""Documents that a query must not be given: query id → document ids."""

QRELS_FILE = "qrels/test.tsv"
_QRELS_FILES = (QRELS_FILE, "qrels.tsv")
EXCLUDED_FILE = "excluded_ids.tsv"
"""A heading, then query-id and corpus-id: BRIGHT's `excluded_ids`."""


class CollectionError(Exception):
    """A folder does not hold a collection; the message names the file and line."""


@dataclass(frozen=True, slots=True)
class CollectionDocument:
    """A document; `title` is empty if it has none."""

    id: str
    title: str
    text: str

    @property
    def full_text(self) -> str:
        """Title and text as the first stage reads them."""
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents, the judged queries in file order, and the judgments. `name` is the folder's.

    `excluded` has the documents that do not count for a query: they are neither
    candidates nor evaluated.
    """

    name: str
    documents: tuple[CollectionDocument, ...]
    queries: dict[str, str]
    qrels: Qrels
    excluded: Exclusions = field(default_factory=dict)

    def sampled(self, num_queries: int, *, seed: int) -> Collection:
        """Keep so many queries, drawn by `seed`, with their judgments, and all documents."""
        if num_queries >= len(self.queries):
            return self
        drawn = random.Random(seed).sample(list(self.queries), num_queries)  # noqa: S311 - no secret
        return self.of_queries(set(drawn))

    def of_queries(self, query_ids: Container[str]) -> Collection:
        """Keep these queries with their judgments, in file order, and all documents."""
        kept = {each: text for each, text in self.queries.items() if each in query_ids}
        return replace(self, queries=kept, qrels={each: self.qrels[each] for each in kept})

    def without_excluded(self, run: Run) -> Run:
        """Return a run without what is excluded for its queries."""
        return {
            query_id: {
                document_id: score
                for document_id, score in ranking.items()
                if document_id not in self.excluded.get(query_id, ())
            }
            for query_id, ranking in run.items()
        }


def read_collection(folder: Path) -> Collection:
    """Read a folder; queries without a judgment are left out.

    Documents with an empty text and title are left out, too: there is nothing to rank.

    Raises:
        CollectionError: A file is missing or malformed.
    """
    documents = _read_documents(folder)
    qrels = _read_qrels(folder)
    queries = {
        _text(value, "_id", where): _text(value, "text", where)
        for where, value in _json_lines(folder / "queries.jsonl")
    }
    judged = {query_id: text for query_id, text in queries.items() if query_id in qrels}
    if missing := sorted(qrels.keys() - queries.keys()):
        raise CollectionError(f"{folder.name}: judged but not in queries.jsonl: {missing[:5]}")
    if not documents or not judged:
        raise CollectionError(f"{folder.name}: no documents or no judged queries")
    name, excluded = folder.resolve().name, _read_excluded(folder)
    return Collection(name, tuple(documents.values()), judged, qrels, excluded)


def _read_documents(folder: Path) -> dict[str, CollectionDocument]:
    documents: dict[str, CollectionDocument] = {}
    for where, value in _json_lines(folder / "corpus.jsonl"):
        document = CollectionDocument(
            _text(value, "_id", where),
            _text(value, "title", where, ""),
            _text(value, "text", where),
        )
        if document.id in documents:
            raise CollectionError(f"{where}: `_id` {document.id!r} occurs twice")
        if document.full_text:
            documents[document.id] = document
    return documents


def _json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not file.is_file():
        raise CollectionError(f"{file.parent.name}: no {file.name}")
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{file.name} line {number}"
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise CollectionError(f"{where}: not JSON: {error.msg}") from error
            if not isinstance(value, dict):
                raise CollectionError(f"{where}: not an object")
            yield where, value


def _text(value: dict[str, Any], key: str, where: str, default: str | None = None) -> str:
    found = value.get(key, default)
    if not isinstance(found, str):
        raise CollectionError(f"{where}: `{key}` is not a string")
    return found.strip()


def _read_qrels(folder: Path) -> Qrels:
    file = next((folder / name for name in _QRELS_FILES if (folder / name).is_file()), None)
    if file is None:
        raise CollectionError(f"{folder.name}: neither {' nor '.join(_QRELS_FILES)}")
    qrels: Qrels = {}
    lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines[1:], start=2):  # the first line is a heading
        parts = line.split("\t")
        if len(parts) != 3 or not parts[2].lstrip("-").isdigit():
            raise CollectionError(f"{file.name} line {number}: not query-id, corpus-id, score")
        qrels.setdefault(parts[0], {})[parts[1]] = int(parts[2])
    return qrels


def _read_excluded(folder: Path) -> Exclusions:
    file = folder / EXCLUDED_FILE
    if not file.is_file():
        return {}
    excluded: dict[str, set[str]] = {}
    lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines[1:], start=2):
        parts = line.split("\t")
        if len(parts) != 2:
            raise CollectionError(f"{file.name} line {number}: not query-id, corpus-id")
        excluded.setdefault(parts[0], set()).add(parts[1])
    return {query_id: frozenset(ids) for query_id, ids in excluded.items()}
