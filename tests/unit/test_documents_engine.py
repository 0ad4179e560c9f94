"""Putting documents, embedding them ahead, getting and deleting them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from e2rank_server.document_store.protocol import PutOutcome
from e2rank_server.embedding_cache.keys import text_digest
from e2rank_server.engine.documents import DocumentsEngine, EmbeddedAhead, PutRequest
from e2rank_server.engine.namespace_epochs import NamespaceEpochs
from e2rank_server.errors import (
    InvalidRequestError,
    OverloadedError,
    QuotaExceededError,
    UnavailableError,
)
from e2rank_server.types import Document, EmbedRequest, InputType, TextInput, WarningCode
from tests.fake_document_store import FakeDocumentStore
from tests.fakes import FakeServedModel

SECRET = b"s" * 32
MAX_ANSWER_BYTES = 10_000


class Rig:
    def __init__(self) -> None:
        self.store = FakeDocumentStore(max_namespace_bytes=100_000)
        self.purged: list[tuple[str, int]] = []
        self.epochs = NamespaceEpochs(self.store, self._purge, interval_seconds=3600)
        self.engine = DocumentsEngine(
            self.store, self.epochs, SECRET, max_answer_bytes=MAX_ANSWER_BYTES
        )
        self.model = FakeServedModel()

    async def _purge(self, namespace: str, epoch: int) -> None:
        self.purged.append((namespace, epoch))


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    await rig.epochs.start()
    yield rig
    await rig.epochs.close()


def request(number: int, namespace: str = "n", priority: int = 0) -> PutRequest:
    documents = [Document(f"d{index}", f"text {index}") for index in range(number)]
    return PutRequest(documents, namespace, priority)


async def test_documents_are_stored_under_the_digest_of_their_text(rig: Rig) -> None:
    documents = [Document("a", "text", "title"), Document("b", "text")]
    report = await rig.engine.put(PutRequest(documents, "n"), [])
    assert report.outcomes == [PutOutcome.NEW, PutOutcome.NEW]
    assert report.statistics == await rig.store.statistics("n")
    a, b = await rig.engine.get("n", ["a", "b"])
    assert a is not None
    assert b is not None
    assert (a.text, a.title, a.digest) == ("text", "title", text_digest(SECRET, "title", "text"))
    assert (b.title, b.digest) == (None, text_digest(SECRET, None, "text"))


async def test_documents_are_embedded_ahead_as_documents_of_their_namespace(rig: Rig) -> None:
    documents = [Document("a", "text", "title"), Document("b", "other")]
    report = await rig.engine.put(PutRequest(documents, "n", 7), [rig.model])
    assert rig.model.requests == [
        EmbedRequest(
            InputType.DOCUMENT, [TextInput("text", "title"), TextInput("other")], "n", None, 7
        )
    ]
    assert report.embedded == [EmbeddedAhead("fake-model", documents_cached=2, tokens=5)]
    assert report.warnings == []


async def test_what_is_unchanged_is_embedded_too_since_a_cache_may_have_lost_it(rig: Rig) -> None:
    await rig.engine.put(request(2), [])
    report = await rig.engine.put(request(2), [rig.model])
    assert report.outcomes == [PutOutcome.UNCHANGED] * 2
    assert report.embedded[0].documents_cached == 2


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OverloadedError("too much waits", 1.0), "too much waits"),
        (UnavailableError("embedder", "is away"), "embedder: is away"),
        (ArithmeticError("a secret of the house"), "internal error"),
    ],
)
async def test_a_failure_to_embed_is_a_warning_and_undoes_nothing(
    rig: Rig, error: Exception, cause: str
) -> None:
    async def fail_later() -> None:
        if len(rig.model.requests) == 2:
            raise error

    rig.model.before_answering = fail_later
    report = await rig.engine.put(request(300), [rig.model, FakeServedModel()])
    assert report.outcomes == [PutOutcome.NEW] * 300
    failed, whole = report.embedded
    assert (failed.documents_cached, failed.documents_not_embedded) == (128, 172)
    assert (whole.documents_cached, whole.documents_not_embedded) == (300, 0)
    [warning] = report.warnings
    assert warning.code is WarningCode.DOCUMENTS_NOT_EMBEDDED
    assert warning.message == (
        f"172 of 300 documents are stored but not yet embedded with fake-model: {cause}"
    )
    assert len(rig.model.requests) == 2
    assert None not in await rig.engine.get("n", [f"d{index}" for index in range(300)])


async def test_nothing_is_embedded_of_what_is_not_stored(rig: Rig) -> None:
    large = PutRequest([Document("a", "x" * 200_000)], "n")
    with pytest.raises(QuotaExceededError):
        await rig.engine.put(large, [rig.model])
    rig.store.is_available = False
    with pytest.raises(UnavailableError):
        await rig.engine.put(request(1), [rig.model])
    assert rig.model.requests == []


async def test_a_put_whose_store_goes_away_afterwards_is_a_put_all_the_same(rig: Rig) -> None:
    async def lose_the_store() -> None:
        rig.store.is_available = False

    rig.model.before_answering = lose_the_store
    report = await rig.engine.put(request(1), [rig.model])
    assert report.outcomes == [PutOutcome.NEW]
    assert report.statistics is None


async def test_an_answer_is_bounded_in_bytes(rig: Rig) -> None:
    documents = [Document(f"{number}", "ü" * 500, "t" * 100) for number in range(10)]
    await rig.engine.put(PutRequest(documents, "n"), [])
    ids = [f"{number}" for number in range(10)]
    assert len(await rig.engine.get("n", ids[:9])) == 9
    with pytest.raises(InvalidRequestError, match="ids: name documents of more than 10000 bytes"):
        await rig.engine.get("n", ids)
    assert await rig.engine.exist("n", [*ids, "?"]) == [True] * 10 + [False]


async def test_deleting_a_namespace_purges_what_is_cached_of_it_before_it_answers(
    rig: Rig,
) -> None:
    await rig.engine.put(request(3), [])
    held = await rig.engine.statistics("n")
    assert await rig.engine.delete_namespace("n") == held
    assert rig.epochs.current("n") == 1
    assert rig.purged == [("n", 0)]
    assert await rig.engine.get("n", ["d0"]) == [None]
    await rig.engine.delete_namespace("n")
    assert rig.purged == [("n", 0), ("n", 1)]


async def test_deleted_documents_are_reported(rig: Rig) -> None:
    await rig.engine.put(request(2), [])
    assert await rig.engine.delete("n", ["d1", "?"]) == [True, False]
    assert await rig.engine.exist("n", ["d0", "d1"]) == [True, False]
