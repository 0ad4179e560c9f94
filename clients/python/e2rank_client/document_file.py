"""Documents from a file: one a line, as JSON objects or as plain text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from e2rank_client.types import Document, StoredDocument


class DocumentFileError(Exception):
    """The file, or a line of it, does not hold documents."""


def read_documents(lines: Iterable[str]) -> list[Document]:
    """Read JSON Lines if the first line begins with a brace, else a text a line.

    Blank lines are skipped. A JSON object has `text` and may have `id` (or
    BEIR's `_id`), `title` and `first_stage_score`. Documents without an id are
    named by their line.

    Raises:
        DocumentFileError: naming the line.
    """
    try:
        numbered = [(n, line.strip()) for n, line in enumerate(lines, start=1) if line.strip()]
    except UnicodeDecodeError as error:
        raise DocumentFileError(f"the documents are not UTF-8: {error.reason}") from error
    if not numbered:
        raise DocumentFileError("there are no documents")
    if numbered[0][1].startswith("{"):
        return [_from_json(number, line) for number, line in numbered]
    return [Document(text=line, id=str(number)) for number, line in numbered]


def read_stored_document(number: int, line: bytes) -> StoredDocument:
    """Read a line of JSON as it is put: as for `read_documents`, but the id is required.

    Raises:
        DocumentFileError: naming the line.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise DocumentFileError(f"line {number}: not UTF-8: {error.reason}") from error
    value = _read_object(number, text)
    document_id = value.get("id", value.get("_id"))
    # Files have numbers for ids, too.
    if isinstance(document_id, int) and not isinstance(document_id, bool):
        document_id = str(document_id)
    if not isinstance(document_id, str) or not document_id:
        raise DocumentFileError(f"line {number}: expected a string `_id`, or `id`, that names it")
    return StoredDocument(document_id, value["text"], value.get("title"))


def _from_json(number: int, line: str) -> Document:
    value = _read_object(number, line)
    score = value.get("first_stage_score")
    if isinstance(score, bool) or not isinstance(score, int | float | None):
        raise DocumentFileError(f"line {number}: `first_stage_score` is not a number")
    return Document(
        text=value["text"],
        id=str(value.get("id", value.get("_id", number))),
        title=value.get("title"),
        first_stage_score=score,
    )


def _read_object(number: int, line: str) -> dict[str, Any]:
    """Return an object whose `text` is a string, and its `title` if it has one."""
    try:
        value: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise DocumentFileError(f"line {number}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        # Of a number of thousands of digits, or of brackets as deep.
        raise DocumentFileError(f"line {number}: not JSON of a document: {error}") from error
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise DocumentFileError(f"line {number}: expected an object with a string `text`")
    if not isinstance(value.get("title"), str | None):
        raise DocumentFileError(f"line {number}: `title` is not a string")
    return value
