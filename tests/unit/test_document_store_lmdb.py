"""The LMDB document store when things go wrong: kill -9, full disks, flipped bytes, versions."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import lmdb
import pytest

from e2rank_server.document_store.lmdb import LmdbDocumentStore
from e2rank_server.document_store.protocol import PutOutcome
from e2rank_server.errors import ConfigurationError, DataLossError, UnavailableError
from tests.document_stores import MAX_BYTES, LmdbPlace, stored

QUOTA = 1 << 30

# Little is imported, so that a process is there in a fraction of a second.
_PRELUDE = """
import asyncio, os, resource, signal, sys
from pathlib import Path
from e2rank_server.document_store import lmdb as module
from e2rank_server.document_store.protocol import StoredDocument
from e2rank_server.embedding_cache.keys import text_digest
from e2rank_server.errors import UnavailableError

def stored(document_id, text="a text"):
    return StoredDocument(document_id, text, None, text_digest(b"s" * 32, None, text))

def acknowledge(line):
    print(line, flush=True)

async def run():
    store = await module.LmdbDocumentStore.open(
        Path(sys.argv[1]), max_bytes=1 << 26, max_namespace_bytes=1 << 30
    )
"""


@pytest.fixture
def place(tmp_path: Path) -> LmdbPlace:
    return LmdbPlace(tmp_path / "document-store", quota=QUOTA)


@pytest.fixture
async def store(place: LmdbPlace) -> AsyncIterator[LmdbDocumentStore]:
    store = await place.open()
    yield store
    await store.close()


def other_process(place: LmdbPlace, body: str) -> subprocess.Popen[str]:
    """Run a coroutine's body with a store that is open on the same folder."""
    script = _PRELUDE + textwrap.indent(textwrap.dedent(body), "    ") + "\nasyncio.run(run())\n"
    return subprocess.Popen(
        [sys.executable, "-c", script, str(place.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def lines_of(process: subprocess.Popen[str]) -> list[str]:
    """Wait for the end of a process that must succeed."""
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output.split()


@pytest.mark.e2e
async def test_what_a_killed_process_acknowledged_is_there_and_right(place: LmdbPlace) -> None:
    process = other_process(
        place,
        """
        async def put(worker):
            for number in range(100_000):
                name = f"{worker}-{number % 50}"
                await store.put("n", [stored(name, f"{number} of {name}"), stored(name + "+")])
                acknowledge(f"{name} {number}")
        await asyncio.gather(*(put(worker) for worker in range(8)))
        """,
    )
    assert process.stdout is not None
    acknowledged: dict[str, int] = {}
    for _ in range(600):
        name, number = process.stdout.readline().split()
        acknowledged[name] = int(number)
    process.kill()
    for line in process.stdout.read().splitlines(keepends=True):
        if line.endswith("\n"):
            name, number = line.split()
            acknowledged[name] = int(number)
    process.wait()

    store = await place.open()
    for name, number in acknowledged.items():
        document, other = await store.get("n", [name, f"{name}+"])
        assert other == stored(f"{name}+")
        assert document is not None
        # A later one may have been written and not yet acknowledged.
        assert document in (
            stored(name, f"{number} of {name}"),
            stored(name, f"{number + 50} of {name}"),
        )
    statistics = await store.statistics("n")
    everything = [f"{worker}-{number}" for worker in range(8) for number in range(50)]
    everything += [f"{name}+" for name in everything]
    found = [each for each in await store.get("n", everything) if each is not None]
    assert statistics.documents == len(found)
    await store.close()


async def test_a_deletion_that_was_cut_short_is_finished_at_the_next_start(
    place: LmdbPlace,
) -> None:
    process = other_process(
        place,
        """
        module._RECORDS_PER_STEP = 10
        await store.put("n", [stored(f"{number}") for number in range(50)])
        await store.put("kept", [stored("a")])
        sweep_step, steps = store._sweep_step, []
        def sweep_and_die(transaction):
            if len(steps) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            steps.append(None)
            return sweep_step(transaction)
        store._sweep_step = sweep_and_die
        await store.delete_namespace("n")
        """,
    )
    process.wait()
    assert process.returncode == -signal.SIGKILL
    # The store is closed: what it left behind can be looked at.
    assert 0 < count(place, b"records") - 1 < 50
    assert count(place, b"garbage") == 1

    store = await place.open()
    assert await store.get("n", ["0", "49"]) == [None, None]
    assert (await store.statistics("n")).documents == 0
    assert await store.epochs() == {"n": 1}
    async with asyncio.timeout(10):
        await store.swept()
    assert await store.get("kept", ["a"]) == [stored("a")]
    await store.close()
    assert [count(place, name) for name in (b"records", b"heads", b"garbage")] == [1, 1, 0]


async def test_deleting_a_namespace_leaves_nothing_behind(place: LmdbPlace) -> None:
    store = await place.open()
    await store.put("n", [stored(f"{number}") for number in range(1500)])
    await store.delete_namespace("n")
    await store.close()
    assert [count(place, name) for name in (b"records", b"heads", b"garbage")] == [0, 0, 0]


async def test_deleting_all_documents_leaves_nothing_behind(place: LmdbPlace) -> None:
    store = await place.open()
    await store.put("n", [stored("a"), stored("b")])
    await store.delete("n", ["a", "b"])
    await store.close()
    assert [count(place, name) for name in (b"records", b"heads", b"namespaces")] == [0, 0, 0]


async def test_processes_see_each_others_writes_at_once(
    store: LmdbDocumentStore, place: LmdbPlace
) -> None:
    process = other_process(
        place,
        """
        for _ in range(20):
            number = sys.stdin.readline().strip()
            [mine] = await store.get("n", ["ping"])
            assert mine.text == number, mine
            await store.put("n", [stored("pong", number)])
            acknowledge(number)
        await store.delete_namespace("n")
        """,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for number in range(20):
        await store.put("n", [stored("ping", f"{number}")])
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{number}\n"
        assert await store.get("n", ["pong"]) == [stored("pong", f"{number}")]
    lines_of(process)
    assert await store.get("n", ["ping"]) == [None]
    assert await store.epochs() == {"n": 1}


async def test_a_full_file_is_unavailable_and_half_of_nothing_is_written(
    tmp_path: Path,
) -> None:
    store = await LmdbPlace(tmp_path, max_bytes=512 * 1024).open()
    kept: list[str] = []

    async def fill() -> None:
        while len(kept) < 100:
            name = f"n{len(kept)}"
            await store.put(name, [stored("a", "x" * 9000), stored("b", "x" * 9000)])
            kept.append(name)

    with pytest.raises(UnavailableError, match="limit of 524288 bytes"):
        await fill()
    assert len(kept) > 5
    for name in kept:
        assert await store.get(name, ["a"]) == [stored("a", "x" * 9000)]
    assert await store.get(f"n{len(kept)}", ["a", "b"]) == [None, None]
    await store.delete_namespace(kept[0])
    await store.put("again", [stored("a", "x" * 9000)])
    await store.close()


async def test_a_write_that_does_not_fit_fails_none_beside_it(tmp_path: Path) -> None:
    store = await LmdbPlace(tmp_path, quota=QUOTA, max_bytes=512 * 1024).open()
    texts = ["small", "x" * 600_000, "small"]
    outcomes = await asyncio.gather(
        *(store.put("n", [stored(f"{number}", text)]) for number, text in enumerate(texts)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [list, UnavailableError, list]
    assert [each is None for each in await store.get("n", ["0", "1", "2"])] == [False, True, False]
    assert (await store.statistics("n")).documents == 2
    await store.close()


@pytest.mark.e2e
async def test_a_full_disk_is_unavailable_and_half_of_nothing_is_written(
    place: LmdbPlace,
) -> None:
    process = other_process(
        place,
        """
        await store.put("n", [stored("first")])
        limit = os.path.getsize(Path(sys.argv[1]) / "data.mdb") + 256 * 1024
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        async def put(number):
            try:
                await store.put("n", [stored(f"{number}", "x" * 900), stored(f"{number}+")])
                acknowledge(number)
            except UnavailableError as error:
                assert error.backend == "document_store"
        for number in range(0, 1000, 5):
            await asyncio.gather(*(put(number + i) for i in range(5)))
        await store.check_health()
        assert await store.get("n", ["first"]) == [stored("first")]
        """,
    )
    acknowledged = lines_of(process)
    assert 10 < len(acknowledged) < 1000
    store = await place.open()
    numbers = [f"{number}" for number in range(1000)]
    texts = await store.get("n", numbers)
    others = await store.get("n", [f"{number}+" for number in numbers])
    for number, text, other in zip(numbers, texts, others, strict=True):
        assert (text is None) == (other is None) == (number not in acknowledged)
    assert (await store.statistics("n")).documents == 1 + 2 * len(acknowledged)
    await store.close()


@pytest.mark.parametrize(
    ("is_record", "at"),
    [(True, -1), (True, 40), (True, 30), (True, 20), (True, 5), (True, 0), (False, 5), (False, 30)],
)
async def test_a_flipped_byte_is_an_error_that_names_the_document(
    place: LmdbPlace, is_record: bool, at: int
) -> None:
    store = await place.open()
    await store.put("n", [stored("damaged", "a text of its own"), stored("whole")])
    await store.close()
    change(
        place,
        b"records" if is_record else b"heads",
        lambda key: key.endswith(b"damaged"),
        lambda value: flipped(value, at),
    )

    store = await place.open()
    with pytest.raises(DataLossError, match="document 'damaged' of namespace 'n'"):
        await (store.get if is_record else store.digests)("n", ["whole", "damaged"])
    assert await store.get("n", ["whole"]) == [stored("whole")]
    assert await store.digests("n", ["whole"]) == [stored("whole").digest]
    again = stored("damaged", "a text of its own")
    assert await store.put("n", [again]) == [PutOutcome.REPLACED]
    assert await store.get("n", ["damaged"]) == [again]
    assert await store.digests("n", ["damaged"]) == [again.digest]
    assert (await store.statistics("n")).documents == 2
    await store.close()


async def test_a_record_under_another_id_is_not_believed(place: LmdbPlace) -> None:
    store = await place.open()
    await store.put("n", [stored("a", "of a"), stored("b", "of b")])
    await store.close()
    other: list[bytes] = []

    def take(value: bytes) -> bytes:
        other.append(value)
        return value

    change(place, b"records", lambda key: key.endswith(b"a"), take)
    change(place, b"records", lambda key: key.endswith(b"b"), lambda _: other[0])
    store = await place.open()
    with pytest.raises(DataLossError, match="'b'"):
        await store.get("n", ["b"])
    await store.close()


async def test_a_damaged_namespace_is_never_taken_for_another(place: LmdbPlace) -> None:
    store = await place.open()
    await store.put("n", [stored("a")])
    await store.close()
    change(place, b"namespaces", lambda _: True, lambda value: flipped(value, 0))
    store = await place.open()
    for call in (store.get("n", ["a"]), store.put("n", [stored("b")]), store.statistics("n")):
        with pytest.raises(DataLossError, match="record of namespace 'n'"):
            await call
    await store.close()


async def test_a_byte_flipped_in_the_file_is_found(place: LmdbPlace) -> None:
    store = await place.open()
    await store.put("n", [stored("a", "a needle in the file")])
    await store.close()
    file = place.folder / "data.mdb"
    content = file.read_bytes()
    assert content.count(b"needle") >= 1
    file.write_bytes(content.replace(b"needle", b"noodle"))
    store = await place.open()
    with pytest.raises(DataLossError, match="document 'a'"):
        await store.get("n", ["a"])
    await store.close()


async def test_a_store_of_a_newer_version_is_refused(place: LmdbPlace) -> None:
    await (await place.open()).close()
    change(place, b"about", lambda key: key == b"format", lambda _: b"\2")
    with pytest.raises(ConfigurationError, match="has format 2, written by a newer version"):
        await place.open()
    change(place, b"about", lambda key: key == b"format", lambda _: b"\1")
    await (await place.open()).close()


async def test_files_of_something_else_are_refused_and_left_alone(place: LmdbPlace) -> None:
    place.folder.mkdir()
    file = place.folder / "data.mdb"
    file.write_bytes(b"somebody's letters " * 1000)
    with pytest.raises(ConfigurationError, match="document store"):
        await place.open()
    assert file.read_bytes() == b"somebody's letters " * 1000


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="file/document-store"):
        await LmdbPlace(tmp_path / "file" / "document-store").open()


async def test_a_put_that_is_given_up_before_its_turn_is_not_done(
    store: LmdbDocumentStore,
) -> None:
    first = asyncio.create_task(store.put("n", [stored("first", "x" * 50_000)]))
    given_up = asyncio.create_task(store.put("n", [stored("given up")]))
    await asyncio.sleep(0)
    given_up.cancel()
    await first
    await asyncio.wait([given_up])
    assert given_up.cancelled()
    assert await store.put("n", [stored("last")]) == [PutOutcome.NEW]


def flipped(value: bytes, at: int) -> bytes:
    damaged = bytearray(value)
    damaged[at] ^= 1
    return bytes(damaged)


def change(
    place: LmdbPlace,
    database: bytes,
    is_meant: Callable[[bytes], bool],
    changed: Callable[[bytes], bytes],
) -> None:
    """Change values of a store that is closed."""
    with lmdb.open(str(place.folder), map_size=MAX_BYTES, max_dbs=8) as environment:
        handle = environment.open_db(database)
        with environment.begin(write=True) as transaction:
            meant = [each for each in transaction.cursor(db=handle) if is_meant(each[0])]
            assert meant
            for key, value in meant:
                transaction.put(key, changed(value), db=handle)


def count(place: LmdbPlace, database: bytes) -> int:
    """Count what is in a store that is closed."""
    with lmdb.open(str(place.folder), map_size=MAX_BYTES, max_dbs=8) as environment:
        handle = environment.open_db(database)
        with environment.begin() as transaction:
            return transaction.stat(handle)["entries"]
