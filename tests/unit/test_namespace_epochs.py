"""How a replica learns of deleted namespaces."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from e2rank_server.engine.namespace_epochs import NamespaceEpochs
from e2rank_server.errors import UnavailableError
from tests.fake_document_store import FakeDocumentStore


class Purged:
    """Remembers what it was asked to purge; waits for `may_go_on`."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def __call__(self, namespace: str, epoch: int) -> None:
        await self.may_go_on.wait()
        self.calls.append((namespace, epoch))


@pytest.fixture
def store() -> FakeDocumentStore:
    return FakeDocumentStore()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what changes it knows nothing of the test
            await asyncio.sleep(0.001)


async def started(
    store: FakeDocumentStore,
    purge: Callable[[str, int], Awaitable[None]] | None = None,
    interval_seconds: float = 0.001,
) -> NamespaceEpochs:
    epochs = NamespaceEpochs(store, purge, interval_seconds=interval_seconds)
    await epochs.start()
    return epochs


async def test_a_namespace_that_was_never_deleted_is_in_epoch_0(store: FakeDocumentStore) -> None:
    epochs = await started(store)
    assert epochs.current("n") == 0
    await epochs.close()


async def test_what_was_deleted_before_the_start_is_known_and_not_purged_again(
    store: FakeDocumentStore,
) -> None:
    await store.delete_namespace("n")
    purged = Purged()
    epochs = await started(store, purged)
    assert epochs.current("n") == 1
    await epochs.close()
    assert purged.calls == []


async def test_a_deletion_by_another_replica_is_seen_and_purged(store: FakeDocumentStore) -> None:
    purged = Purged()
    epochs = await started(store, purged)
    await store.delete_namespace("n")
    await until(lambda: epochs.current("n") == 1)
    await until(lambda: purged.calls == [("n", 0)])
    assert epochs.current("m") == 0
    await epochs.close()


async def test_each_epoch_that_ended_is_purged(store: FakeDocumentStore) -> None:
    purged = Purged()
    epochs = await started(store, purged, interval_seconds=3600)
    await store.delete_namespace("n")
    await store.delete_namespace("n")
    await epochs.see_deletion("n", 0)
    assert purged.calls == [("n", 0), ("n", 1)]
    await epochs.close()


async def test_ones_own_deletion_is_seen_and_purged_at_once(store: FakeDocumentStore) -> None:
    purged = Purged()
    epochs = await started(store, purged, interval_seconds=3600)
    await store.delete_namespace("n")
    await epochs.see_deletion("n", 0)
    assert epochs.current("n") == 1
    assert purged.calls == [("n", 0)]
    await epochs.close()


async def test_ones_own_deletion_is_seen_even_if_the_store_has_gone_since(
    store: FakeDocumentStore,
) -> None:
    purged = Purged()
    epochs = await started(store, purged, interval_seconds=3600)
    await store.delete_namespace("n")
    store.is_available = False
    await epochs.see_deletion("n", 0)
    assert epochs.current("n") == 1
    store.is_available = True
    await epochs.refresh()
    assert epochs.current("n") == 1
    assert purged.calls == [("n", 0)]
    await epochs.close()


async def test_a_purge_that_takes_long_does_not_hold_up_what_is_seen(
    store: FakeDocumentStore,
) -> None:
    purged = Purged()
    purged.may_go_on.clear()
    epochs = await started(store, purged)
    await store.delete_namespace("n")
    await until(lambda: epochs.current("n") == 1)
    await store.delete_namespace("m")
    await until(lambda: epochs.current("m") == 1)
    assert purged.calls == []
    purged.may_go_on.set()
    await until(lambda: sorted(purged.calls) == [("m", 0), ("n", 0)])
    await epochs.close()


async def test_what_was_last_read_counts_while_the_store_is_away(
    store: FakeDocumentStore, caplog: pytest.LogCaptureFixture
) -> None:
    await store.delete_namespace("n")
    epochs = await started(store)
    store.is_available = False
    reads = store.num_epoch_reads
    await until(lambda: store.num_epoch_reads > reads + 3)
    assert epochs.current("n") == 1
    with pytest.raises(UnavailableError):
        await epochs.refresh()
    store.is_available = True
    await store.delete_namespace("n")
    await until(lambda: epochs.current("n") == 2)
    await epochs.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_a_store_that_is_away_at_the_start_is_read_when_it_is_back(
    store: FakeDocumentStore,
) -> None:
    await store.delete_namespace("n")
    store.is_available = False
    epochs = await started(store)
    assert epochs.current("n") == 0
    store.is_available = True
    await until(lambda: epochs.current("n") == 1)
    await epochs.close()


async def test_an_older_answer_does_not_undo_a_newer_one(store: FakeDocumentStore) -> None:
    epochs = await started(store, interval_seconds=3600)
    await store.delete_namespace("n")
    await epochs.see_deletion("n", 4)
    assert epochs.current("n") == 1
    store.is_available = False
    await epochs.see_deletion("n", 1)
    assert epochs.current("n") == 2
    store.is_available = True
    await epochs.refresh()
    assert epochs.current("n") == 2
    await epochs.close()


async def test_closing_ends_what_is_still_being_purged(store: FakeDocumentStore) -> None:
    purged = Purged()
    purged.may_go_on.clear()
    epochs = await started(store, purged)
    await store.delete_namespace("n")
    await until(lambda: epochs.current("n") == 1)
    await epochs.close()
    assert len(asyncio.all_tasks()) == 1
