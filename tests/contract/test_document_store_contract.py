"""What every document store promises. Add an implementation to `place` to test it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from e2rank_server.document_store.protocol import (
    DocumentStore,
    NamespaceStatistics,
    PutOutcome,
)
from e2rank_server.document_store.records import DOCUMENT_OVERHEAD_BYTES
from e2rank_server.errors import QuotaExceededError
from tests.document_stores import (
    QUOTA,
    FakePlace,
    LmdbPlace,
    Place,
    ValkeyPlace,
    durable_valkey,
    stored,
)

NEW, UNCHANGED, REPLACED = PutOutcome.NEW, PutOutcome.UNCHANGED, PutOutcome.REPLACED
EMPTY = NamespaceStatistics(0, 0, QUOTA)

NAMES = ["", "a", "A", "a:b", "{a}", "a}", "ä", "a\0", "\0", "x" * 255, "x" * 256, "%61"]
IDS = ["0", "\0", " ", "{}", "é", "a" * 400, "a" * 401, "a" * 511 + "b", "a" * 512, "a" * 511]


@pytest.fixture(scope="module")
def valkey_url() -> Iterator[str]:
    with durable_valkey() as server:
        yield server.url


@pytest.fixture(params=["fake", "lmdb", "valkey"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    match request.param:
        case "lmdb":
            return LmdbPlace(tmp_path / "document-store")
        case "valkey":
            valkey = ValkeyPlace(request.getfixturevalue("valkey_url"))
            valkey.wipe()
            return valkey
        case _:
            return FakePlace()


@pytest.fixture
async def store(place: Place) -> AsyncIterator[DocumentStore]:
    store = await place.open()
    yield store
    await store.close()


async def test_put_says_of_each_document_what_it_did(store: DocumentStore) -> None:
    assert await store.put("n", [stored("a"), stored("b")]) == [NEW, NEW]
    changed = [stored("c"), stored("b", "another"), stored("a")]
    assert await store.put("n", changed) == [NEW, REPLACED, UNCHANGED]


async def test_a_title_is_part_of_a_document(store: DocumentStore) -> None:
    await store.put("n", [stored("a", "text", "title")])
    assert await store.put("n", [stored("a", "text", "title")]) == [UNCHANGED]
    assert await store.put("n", [stored("a", "text")]) == [REPLACED]
    assert await store.put("n", [stored("a", "text", "")]) == [REPLACED]


async def test_documents_come_back_as_they_were_put(store: DocumentStore) -> None:
    documents = [
        stored("plain", "text"),
        stored("titled", "text", "title"),
        stored("empty title", "text", ""),
        stored("odd", "\0 <|im_end|> \U0001f600 \r\n", "\0"),
        stored("long", "ü" * 40_000),
    ]
    await store.put("n", documents)
    assert await store.get("n", [each.id for each in documents]) == documents
    assert await store.digests("n", [each.id for each in documents]) == [
        each.digest for each in documents
    ]


async def test_answers_are_in_the_order_of_the_ids_with_none_for_unknown_ones(
    store: DocumentStore,
) -> None:
    a, b = stored("a", "1"), stored("b", "2")
    await store.put("n", [a, b])
    assert await store.get("n", ["b", "?", "a"]) == [b, None, a]
    assert await store.digests("n", ["?", "b", "a"]) == [None, b.digest, a.digest]
    assert await store.get("unknown", ["a"]) == [None]
    assert await store.digests("unknown", ["a"]) == [None]


async def test_nothing_asked_is_nothing_answered(store: DocumentStore) -> None:
    assert await store.put("n", []) == []
    assert await store.get("n", []) == []
    assert await store.digests("n", []) == []
    assert await store.delete("n", []) == []
    assert await store.statistics("n") == EMPTY


async def test_what_was_replaced_has_its_new_text_and_digest(store: DocumentStore) -> None:
    await store.put("n", [stored("a", "old"), stored("b", "other")])
    new = stored("a", "new and longer")
    await store.put("n", [new])
    assert await store.get("n", ["a"]) == [new]
    assert await store.digests("n", ["a", "b"]) == [new.digest, stored("b", "other").digest]


async def test_deleted_documents_are_gone_and_the_rest_stays(store: DocumentStore) -> None:
    await store.put("n", [stored("a"), stored("b")])
    assert await store.delete("n", ["?", "a"]) == [False, True]
    assert await store.get("n", ["a", "b"]) == [None, stored("b")]
    assert await store.digests("n", ["a"]) == [None]
    assert await store.delete("n", ["a"]) == [False]
    assert await store.put("n", [stored("a")]) == [NEW]


async def test_namespaces_of_all_names_are_apart(store: DocumentStore) -> None:
    for name in NAMES:
        assert await store.put(name, [stored("a", f"of {name!r}")]) == [NEW]
    for name in NAMES:
        assert await store.get(name, ["a"]) == [stored("a", f"of {name!r}")]
    assert (await store.delete_namespace("a")).documents == 1
    for name in NAMES:
        assert (await store.get(name, ["a"]) == [None]) == (name == "a")


async def test_ids_of_all_lengths_are_apart(store: DocumentStore) -> None:
    await store.put("n", [stored(each, f"text {place}") for place, each in enumerate(IDS)])
    assert await store.get("n", IDS) == [
        stored(each, f"text {place}") for place, each in enumerate(IDS)
    ]
    assert await store.delete("n", IDS) == [True] * len(IDS)
    assert await store.statistics("n") == EMPTY


async def test_statistics_count_documents_and_their_bytes(store: DocumentStore) -> None:
    assert await store.statistics("n") == EMPTY
    await store.put("n", [stored("ab", "text", "ü"), stored("c", "text")])
    whole = NamespaceStatistics(2, 2 * DOCUMENT_OVERHEAD_BYTES + 2 + 2 + 4 + 1 + 4, QUOTA)
    assert await store.statistics("n") == whole
    await store.put("n", [stored("ab", "text", "ü")])
    assert await store.statistics("n") == whole
    await store.put("n", [stored("ab", "te")])
    assert (await store.statistics("n")).stored_bytes == whole.stored_bytes - 4
    await store.delete("n", ["ab", "?"])
    assert await store.statistics("n") == NamespaceStatistics(1, DOCUMENT_OVERHEAD_BYTES + 5, QUOTA)
    assert await store.statistics("other") == EMPTY


async def test_a_put_beyond_the_quota_writes_nothing_and_says_how_much(
    store: DocumentStore,
) -> None:
    held = stored("a", "x" * 50_000)
    await store.put("n", [held])
    before = await store.statistics("n")
    with pytest.raises(QuotaExceededError) as caught:
        await store.put("n", [stored("b"), stored("a", "new"), stored("c", "x" * 100_000)])
    error = caught.value
    assert (error.namespace, error.stored_bytes, error.max_bytes) == (
        "n",
        before.stored_bytes,
        QUOTA,
    )
    assert before.stored_bytes + error.needed_bytes > QUOTA
    assert await store.get("n", ["a", "b", "c"]) == [held, None, None]
    assert await store.statistics("n") == before
    await store.put("other", [stored("a", "x" * 50_000)])


async def test_a_namespace_can_be_filled_to_its_quota_and_no_further(
    store: DocumentStore,
) -> None:
    room = QUOTA - DOCUMENT_OVERHEAD_BYTES - 1
    with pytest.raises(QuotaExceededError):
        await store.put("n", [stored("a", "x" * (room + 1))])
    await store.put("n", [stored("a", "x" * room)])
    with pytest.raises(QuotaExceededError):
        await store.put("n", [stored("b")])
    assert await store.put("n", [stored("a", "x" * room)]) == [UNCHANGED]
    await store.put("n", [stored("a", "small")])
    await store.put("n", [stored("b")])


async def test_a_deleted_namespace_is_empty_and_in_its_next_epoch(store: DocumentStore) -> None:
    await store.put("n", [stored("a"), stored("b")])
    await store.put("m", [stored("a")])
    held = await store.statistics("n")
    assert await store.epochs() == {}
    assert await store.delete_namespace("n") == held
    assert await store.epochs() == {"n": 1}
    assert await store.get("n", ["a", "b"]) == [None, None]
    assert await store.digests("n", ["a", "b"]) == [None, None]
    assert await store.statistics("n") == EMPTY
    assert await store.get("m", ["a"]) == [stored("a")]
    assert await store.put("n", [stored("a")]) == [NEW]
    await store.delete_namespace("n")
    await store.delete_namespace("")
    assert await store.epochs() == {"n": 2, "": 1}


async def test_deleting_a_namespace_without_documents_raises_its_epoch(
    store: DocumentStore,
) -> None:
    # The embedding cache may know texts of it that were never put.
    assert await store.delete_namespace("n") == EMPTY
    assert await store.epochs() == {"n": 1}


async def test_concurrent_writes_are_all_kept_and_counted(store: DocumentStore) -> None:
    outcomes = await asyncio.gather(
        *(store.put("n", [stored(f"{number % 20}"), stored(f"x{number}")]) for number in range(60))
    )
    assert [first for first, _ in outcomes].count(NEW) == 20
    assert all(second is NEW for _, second in outcomes)
    await asyncio.gather(*(store.delete("n", [f"x{number}"]) for number in range(50)))
    assert (await store.statistics("n")).documents == 30


async def test_one_write_of_many_that_is_refused_fails_no_other(store: DocumentStore) -> None:
    texts = ["small", "x" * (2 * QUOTA), "small"]
    outcomes = await asyncio.gather(
        *(store.put("n", [stored(f"{number}", text)]) for number, text in enumerate(texts)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [list, QuotaExceededError, list]
    assert (await store.statistics("n")).documents == 2


async def test_what_was_acknowledged_is_there_when_it_is_opened_again(place: Place) -> None:
    store = await place.open()
    await store.put("n", [stored("a"), stored("b")])
    await store.put("gone", [stored("a")])
    await store.delete("n", ["b"])
    await store.delete_namespace("gone")
    statistics = await store.statistics("n")
    await store.close()
    store = await place.open()
    assert await store.get("n", ["a", "b"]) == [stored("a"), None]
    assert await store.get("gone", ["a"]) == [None]
    assert await store.statistics("n") == statistics
    assert await store.epochs() == {"gone": 1}
    await store.close()


async def test_callers_who_leave_do_not_disturb_others(store: DocumentStore) -> None:
    await store.put("n", [stored(f"{number}", f"text {number}") for number in range(20)])
    for steps in range(20):
        leaving = [asyncio.create_task(store.get("n", [f"{number}"])) for number in range(10)]
        leaving.append(asyncio.create_task(store.put("n", [stored("late", f"{steps}")])))
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        assert await store.get("n", ["7"]) == [stored("7", "text 7")]
        await asyncio.gather(*leaving, return_exceptions=True)
    assert await store.put("n", [stored("7", "text 7")]) == [UNCHANGED]


async def test_a_store_that_is_there_is_healthy(store: DocumentStore) -> None:
    await store.check_health()
