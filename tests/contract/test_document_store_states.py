"""Any order of calls on a document store against a plain model of it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from e2rank_server.document_store.protocol import (
    NamespaceStatistics,
    PutOutcome,
    StoredDocument,
)
from e2rank_server.document_store.records import DOCUMENT_OVERHEAD_BYTES
from e2rank_server.errors import QuotaExceededError
from tests.document_stores import (
    QUOTA,
    LmdbPlace,
    Place,
    ValkeyPlace,
    durable_valkey,
    stored,
)

# Needs no inference stack, but seconds.
pytestmark = pytest.mark.e2e

NAMESPACES = st.sampled_from(["", "n", "{n}"])
IDS = ["a", "b", "c" * 401, "ü\0"]
TEXTS = st.builds(
    lambda text, times: text * times,
    st.sampled_from("xyü\0"),
    st.sampled_from([0, 1, 5000, 45_000]),
)
DOCUMENTS = st.lists(
    st.builds(stored, st.sampled_from(IDS), TEXTS, st.sampled_from([None, "", "title"])),
    unique_by=lambda document: document.id,
)


class StoreMachine(RuleBasedStateMachine):
    """Does the same to a store and to dicts, and compares."""

    place: ClassVar[Place]

    def __init__(self) -> None:
        super().__init__()
        self.place.wipe()
        self.loop = asyncio.new_event_loop()
        self.store = self.run(self.place.open())
        self.model: dict[str, dict[str, StoredDocument]] = {}
        self.epochs: dict[str, int] = {}

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.close()

    @rule(namespace=NAMESPACES, documents=DOCUMENTS)
    def put(self, namespace: str, documents: list[StoredDocument]) -> None:
        held = self.model.get(namespace, {})
        after = {**held, **{document.id: document for document in documents}}
        if size(after) > max(QUOTA, size(held)):
            with pytest.raises(QuotaExceededError):
                self.run(self.store.put(namespace, documents))
            return
        assert self.run(self.store.put(namespace, documents)) == [
            outcome(held.get(document.id), document) for document in documents
        ]
        self.model[namespace] = after

    @rule(namespace=NAMESPACES, documents=st.tuples(DOCUMENTS, DOCUMENTS))
    def put_twice_at_once(
        self, namespace: str, documents: tuple[list[StoredDocument], list[StoredDocument]]
    ) -> None:
        async def both() -> list[Any]:
            puts = (self.store.put(namespace, each) for each in documents)
            return await asyncio.gather(*puts, return_exceptions=True)

        results = self.run(both())
        # Whichever came last, each document has a text that one of them put, or its own.
        may_be: dict[str, list[StoredDocument | None]] = {}
        for each, result in zip(documents, results, strict=True):
            assert isinstance(result, list | QuotaExceededError)
            for document in each if isinstance(result, list) else ():
                may_be.setdefault(document.id, []).append(document)
        found = dict(zip(may_be, self.run(self.store.get(namespace, list(may_be))), strict=True))
        assert all(found[document_id] in candidates for document_id, candidates in may_be.items())
        self.model.setdefault(namespace, {}).update(found)

    @rule(namespace=NAMESPACES, ids=st.lists(st.sampled_from(IDS), unique=True))
    def delete(self, namespace: str, ids: list[str]) -> None:
        held = self.model.get(namespace, {})
        expected = [held.pop(document_id, None) is not None for document_id in ids]
        assert self.run(self.store.delete(namespace, ids)) == expected

    @rule(namespace=NAMESPACES)
    def delete_namespace(self, namespace: str) -> None:
        held = self.model.pop(namespace, {})
        assert self.run(self.store.delete_namespace(namespace)) == statistics(held)
        self.epochs[namespace] = self.epochs.get(namespace, 0) + 1

    @rule()
    def reopen(self) -> None:
        self.run(self.store.close())
        self.store = self.run(self.place.open())

    @invariant()
    def the_store_holds_what_the_model_holds(self) -> None:
        for namespace in ("", "n", "{n}"):
            held = self.model.get(namespace, {})
            expected = [held.get(document_id) for document_id in IDS]
            assert self.run(self.store.get(namespace, IDS)) == expected
            assert self.run(self.store.digests(namespace, IDS)) == [
                None if document is None else document.digest for document in expected
            ]
            assert self.run(self.store.statistics(namespace)) == statistics(held)
        assert self.run(self.store.epochs()) == self.epochs


def size(held: dict[str, StoredDocument]) -> int:
    return statistics(held).stored_bytes


def statistics(held: dict[str, StoredDocument]) -> NamespaceStatistics:
    """Count anew."""
    texts = "".join(f"{each.id}{each.title or ''}{each.text}" for each in held.values())
    num_bytes = len(held) * DOCUMENT_OVERHEAD_BYTES + len(texts.encode())
    return NamespaceStatistics(len(held), num_bytes, QUOTA)


def outcome(old: StoredDocument | None, new: StoredDocument) -> PutOutcome:
    if old is None:
        return PutOutcome.NEW
    return PutOutcome.UNCHANGED if old == new else PutOutcome.REPLACED


def check(place: Place) -> None:
    class Machine(StoreMachine):
        pass

    Machine.place = place
    Machine.TestCase.settings = settings(
        max_examples=25,
        stateful_step_count=15,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    Machine.TestCase().runTest()


def test_lmdb_behaves_as_the_model() -> None:
    folder = Path(tempfile.mkdtemp(prefix="document-store-"))
    try:
        check(LmdbPlace(folder))
    finally:
        shutil.rmtree(folder)


def test_valkey_behaves_as_the_model() -> None:
    with durable_valkey() as server:
        check(ValkeyPlace(server.url))
