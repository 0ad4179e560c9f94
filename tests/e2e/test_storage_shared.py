"""Gateways that share or outlive their storage."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path

import lmdb
import pytest

from e2rank_client import (
    AsyncE2RankClient,
    Document,
    E2RankClient,
    RerankResult,
    StoredDocument,
    UnavailableError,
)
from e2rank_server.embedding_cache.keys import namespace_tag
from e2rank_server.embedding_cache.valkey import KEY_PREFIX
from tests.e2e.server_process import ServerProcess
from tests.valkey_server import ValkeyProcess, running_valkey

pytestmark = pytest.mark.e2e

SECRET = "the secret of a deployment"
OTHER_SECRET = "the secret of another one"
QUERY = "leaf sugar"
PATIENCE_SECONDS = 30.0
# Of the one connection that channels of a process to a target share otherwise.
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


def start(folder: Path, *arguments: str, secret: str = SECRET) -> ServerProcess:
    """Start a gateway; its scores are exact, and no wait for its second tier is in vain."""
    folder.mkdir()
    return ServerProcess(
        folder,
        "--embedder=fake",
        "--tokenizer=in-process",
        "--cache-element-type=float32",
        "--second-tier-timeout-seconds=2",
        f"--data-directory={folder / 'data'}",
        *arguments,
        environ={"E2RANK_CACHE_SECRET": secret},
    )


@dataclass(frozen=True, slots=True)
class Replicas:
    """Two gateways that share a cache and a document store."""

    cache: ValkeyProcess
    store: ValkeyProcess
    servers: Sequence[ServerProcess]

    @property
    def addresses(self) -> list[str]:
        return [server.address for server in self.servers]


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    folder = tmp_path_factory.mktemp("replicas")
    with ExitStack() as stack:
        cache = stack.enter_context(running_valkey())
        store = stack.enter_context(
            running_valkey(appendonly="yes", appendfsync="everysec", maxmemory_policy="noeviction")
        )
        where = (f"--second-tier={cache.url}", f"--document-store={store.url}")
        servers = []
        for name in ("first", "second"):
            servers.append(start(folder / name, *where))
            stack.callback(servers[-1].kill)
        for server in servers:
            server.wait_until_serving()
        yield Replicas(cache, store, servers)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


async def wait_until_async(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110 - it is other processes that make it true
            await asyncio.sleep(0.01)


def rerank(client: E2RankClient, texts: Sequence[str], namespace: str = "") -> RerankResult:
    return client.rerank(QUERY, texts, method="COSINE", namespace=namespace)


def tiers(answer: RerankResult) -> set[str]:
    return {str(each.cache_tier) for each in answer.results}


def scores(answer: RerankResult) -> list[float]:
    """Return the scores in the order of the request."""
    return [each.relevance_score for each in sorted(answer.results, key=lambda each: each.index)]


def tag(namespace: str, epoch: int) -> bytes:
    return namespace_tag(SECRET.encode(), namespace, epoch)


def num_cached(valkey: ValkeyProcess, namespace: str, epoch: int = 0) -> int:
    return len(valkey.execute("KEYS", f"{KEY_PREFIX}{tag(namespace, epoch).hex()}*"))


# A shared cache


def test_replicas_embed_a_document_once(replicas: Replicas) -> None:
    assert_a_document_is_embedded_once(replicas, [f"leaf {n}" for n in range(100)], "once")


def assert_a_document_is_embedded_once(
    replicas: Replicas, texts: Sequence[str], namespace: str
) -> None:
    first, second = map(E2RankClient, replicas.addresses)
    with first, second:
        computed = rerank(first, texts, namespace)
        assert tiers(computed) == {"COMPUTED"}
        wait_until(lambda: num_cached(replicas.cache, namespace) == len(texts))
        shared = rerank(second, texts, namespace)
        assert tiers(shared) == {"SHARED"}
        assert shared.usage.documents_embedded == 0
        assert tiers(rerank(second, texts, namespace)) == {"MEMORY"}
    assert scores(shared) == pytest.approx(scores(computed), abs=1e-6)


def test_a_gateway_with_another_secret_sees_nothing_of_the_others(
    replicas: Replicas, tmp_path: Path
) -> None:
    texts = [f"leaf {n}" for n in range(100)]
    tier = f"--second-tier={replicas.cache.url}"
    stranger = start(tmp_path / "stranger", tier, secret=OTHER_SECRET)
    try:
        stranger.wait_until_serving()
        ours, theirs = map(E2RankClient, (replicas.addresses[0], stranger.address))
        with ours, theirs:
            rerank(ours, texts, "secrets")
            wait_until(lambda: num_cached(replicas.cache, "secrets") == len(texts))
            assert tiers(rerank(theirs, texts, "secrets")) == {"COMPUTED"}
            # What it has written is not found by those of the first secret, either.
            more = [f"sugar {n}" for n in range(100)]
            rerank(theirs, more, "secrets")
            wait_until(lambda: has_written_all(theirs))
            assert tiers(rerank(ours, more, "secrets")) == {"COMPUTED"}
    finally:
        stranger.kill()


def has_written_all(client: E2RankClient) -> bool:
    """Say whether the process that answers has put all that it embedded into the second tier."""
    second_tier = client.get_model().cache.second_tier
    assert second_tier is not None
    writes = second_tier.writes
    return writes.written > 0 and writes.pending == writes.errors == writes.dropped == 0


# A cache on disk


def test_embeddings_on_disk_are_shared_by_processes_and_outlive_them(tmp_path: Path) -> None:
    texts = [f"leaf {n}" for n in range(100)]
    disk = ("--second-tier=disk", f"--data-directory={tmp_path / 'data'}")

    several = start(tmp_path / "several", "--processes=2", *disk)
    try:
        several.wait_until_serving()
        with E2RankClient(several.address) as client:
            assert tiers(computed := rerank(client, texts)) == {"COMPUTED"}
            wait_until(lambda: has_written_all(client))
        # Sixteen connections all dealt to one of the two: once in 32,768 runs.
        assert {"DISK"} <= tiers_of_connections(several, texts, 16) <= {"DISK", "MEMORY"}
    finally:
        several.kill()

    more = [f"sugar {n}" for n in range(100)]
    after_kill = start(tmp_path / "after_kill", *disk)
    try:
        after_kill.wait_until_serving()
        with E2RankClient(after_kill.address) as client:
            assert tiers(found := rerank(client, texts)) == {"DISK"}
            assert scores(found) == pytest.approx(scores(computed), abs=1e-6)
            assert tiers(rerank(client, more)) == {"COMPUTED"}
        assert after_kill.stop() == 0
    finally:
        after_kill.kill()

    after_stop = start(tmp_path / "after_stop", *disk)
    try:
        after_stop.wait_until_serving()
        with E2RankClient(after_stop.address) as client:
            assert tiers(rerank(client, texts + more)) == {"DISK"}
    finally:
        after_stop.kill()


def tiers_of_connections(server: ServerProcess, texts: Sequence[str], number: int) -> set[str]:
    found: set[str] = set()
    for _ in range(number):
        with E2RankClient(server.address, channel_options=OWN_CONNECTION) as client:
            found |= tiers(rerank(client, texts))
    return found


# Documents that change while they are read


@dataclass(slots=True)
class History:
    """What documents of some ids were, one state after another, and what readers saw of them.

    A state has a text for each id, or none once all are deleted. Each answer
    must be that of one state between the last that was acknowledged when it was
    asked for and the last that was begun when it came.
    """

    namespace: str
    num_ids: int
    states: list[tuple[str, ...]] = field(default_factory=lambda: [()])
    num_refused: int = 0
    seen: list[tuple[int, int, list[float]]] = field(default_factory=list)
    """Number of the first and of the last state that may be, and the scores."""
    acknowledged: int = 0

    @property
    def ids(self) -> list[str]:
        return [f"id{n}" for n in range(self.num_ids)]

    async def put(self, client: AsyncE2RankClient, texts: tuple[str, ...]) -> None:
        state = self._begin(texts)
        documents = map(StoredDocument, self.ids, texts)
        await client.put_documents(list(documents), namespace=self.namespace)
        self.acknowledged = state

    async def delete_namespace(self, client: AsyncE2RankClient) -> None:
        state = self._begin(())
        held = await client.delete_namespace(self.namespace)
        assert held.documents == self.num_ids
        self.acknowledged = state

    def _begin(self, texts: tuple[str, ...]) -> int:
        self.states.append(texts)
        return len(self.states) - 1

    async def look(self, client: AsyncE2RankClient) -> None:
        """Rerank by id, and note what was answered."""
        first = self.acknowledged
        documents = [Document(id=each) for each in self.ids]
        answer = await client.rerank(
            QUERY,
            documents,
            method="COSINE",
            namespace=self.namespace,
            unknown_documents="DROP",
        )
        self.seen.append((first, len(self.states) - 1, scores(answer)))

    async def check(self, client: AsyncE2RankClient) -> None:
        """Compare what was seen with the scores of the same texts, given by text elsewhere."""
        texts = list({text for state in self.states for text in state})
        true: dict[str, float] = {}
        for some in (texts[at : at + 500] for at in range(0, len(texts), 500)):
            answer = await client.rerank(QUERY, some, method="COSINE", namespace="reference")
            true |= dict(zip(some, scores(answer), strict=True))
        for first, last, found in self.seen:
            possible = [[true[t] for t in state] for state in self.states[first : last + 1]]
            assert any(found == pytest.approx(each, abs=1e-6) for each in possible), (first, last)


@asynccontextmanager
async def repeating(*actions: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Do each again and again; the first that fails ends it all."""
    is_over = asyncio.Event()

    async def repeat(action: Callable[[], Awaitable[None]]) -> None:
        while not is_over.is_set():
            await action()

    async with asyncio.TaskGroup() as group:
        for action in actions:
            group.create_task(repeat(action))
        try:
            yield
        finally:
            is_over.set()


