"""Puts, deletions and reranks of the same documents at once, on two replicas, against a model.

The replicas share a document store and a second tier, both of them LMDB; each
has its own memory and its own knowledge of epochs. What a rerank answers must
be what some version of each document explains that was current at a moment
between request and answer: the fake embedder makes scores that tell which.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from e2rank_server.document_store.lmdb import LmdbDocumentStore
from e2rank_server.document_store.protocol import StoredDocument
from e2rank_server.embedder.fake import FakeEmbedder
from e2rank_server.embedding_cache.keys import cache_keys, namespace_tag, text_digest
from e2rank_server.embedding_cache.lmdb import LmdbTier
from e2rank_server.embedding_cache.memory import MemoryEmbeddingCache
from e2rank_server.embedding_cache.tiered import TieredEmbeddingCache
from e2rank_server.embedding_cache.values import ElementType, ValueCodec
from e2rank_server.engine.admission import WorkGate
from e2rank_server.engine.documents import DocumentsEngine, PutRequest
from e2rank_server.engine.model import ServedModel
from e2rank_server.engine.namespace_epochs import NamespaceEpochs
from e2rank_server.engine.stored_documents import StoredDocuments
from e2rank_server.errors import UnavailableError, UnknownDocumentsError
from e2rank_server.profiles.profile import Pooling
from e2rank_server.types import (
    CosineOptions,
    Document,
    E2RankOptions,
    PromptOrder,
    RerankOutcome,
    RerankRequest,
)
from tests.document_history import History
from tests.fakes import FakeTokenizer
from tests.unit.engine_rig import DIMENSION, profile

Options: TypeAlias = CosineOptions | E2RankOptions
Work: TypeAlias = Coroutine[Any, Any, None]

SECRET = b"s" * 32
FINGERPRINT = "f"
QUERY = "apple or bread"
IDS = ("a", "b")
SPACES = ("", "n")
TEXTS = ("apple", "bread", "apple bread", "cherry or date", "or apple or date", "elder bread")
OPTIONS: tuple[Options, ...] = (
    CosineOptions(),
    E2RankOptions(prompt_order=PromptOrder.FIRST_STAGE),
    E2RankOptions(prompt_order=PromptOrder.COSINE, prompt_documents=1),
)
# Pooled over the whole prompt, so that a score tells which texts were shown in it, too.
PROFILE = profile(listwise_pooling=Pooling.MEAN)
MAX_BYTES = 16 << 20
# Nothing is killed here, so nothing needs to be waited for.
MEMORY_DISK = next(filter(Path.exists, [Path("/dev/shm")]), None)
SETTLE_SECONDS = 20
END_SECONDS = 0.01


@dataclass(frozen=True)
class Put:
    space: str
    texts: dict[str, str]
    is_embedded: bool


@dataclass(frozen=True)
class Delete:
    space: str
    ids: list[str]


@dataclass(frozen=True)
class DeleteNamespace:
    space: str


@dataclass(frozen=True)
class ById:
    space: str
    ids: list[str]
    options: Options
    is_dropped: bool


@dataclass(frozen=True)
class ByText:
    space: str
    texts: list[str]
    options: Options


@dataclass(frozen=True)
class Leave:
    """One of the callers that wait hangs up."""

    at: int


@dataclass(frozen=True)
class Stall:
    """A replica's model, or whoever reads texts, waits until `Resume`."""

    is_model: bool


@dataclass(frozen=True)
class Resume:
    """Nothing waits any more."""


@dataclass(frozen=True)
class LetEnd:
    """What does not wait for the stalled may come to its end."""


Call: TypeAlias = Put | Delete | DeleteNamespace | ById | ByText
Event: TypeAlias = Call | Leave | Stall | Resume | LetEnd


