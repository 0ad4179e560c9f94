from __future__ import annotations

import io

import pytest

from e2rank_client import Document, StoredDocument
from e2rank_client.document_file import (
    DocumentFileError,
    read_documents,
    read_stored_document,
)


def test_plain_text_is_a_document_a_line_named_by_its_number() -> None:
    assert read_documents(["one\n", "\n", "  two \n"]) == [
        Document(text="one", id="1"),
        Document(text="two", id="3"),
    ]


def test_json_lines_carry_id_title_and_first_stage_score() -> None:
    lines = [
        '{"id": "a", "text": "one", "title": "T", "first_stage_score": 2}',
        '{"_id": "b", "text": "two"}',
        '{"text": "three"}',
    ]
    assert read_documents(lines) == [
        Document(text="one", id="a", title="T", first_stage_score=2),
        Document(text="two", id="b"),
        Document(text="three", id="3"),
    ]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "there are no documents"),
        (["  \n"], "there are no documents"),
        (['{"text": "a"}', "b"], "line 2: not JSON"),
        (["{}"], "line 1: expected an object with a string `text`"),
        (['{"text": "a"}', "", "[1]"], "line 3: expected an object"),
        (['{"text": "a", "title": 1}'], "`title` is not a string"),
        (['{"text": "a", "first_stage_score": "high"}'], "`first_stage_score` is not a number"),
        (['{"text": "a", "first_stage_score": true}'], "`first_stage_score` is not a number"),
    ],
)
def test_what_is_no_document_is_refused_with_its_line(lines: list[str], message: str) -> None:
    with pytest.raises(DocumentFileError, match=message):
        read_documents(lines)


def test_bytes_that_are_not_utf8_are_refused() -> None:
    file = io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8")
    with pytest.raises(DocumentFileError, match="not UTF-8"):
        read_documents(file)


def test_a_document_to_store_has_beirs_fields_and_others_are_ignored() -> None:
    line = b'{"_id": "a", "title": "T", "text": "caf\xc3\xa9", "metadata": {"x": 1}}\n'
    assert read_stored_document(1, line) == StoredDocument("a", "caf\u00e9", "T")
    assert read_stored_document(1, b'{"id": 7, "text": ""}') == StoredDocument("7", "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[" * 100_000, "line 9: not JSON of a document"),
        ('{"_id": "d", "text": ' + "9" * 5000 + "}", "line 9: not JSON of a document"),
        ('{"text": "x"}', "line 9: expected a string `_id`, or `id`, that names it"),
        ('{"_id": "", "text": "x"}', "line 9: expected a string `_id`"),
        ('{"_id": true, "text": "x"}', "line 9: expected a string `_id`"),
        ('{"_id": "d", "text": 1}', "line 9: expected an object with a string `text`"),
        ('{"_id": "d", "text": "x", "title": 1}', "line 9: `title` is not a string"),
        ("", "line 9: not JSON"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_line(line: str, message: str) -> None:
    with pytest.raises(DocumentFileError, match=message):
        read_stored_document(9, line.encode())