@asynccontextmanager
async def clients(addresses: Sequence[str]) -> AsyncIterator[list[AsyncE2RankClient]]:
    """Open a client to each address that repeats nothing."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(AsyncE2RankClient(address, max_attempts=1))
            for address in addresses
        ]


class Load:
    """Reranks by text and by id at both replicas, beside puts of the documents named by id."""

    def __init__(self, replicas: Sequence[AsyncE2RankClient], namespace: str) -> None:
        self.history = History(namespace, num_ids=3)
        self.num_by_text = self.num_refused = 0
        self.writes_refused = 0
        self._replicas = replicas
        self._numbers = itertools.count()

    async def put(self) -> None:
        n = next(self._numbers)
        try:
            await self.history.put(self._replicas[0], (f"leaf {n}", f"sugar {n}", f"beet {n}"))
        except UnavailableError:
            self.writes_refused += 1

    async def by_text(self) -> None:
        """Rerank texts of which no cache has one."""
        for client in self._replicas:
            texts = [f"new {next(self._numbers)}", "leaf", "sugar"]
            answer = await client.rerank(QUERY, texts, method="COSINE", namespace="by-text")
            assert len(answer.results) == len(texts)
            self.num_by_text += 1

    async def by_id(self) -> None:
        for client in self._replicas:
            try:
                await self.history.look(client)
            except UnavailableError:
                self.num_refused += 1

    async def goes_on(self) -> None:
        """Wait until there are more answers of each kind, or refusals."""
        by_text = self.num_by_text + 20
        by_id = len(self.history.seen) + self.num_refused + 20
        await wait_until_async(
            lambda: self.num_by_text > by_text and len(self.history.seen) + self.num_refused > by_id
        )


async def second_tier_is(state: str, client: AsyncE2RankClient) -> None:
    """Wait until reading and writing are as `state` says."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            tier = (await client.get_model()).cache.second_tier
            assert tier is not None
            if tier.state == tier.writes.state == state:
                return


