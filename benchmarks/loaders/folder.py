"""Writes a collection as a folder that `benchmarks.collection` reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.collection import EXCLUDED_FILE, QRELS_FILE, CollectionDocument
from benchmarks.loaders.conversion import ConversionError, Converted


@dataclass(frozen=True, slots=True)
class Written:
    """What a folder holds, and what was left out of it."""

    documents: int
    queries: int
    judgments: int
    repeated_documents: int
    """Their id was there already."""
    judgments_without_query: int


def write_folder(
    folder: Path, converted: Converted, advance: Callable[[], None] = lambda: None
) -> Written:
    """Write corpus.jsonl, queries.jsonl, qrels/test.tsv and, if any, excluded_ids.tsv.

    Judgments of queries that are not there are left out, and documents whose id
    was there before; `advance` is called for each document read. Each file is
    written whole or not at all, the judgments last.

    Raises:
        ConversionError: An id has a tab or a line break, or is empty.
    """
    qrels = {each: found for each, found in converted.qrels.items() if each in converted.queries}
    corpus = _Corpus(converted.documents, advance)
    _write_lines(folder / "corpus.jsonl", corpus.lines())
    _write_lines(
        folder / "queries.jsonl",
        (_json({"_id": _id(each), "text": text}) for each, text in converted.queries.items()),
    )
    if converted.excluded:
        pairs = ((q, d) for q, ids in converted.excluded.items() for d in sorted(ids))
        _write_lines(folder / EXCLUDED_FILE, _table(["query-id", "corpus-id"], pairs))
    judgments = [(q, d, str(grade)) for q, found in qrels.items() for d, grade in found.items()]
    _write_lines(folder / QRELS_FILE, _table(["query-id", "corpus-id", "score"], judgments))
    return Written(
        documents=corpus.written,
        queries=len(converted.queries),
        judgments=len(judgments),
        repeated_documents=corpus.repeated,
        judgments_without_query=sum(map(len, converted.qrels.values())) - len(judgments),
    )


class _Corpus:
    """Writes documents once each, and counts them."""

    def __init__(
        self, documents: Iterable[CollectionDocument], advance: Callable[[], None]
    ) -> None:
        self._documents = documents
        self._advance = advance
        self.written = self.repeated = 0

    def lines(self) -> Iterator[str]:
        seen: set[str] = set()
        for document in self._documents:
            self._advance()
            if document.id in seen:
                self.repeated += 1
                continue
            seen.add(document.id)
            self.written += 1
            row = {"_id": _id(document.id), "title": document.title, "text": document.text}
            yield _json(row)


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "\t".join(heading)
    for row in rows:
        yield "\t".join(_id(each) for each in row)


def _id(text: str) -> str:
    # The reader takes white space around an id for layout.
    if not text or text != text.strip() or len(text.splitlines()) > 1 or "\t" in text:
        raise ConversionError(f"{text!r} is no id: empty, or with a tab or line break, or padded")
    return text


def _json(row: dict[str, str]) -> str:
    return json.dumps(row, ensure_ascii=False)


def _write_lines(file: Path, lines: Iterable[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.tmp")
    with draft.open("w", encoding="utf-8") as output:
        for line in lines:
            output.write(f"{line}\n")
    draft.replace(file)