def events() -> st.SearchStrategy[list[tuple[Event, int, int]]]:
    """Make events, each with the number of a replica and of turns before it."""
    space = st.sampled_from([*SPACES, SPACES[0], SPACES[0]])
    text, options = map(st.sampled_from, (TEXTS, OPTIONS))
    document_id = st.sampled_from(IDS)
    ids = st.lists(document_id, min_size=1, max_size=3)
    put = st.builds(Put, space, st.dictionaries(document_id, text, min_size=1), st.booleans())
    by_id = st.builds(ById, space, ids, options, st.booleans())
    by_text = st.builds(ByText, space, st.lists(text, min_size=1, max_size=3), options)
    distinct_ids = st.lists(document_id, min_size=1, unique=True)
    kinds: list[st.SearchStrategy[Event]] = [
        *[put] * 5,
        *[by_id] * 5,
        *[by_text] * 2,
        st.builds(Delete, space, distinct_ids),
        *[st.builds(DeleteNamespace, space)] * 2,
        st.builds(Leave, st.integers(0, 9)),
        *[st.builds(Stall, st.booleans())] * 3,
        *[st.builds(Resume)] * 2,
        *[st.builds(LetEnd)] * 3,
    ]
    # Not one_of, which tries each kind as often as any other.
    event = st.sampled_from(kinds).flatmap(lambda kind: kind)
    turns = st.sampled_from([0, 0, 3, 30])
    return st.lists(st.tuples(event, NUMBERS, turns), min_size=5, max_size=15)


NUMBERS = st.integers(0, 1)
EVENTS = events()


class StallingStore(LmdbDocumentStore):
    """Reads texts only while `goes_on` is set."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def get(self, namespace: str, ids: Sequence[str]) -> Sequence[StoredDocument | None]:
        await self.goes_on.wait()
        return await super().get(namespace, ids)


class Replica:
    """A gateway's engines, on stores that it shares."""

    def __init__(self, store: LmdbDocumentStore, tier: LmdbTier) -> None:
        self._store = store
        self._first_epochs: Mapping[str, int] = {}
        self._purged: set[tuple[str, int]] = set()
        self.cache = TieredEmbeddingCache(
            MemoryEmbeddingCache(DIMENSION, 4 << 20, ElementType.FLOAT32),
            tier,
            ValueCodec(DIMENSION, ElementType.FLOAT32),
            timeout_seconds=SETTLE_SECONDS,
        )
        self.epochs = NamespaceEpochs(store, self._purge, interval_seconds=0.001)
        self.embedder = FakeEmbedder(DIMENSION)
        self.documents = DocumentsEngine(store, self.epochs, SECRET, max_answer_bytes=1 << 20)
        self.model = ServedModel(
            PROFILE,
            revision="r",
            fingerprint=FINGERPRINT,
            tokenizer=FakeTokenizer(),
            embedder=self.embedder,
            cache=self.cache,
            secret=SECRET,
            gate=WorkGate(1 << 16, 1 << 20),
            stored=StoredDocuments(store, 1 << 20),
            epoch_of=self.epochs.current,
        )

    async def start(self) -> None:
        await self.epochs.start()
        self._first_epochs = dict(await self._store.epochs())

    async def close(self) -> None:
        await self.epochs.close()
        await self.cache.close()

    def is_up_to_date(self, epochs: Mapping[str, int]) -> bool:
        """Return whether it knows these epochs, has purged what ended, and writes nothing."""
        ended = {
            (space, epoch)
            for space in SPACES
            for epoch in range(self._first_epochs.get(space, 0), epochs.get(space, 0))
        }
        writes = self.cache.second_tier_statistics().writes
        assert (writes.errors, writes.dropped) == (0, 0)
        return ended <= self._purged and not writes.waiting

    async def _purge(self, namespace: str, epoch: int) -> None:
        await self.cache.purge(namespace_tag(SECRET, namespace, epoch))
        self._purged.add((namespace, epoch))


class Expected:
    """The scores of texts, from a model that keeps nothing."""

    def __init__(self) -> None:
        self._model = ServedModel(
            PROFILE,
            revision="r",
            fingerprint=FINGERPRINT,
            tokenizer=FakeTokenizer(),
            embedder=FakeEmbedder(DIMENSION),
            cache=MemoryEmbeddingCache(DIMENSION, 1, ElementType.FLOAT32),
            secret=SECRET,
            gate=WorkGate(1 << 16, 1 << 20),
            stored=StoredDocuments(None, 1),
            epoch_of=lambda _: 0,
        )
        self._known: dict[tuple[Options, tuple[str, ...]], list[float]] = {}

    async def scores(self, options: Options, texts: tuple[str, ...]) -> list[float]:
        if not texts:
            return []
        if (options, texts) not in self._known:
            candidates = [Document(text=text) for text in texts]
            outcome = await self._model.rerank(RerankRequest(QUERY, candidates, options=options))
            self._known[options, texts] = scores_of(outcome, range(len(texts)))
        return self._known[options, texts]


def scores_of(outcome: RerankOutcome, positions: Sequence[int]) -> list[float]:
    """Return the scores of the request's documents in its order."""
    scores = {result.index: result.relevance_score for result in outcome.results}
    assert sorted(scores) == sorted(positions)
    return [scores[position] for position in positions]