async def test_a_cache_killed_under_load_costs_no_answer_and_comes_back(
    replicas: Replicas,
) -> None:
    async with clients(replicas.addresses) as both:
        load = Load(both, "cache-killed")
        await load.put()
        async with repeating(load.put, load.by_text, load.by_id):
            await load.goes_on()
            await asyncio.to_thread(replicas.cache.kill)
            for each in both:
                await second_tier_is("AWAY", each)
            await load.goes_on()
            await asyncio.to_thread(replicas.cache.start)
            for each in both:
                await second_tier_is("AVAILABLE", each)
            await load.goes_on()
        assert load.num_refused == load.writes_refused == 0
        await load.history.check(both[0])
    assert_a_document_is_embedded_once(replicas, ["afterwards"], "back")


async def test_a_store_killed_under_load_costs_no_answer_by_text_and_makes_none_by_id_wrong(
    replicas: Replicas,
) -> None:
    async with clients(replicas.addresses) as both:
        load = Load(both, "store-killed")
        await load.put()
        async with repeating(load.put, load.by_text, load.by_id):
            await load.goes_on()
            await asyncio.to_thread(replicas.store.kill)
            await wait_until_async(lambda: load.num_refused > 20 and load.writes_refused > 5)
            await load.goes_on()
            await asyncio.to_thread(replicas.store.start)
            seen, acknowledged = len(load.history.seen), load.history.acknowledged
            await wait_until_async(
                lambda: (
                    len(load.history.seen) > seen + 20
                    and load.history.acknowledged > acknowledged + 5
                )
            )
            await load.goes_on()
        await load.history.look(both[1])
        await load.history.check(both[0])


