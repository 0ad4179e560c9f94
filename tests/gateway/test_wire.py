"""Where a broken message is broken."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from e2rank.v1 import rerank_pb2
from e2rank_server.gateway.wire import explain_parse_failure

DESCRIPTOR = rerank_pb2.RerankRequest.DESCRIPTOR
QUERY, DOCUMENTS = b"\x1a", b"\x2a"


def explain(data: bytes) -> tuple[str, str]:
    """Return field and description, for bytes that protobuf refuses too."""
    with pytest.raises(DecodeError):
        rerank_pb2.RerankRequest.FromString(data)
    (violation,) = explain_parse_failure(data, DESCRIPTOR).violations
    return violation.field, violation.description


@pytest.mark.parametrize(
    ("data", "field", "description"),
    [
        (QUERY + b"\x02a\xff", "query", "is not valid UTF-8 at byte 1 (invalid start byte)"),
        (
            DOCUMENTS + b"\x00" + DOCUMENTS + b"\x03\x12\x01\x80",
            "documents[1].text",
            "is not valid UTF-8 at byte 0 (invalid start byte)",
        ),
        (
            DOCUMENTS + b"\x06\x22\x04\x22\x02\xc3\x28",
            "documents[0].vector.model_fingerprint",
            "is not valid UTF-8 at byte 0 (invalid continuation byte)",
        ),
        (QUERY + b"\x05ab", "query", "is not valid protobuf: claims 5 bytes, but 2 are left"),
        (
            DOCUMENTS + b"\x02\x12\x09",
            "documents[0].text",
            "is not valid protobuf: claims 9 bytes, but 0 are left",
        ),
        (b"\x30\x80", "top_n", "is not valid protobuf: ends in the middle of a number"),
        (
            b"\x30" + b"\xff" * 11,
            "top_n",
            "is not valid protobuf: has a number of more than ten bytes",
        ),
        (b"\x00", "request", "is not valid protobuf: has an impossible field number"),
        (b"\x1e", "request", "is not valid protobuf: has the impossible wire type 6"),
        (b"\xfd\x07\x00", "request", "is not valid protobuf: claims 4 bytes, but 1 are left"),
        (b"\xfc\x07", "request", "is not valid protobuf: has the impossible wire type 4"),
        (
            b"\xfb\x07\x0c",
            "request",
            "is not valid protobuf: ends a group that was not begun",
        ),
        (b"\xfb\x07", "request", "is not valid protobuf: ends in the middle of a number"),
    ],
)
def test_first_defect_is_named_with_its_path(data: bytes, field: str, description: str) -> None:
    assert explain(data) == (field, description)


def test_unknown_fields_and_groups_are_passed_over() -> None:
    unknown = b"\xfb\x07\x08\x01\x13\x14\x12\x01\xff\xfc\x07" + b"\xfa\x07\x01\xff"
    assert explain(unknown + QUERY + b"\x01\xff")[0] == "query"


def test_field_of_another_wire_type_is_unknown_not_text() -> None:
    rerank_pb2.RerankRequest.FromString(b"\x18\x05")
    assert explain(b"\x18\x05" + QUERY + b"\x01\xff")[0] == "query"


def test_huge_broken_message_is_not_walked_to_its_end() -> None:
    data = (DOCUMENTS + b"\x00") * 50_000 + QUERY + b"\x01\xff"
    assert explain(data) == ("request", "is not valid protobuf: is too long to say where")


@given(st.binary(max_size=64))
def test_whatever_protobuf_refuses_gets_an_explanation(data: bytes) -> None:
    try:
        rerank_pb2.RerankRequest.FromString(data)
    except DecodeError:
        field, description = explain(data)
        assert field
        assert description