async def answer_of(
    call: Awaitable[RerankOutcome],
) -> RerankOutcome | UnknownDocumentsError | UnavailableError:
    try:
        return await call
    except (UnknownDocumentsError, UnavailableError) as error:
        return error


def is_close(scores: list[float], expected: list[float]) -> bool:
    return bool(np.allclose(scores, expected, rtol=0, atol=1e-5))


class DocumentsMachine(RuleBasedStateMachine):
    """Each rule begins something, and lets everything go on for a while; `settle` compares."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="documents-", dir=MEMORY_DISK))
        self.loop = asyncio.new_event_loop()
        self.history = History(itertools.product(SPACES, IDS))
        self.running: list[asyncio.Task[None]] = []
        self.run(self.open())

    def run(self, work: Awaitable[Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(3 * SETTLE_SECONDS):
                return await work

        return self.loop.run_until_complete(bounded())

    async def open(self) -> None:
        store = await StallingStore.open(
            self.folder / "documents", max_bytes=MAX_BYTES, max_namespace_bytes=MAX_BYTES
        )
        assert isinstance(store, StallingStore)
        self.store = store
        self.tier = LmdbTier(self.folder / "embeddings", MAX_BYTES)
        self.expected = Expected()
        self.replicas = [Replica(self.store, self.tier) for _ in range(2)]
        for each in self.replicas:
            await each.start()

    def teardown(self) -> None:
        async def close() -> None:
            for task in self.running:
                task.cancel()
            if self.running:
                await asyncio.wait(self.running)
            for each in self.replicas:
                await each.close()
            await self.tier.close()
            await self.store.close()

        try:
            self.settle()
        finally:
            self.run(close())
            self.loop.close()
            shutil.rmtree(self.folder)

    async def collect(self) -> None:
        """Raise what those that have ended raised."""
        for task in [task for task in self.running if task.done()]:
            self.running.remove(task)
            if not task.cancelled():
                task.result()

    # What callers do

    # Each rule has events: a rule without could be all that is tried.

    @rule(events=EVENTS)
    def happen(self, events: list[tuple[Event, int, int]]) -> None:
        """Let things begin, each at a replica and so many turns after the last."""

        async def begin() -> None:
            for event, number, turns in events:
                for _ in range(turns):
                    await asyncio.sleep(0)
                if isinstance(event, LetEnd) and self.running:
                    await asyncio.wait(self.running, timeout=END_SECONDS)
                await self.collect()
                self.begin(event, self.replicas[number])

        self.run(begin())

    def begin(self, event: Event, replica: Replica) -> None:
        match event:
            case Leave():
                # What that caller wrote may be written or not.
                if self.running:
                    self.running[event.at % len(self.running)].cancel()
            case Stall() if event.is_model:
                replica.embedder.hold()
            case Stall():
                self.store.goes_on.clear()
            case Resume():
                self.resume()
            case LetEnd():
                pass
            case _:
                self.running.append(asyncio.create_task(self.work_of(event, replica)))

    def work_of(self, call: Call, replica: Replica) -> Work:
        match call:
            case Put():
                documents = [Document(name, text) for name, text in call.texts.items()]
                models = [replica.model] if call.is_embedded else []
                return self.write(
                    call.space,
                    call.texts,
                    lambda: replica.documents.put(PutRequest(documents, call.space), models),
                )
            case Delete():
                return self.write(
                    call.space,
                    dict.fromkeys(call.ids),
                    lambda: replica.documents.delete(call.space, call.ids),
                )
            case DeleteNamespace():
                return self.write(
                    call.space,
                    dict.fromkeys(IDS),
                    lambda: replica.documents.delete_namespace(call.space),
                )
            case ById():
                request = RerankRequest(
                    QUERY,
                    [Document(name) for name in call.ids],
                    namespace=call.space,
                    options=call.options,
                    drop_unknown=call.is_dropped,
                )
                return self.answer_by_id(replica, request)
            case ByText():
                return self.answer_by_text(replica, call)

    async def write(
        self,
        space: str,
        texts: Mapping[str, str | None],
        work: Callable[[], Awaitable[object]],
    ) -> None:
        writes = self.history.begin(space, texts)
        await work()
        self.history.end(writes)

    async def answer_by_text(self, replica: Replica, call: ByText) -> None:
        candidates = [Document(text=text) for text in call.texts]
        outcome = await replica.model.rerank(
            RerankRequest(QUERY, candidates, namespace=call.space, options=call.options)
        )
        scores = scores_of(outcome, range(len(candidates)))
        assert is_close(scores, await self.expected.scores(call.options, tuple(call.texts)))

    async def answer_by_id(self, replica: Replica, request: RerankRequest) -> None:
        since = self.history.now()
        answer = await answer_of(replica.model.rerank(request))
        space = request.namespace
        possible = [self.history.possible(space, each.id, since) for each in request.documents]
        if isinstance(answer, RerankOutcome):
            await self.explain(answer, possible, request)
        elif isinstance(answer, UnknownDocumentsError):
            assert not request.drop_unknown
            unknown = {violation.field for violation in answer.violations}
            fields = [f"documents[{at}].id" for at in range(len(possible))]
            assert unknown <= {
                field for field, texts in zip(fields, possible, strict=True) if None in texts
            }
        else:
            # Something changed each time that it was tried.
            assert any(len(texts) > 1 for texts in possible)

    async def explain(
        self, outcome: RerankOutcome, possible: Sequence[set[str | None]], request: RerankRequest
    ) -> None:
        """Fail unless the scores are those of texts that are possible."""
        assert request.options is not None
        known = [at for at in range(len(possible)) if at not in outcome.unknown]
        scores = scores_of(outcome, known)
        choices = [
            texts - {None} if at in known else texts & {None} for at, texts in enumerate(possible)
        ]
        for choice in itertools.product(*choices):
            texts = tuple(text for text in choice if text is not None)
            if is_close(scores, await self.expected.scores(request.options, texts)):
                return
        raise AssertionError(f"{scores} of {request} are not of any of {choices}")

    # What the machines do

    @rule(events=EVENTS, number=NUMBERS)
    def happen_until_a_restart(self, events: list[tuple[Event, int, int]], number: int) -> None:
        """Let one replica begin anew, with an empty memory; what is running ends before."""
        self.happen_and_settle(events)

        async def restart() -> None:
            await self.replicas[number].close()
            self.replicas[number] = Replica(self.store, self.tier)
            await self.replicas[number].start()

        self.run(restart())

    @rule(events=EVENTS)
    def happen_and_settle(self, events: list[tuple[Event, int, int]]) -> None:
        self.happen(events)
        self.settle()

    def settle(self) -> None:
        """Let all end; then what is stored and cached must be what is right, and nothing else."""
        self.resume()
        self.run(self.check_settled())

    def resume(self) -> None:
        self.store.goes_on.set()
        for each in self.replicas:
            each.embedder.release()

    async def check_settled(self) -> None:
        while self.running:
            await asyncio.wait(self.running)
            await self.collect()
        # Writes are in order: those of callers who left are before this one.
        await self.store.delete("", ["barrier"])
        epochs = dict(await self.store.epochs())
        await self.until(lambda: all(each.is_up_to_date(epochs) for each in self.replicas))
        for space in SPACES:
            found = await self.store.get(space, IDS)
            for document_id, document in zip(IDS, found, strict=True):
                text = None if document is None else document.text
                self.history.settle(space, document_id, text)
            for each, options in itertools.product(self.replicas, OPTIONS):
                candidates = [Document(document_id) for document_id in IDS]
                request = RerankRequest(QUERY, candidates, space, options=options)
                await self.answer_by_id(each, replace(request, drop_unknown=True))
            for epoch in range(epochs.get(space, 0)):
                await self.check_nothing_is_cached(space, epoch)

    async def check_nothing_is_cached(self, space: str, epoch: int) -> None:
        tag = namespace_tag(SECRET, space, epoch)
        keys = cache_keys(
            tag, SECRET, FINGERPRINT, [text_digest(SECRET, None, text) for text in TEXTS]
        )
        assert await self.tier.get(keys) == [None] * len(keys)
        for each in self.replicas:
            vectors = np.empty((len(keys), DIMENSION), np.float32)
            assert not (await each.cache.lookup_memory(keys, vectors)).any()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SETTLE_SECONDS):
            while not condition():  # noqa: ASYNC110 - what changes it knows nothing of the test
                await asyncio.sleep(0.001)


def test_whatever_happens_at_once_answers_are_of_texts_that_were_current() -> None:
    class Machine(DocumentsMachine):
        pass

    Machine.TestCase.settings = settings(
        max_examples=20,
        stateful_step_count=6,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    Machine.TestCase().runTest()