# A namespace deleted through one replica while another reads it


@dataclass(slots=True)
class ReaderByText:
    """Reranks at a replica, by text, what a namespace has."""

    client: AsyncE2RankClient
    namespace: str
    texts: Sequence[str]
    answers: list[RerankResult] = field(default_factory=list)

    async def read(self) -> None:
        self.answers.append(
            await self.client.rerank(
                QUERY, list(self.texts), method="COSINE", namespace=self.namespace
            )
        )

    async def forgets(self) -> None:
        """Wait for an answer, asked for from now on, of which nothing was in a cache."""
        first = len(self.answers) + 1
        await wait_until_async(
            lambda: any(tiers(answer) == {"COMPUTED"} for answer in self.answers[first:])
        )

    def check(self) -> None:
        for answer in self.answers:
            assert scores(answer) == pytest.approx(scores(self.answers[0]), abs=1e-6)


async def delete_while_another_reads(addresses: Sequence[str], namespace: str) -> None:
    """Put, read, delete, put anew and delete for good; what was cached is of epochs 0 to 2."""
    old = tuple(f"leaf {n}" for n in range(20))
    new = tuple(f"sugar {n}" for n in range(20))
    history = History(namespace, len(old))
    async with clients(addresses) as (deleting, reading):
        by_text = ReaderByText(reading, namespace, old)
        await history.put(deleting, old)
        await by_text.read()
        await by_text.read()
        assert tiers(by_text.answers[-1]) == {"MEMORY"}
        async with repeating(by_text.read, lambda: history.look(reading)):
            await wait_until_async(lambda: len(history.seen) > 10)
            await history.delete_namespace(deleting)
            assert (await deleting.get_namespace_stats(namespace)).documents == 0
            await history.look(reading)
            await history.put(deleting, new)
            await history.look(reading)
            await by_text.forgets()
            await history.look(reading)
        await history.delete_namespace(deleting)
        await history.look(reading)
        assert history.seen[-1][2] == []
        # It has seen the second deletion, too, once it embeds again.
        async with repeating(by_text.read):
            await by_text.forgets()
        by_text.check()
        await history.check(reading)


async def test_a_namespace_deleted_while_another_replica_reads_it_is_gone_from_valkey(
    replicas: Replicas,
) -> None:
    await delete_while_another_reads(replicas.addresses, "read-elsewhere")
    assert replicas.store.execute("KEYS", "e2rank:documents:{n:read-elsewhere}*") == []
    wait_until(
        lambda: not any(num_cached(replicas.cache, "read-elsewhere", epoch) for epoch in (0, 1))
    )


async def test_a_namespace_deleted_while_another_gateway_reads_it_is_gone_from_the_disk(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    shared = ("--second-tier=disk", "--document-store=disk", f"--data-directory={data}")
    with ExitStack() as stack:
        servers = []
        for name in ("first", "second"):
            servers.append(start(tmp_path / name, *shared))
            stack.callback(servers[-1].kill)
        for server in servers:
            server.wait_until_serving()
        addresses = [server.address for server in servers]
        await delete_while_another_reads(addresses, "read-elsewhere")
        assert [server.stop() for server in servers] == [0, 0]
    tags = [tag("read-elsewhere", epoch) for epoch in range(3)]
    assert [len(keys_on_disk(data, each)) for each in tags] == [0, 0, 20]
    assert documents_on_disk(data) == {b"records": 0, b"heads": 0, b"garbage": 0}


def keys_on_disk(data: Path, tag: bytes) -> set[bytes]:
    """Return the keys of a namespace in the second tier, which nobody has open."""
    found: set[bytes] = set()
    for path in (data / "embedding-cache").glob("segment-*.lmdb"):
        with closing(lmdb.open(str(path), subdir=False, readonly=True, max_dbs=1)) as environment:
            values = environment.open_db(b"values", create=False)
            with environment.begin(db=values) as transaction:
                found |= {bytes(key) for key, _ in transaction.cursor()}
    return {key for key in found if key.startswith(tag)}


def documents_on_disk(data: Path) -> dict[bytes, int]:
    """Return how many entries the document store has of what is a document's."""
    with closing(lmdb.open(str(data / "document-store"), readonly=True, max_dbs=5)) as environment:
        databases = {
            name: environment.open_db(name, create=False)
            for name in (b"records", b"heads", b"garbage")
        }
        with environment.begin() as transaction:
            return {
                name: transaction.stat(database)["entries"] for name, database in databases.items()
            }
