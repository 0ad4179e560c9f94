"""How documents are written down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2rank_server.document_store.protocol import StoredDocument
from e2rank_server.document_store.records import (
    DOCUMENT_OVERHEAD_BYTES,
    HEAD_BYTES,
    RecordCodec,
    stored_bytes,
)
from e2rank_server.errors import DataLossError

TEXT = st.text(max_size=50)
DOCUMENTS = st.builds(
    StoredDocument, TEXT, TEXT, st.none() | TEXT, st.binary(min_size=16, max_size=16)
)


@given(TEXT, DOCUMENTS)
def test_a_record_gives_back_its_document(namespace: str, document: StoredDocument) -> None:
    codec = RecordCodec(namespace)
    record = codec.encode(document)
    assert codec.decode(document.id, record) == document
    assert codec.decode_head(document.id, record[:HEAD_BYTES]) == document.digest


@given(DOCUMENTS)
def test_a_documents_bytes_are_its_strings_and_the_overhead(document: StoredDocument) -> None:
    strings = document.id + document.text + (document.title or "")
    record = RecordCodec("n").encode(document)
    assert stored_bytes(document.id, len(record)) == (
        len(strings.encode()) + DOCUMENT_OVERHEAD_BYTES
    )


@given(DOCUMENTS, st.data())
def test_a_flipped_bit_is_found(document: StoredDocument, data: st.DataObject) -> None:
    codec = RecordCodec("n")
    damaged = bytearray(codec.encode(document))
    bit = data.draw(st.integers(0, 8 * len(damaged) - 1))
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DataLossError):
        codec.decode(document.id, bytes(damaged))
    if bit < 8 * HEAD_BYTES:
        with pytest.raises(DataLossError):
            codec.decode_head(document.id, bytes(damaged[:HEAD_BYTES]))


@given(DOCUMENTS, st.data())
def test_a_torn_record_is_found(document: StoredDocument, data: st.DataObject) -> None:
    codec = RecordCodec("n")
    record = codec.encode(document)
    torn = record[: data.draw(st.integers(0, len(record) - 1))]
    for wrong in (torn, record + b"\0"):
        with pytest.raises(DataLossError):
            codec.decode(document.id, wrong)
    with pytest.raises(DataLossError):
        codec.decode_head(document.id, torn[: HEAD_BYTES - 1])


@given(st.tuples(TEXT, TEXT), st.tuples(TEXT, TEXT))
def test_a_record_is_believed_only_where_it_was_put(
    place: tuple[str, str], other: tuple[str, str]
) -> None:
    document = StoredDocument(place[1], "text", None, b"d" * 16)
    record = RecordCodec(place[0]).encode(document)
    if place == other:
        assert RecordCodec(other[0]).decode(other[1], record) == document
        return
    with pytest.raises(DataLossError) as caught:
        RecordCodec(other[0]).decode(other[1], record)
    assert (caught.value.namespace, caught.value.document_id) == other
    with pytest.raises(DataLossError):
        RecordCodec(other[0]).decode_head(other[1], record[:HEAD_BYTES])


def test_names_that_only_join_alike_are_apart() -> None:
    record = RecordCodec("ab").encode(StoredDocument("c", "text", None, b"d" * 16))
    with pytest.raises(DataLossError):
        RecordCodec("a").decode("bc", record)


def test_a_digest_of_another_length_is_a_defect() -> None:
    with pytest.raises(ValueError, match="16 bytes, not 3"):
        RecordCodec("n").encode(StoredDocument("a", "text", None, b"abc"))
