"""What a gateway keeps, when there is no room for it or it is damaged."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2rank_client import (
    DataLossError,
    Document,
    E2RankClient,
    QuotaExceededError,
    RerankResult,
    StoredDocument,
    UnavailableError,
)
from e2rank_client.types import SecondTierStats
from e2rank_server.embedding_cache.keys import cache_keys, namespace_tag, text_digest
from e2rank_server.embedding_cache.valkey import KEY_PREFIX
from tests.e2e.server_process import ServerProcess
from tests.valkey_server import running_valkey

pytestmark = pytest.mark.e2e

SECRET = "the secret of a deployment"
QUERY = "leaf sugar"
MIB = 1 << 20
VALUE_BEGINS = b"E2"
PATIENCE_SECONDS = 30.0


@contextmanager
def gateway(folder: Path, *arguments: str) -> Iterator[tuple[ServerProcess, E2RankClient]]:
    """Run a gateway whose scores are exact, and a client of it that repeats nothing."""
    folder.mkdir()
    server = ServerProcess(
        folder,
        "--embedder=fake",
        "--tokenizer=in-process",
        "--cache-element-type=float32",
        "--second-tier-timeout-seconds=2",
        *arguments,
        environ={"E2RANK_CACHE_SECRET": SECRET},
    )
    try:
        server.wait_until_serving()
        with E2RankClient(server.address, max_attempts=1) as client:
            yield server, client
    finally:
        server.kill()


def on_disk(data: Path, *more: str) -> tuple[str, ...]:
    return ("--second-tier=disk", "--document-store=disk", f"--data-directory={data}", *more)


def by_text(client: E2RankClient, texts: Sequence[str], namespace: str = "") -> RerankResult:
    return client.rerank(QUERY, texts, method="COSINE", namespace=namespace)


def by_id(client: E2RankClient, ids: Sequence[str]) -> RerankResult:
    return client.rerank(QUERY, [Document(id=each) for each in ids], method="COSINE")


def scores(answer: RerankResult) -> list[float]:
    """Return the scores in the order of the request."""
    return [each.relevance_score for each in sorted(answer.results, key=lambda each: each.index)]


def tiers(answer: RerankResult) -> list[str]:
    """Return where the vectors came from in the order of the request."""
    ordered = sorted(answer.results, key=lambda each: each.index)
    return [str(each.cache_tier) for each in ordered]


def second_tier(client: E2RankClient) -> SecondTierStats:
    statistics = client.get_model().cache.second_tier
    assert statistics is not None
    return statistics


def has_written_all(client: E2RankClient) -> bool:
    writes = second_tier(client).writes
    return writes.written > 0 and writes.pending == 0


def fill(client: E2RankClient, texts: dict[str, str]) -> UnavailableError:
    """Put documents of which `texts` then has those acknowledged, until one is refused."""
    for number in range(len(texts), 1000):
        document = StoredDocument(f"large{number}", f"leaf {number} " * 20_000)
        try:
            client.put_documents([document], store_only=True)
        except UnavailableError as error:
            assert client.documents_exist([document.id]) == (False,)
            return error
        texts[document.id] = document.text
    raise AssertionError("there was always room")


def assert_all_is_there(client: E2RankClient, texts: dict[str, str]) -> None:
    found = client.get_documents(list(texts))
    assert {each.id: each.text for each in found if each is not None} == texts
    assert client.get_namespace_stats().documents == len(texts)


# No room


def test_a_put_beyond_the_quota_says_how_much_and_stores_nothing(tmp_path: Path) -> None:
    quota = "--max-namespace-bytes=10000"
    with gateway(tmp_path / "server", *on_disk(tmp_path / "data", quota)) as (_, client):
        client.put_documents([StoredDocument("a", "x" * 5000)], namespace="n")
        more = [StoredDocument("b", "y" * 100), StoredDocument("c", "z" * 5000)]
        with pytest.raises(QuotaExceededError) as caught:
            client.put_documents(more, namespace="n")
        error = caught.value
        assert (error.code.name, error.namespace) == ("RESOURCE_EXHAUSTED", "n")
        assert (error.stored_bytes, error.max_bytes) == (5000 + 1 + 128, 10_000)
        assert error.needed_bytes == 100 + 5000 + 2 * (1 + 128)
        assert str(error) == (
            "namespace 'n' holds 5129 bytes and its quota is 10000; 5358 more do not fit"
        )
        assert client.documents_exist(["a", "b", "c"], namespace="n") == (True, False, False)
        # A quota is of one namespace, and what is smaller has room.
        client.put_documents(more, namespace="m")
        client.put_documents(more[:1], namespace="n")


def test_a_full_store_and_a_full_disk_refuse_puts_and_lose_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    texts: dict[str, str] = {}
    small = on_disk(data, f"--document-store-bytes={2 * MIB}")
    with gateway(tmp_path / "full_store", *small) as (_, client):
        error = fill(client, texts)
        assert f"its file has reached the limit of {2 * MIB} bytes" in str(error)
        assert_all_is_there(client, texts)
        assert len(by_text(client, ["a new text"]).results) == 1
    # That one was killed.
    with gateway(tmp_path / "full_disk", *on_disk(data)) as (server, client):
        assert_all_is_there(client, texts)
        limit_files(server, max(path.stat().st_size for path in data.glob("*/*.*db")))
        assert "document_store" in str(fill(client, texts))
        assert_all_is_there(client, texts)
        # The cache has no room to write to, which nobody who asks notices.
        for number in range(3):
            new_texts = [f"sugar {number} {each}" for each in range(1000)]
            assert tiers(by_text(client, new_texts)) == ["COMPUTED"] * 1000
            assert tiers(by_text(client, new_texts)) == ["MEMORY"] * 1000
        wait_until(lambda: second_tier(client).writes.errors > 0)
        assert len(by_id(client, list(texts)).results) == len(texts)
        limit_files(server, resource.RLIM_INFINITY)
        client.put_documents([StoredDocument("afterwards", "there is room again")])
        texts["afterwards"] = "there is room again"
        server.kill()
    with gateway(tmp_path / "afterwards", *on_disk(data)) as (_, client):
        assert_all_is_there(client, texts)


def limit_files(server: ServerProcess, num_bytes: int) -> None:
    """Let no file of the server grow beyond this, as on a full disk."""
    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (num_bytes, hard))


# Damage


def test_a_byte_flipped_on_disk_costs_one_document_and_makes_no_score_wrong(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    texts = {f"id{n}": f"leaf {n} and the beet of day {n}" for n in range(10)}
    with gateway(tmp_path / "before", *on_disk(data)) as (server, client):
        client.put_documents([StoredDocument(*each) for each in texts.items()])
        right = scores(by_id(client, list(texts)))
        key = cache_key(client, texts["id3"])
        assert server.stop() == 0
    flip(data / "document-store" / "data.mdb", texts["id7"].encode(), at=5)
    for path in segments(data):
        flip(path, key + VALUE_BEGINS, at=len(key) + 100)
    with gateway(tmp_path / "after", *on_disk(data)) as (_, client):
        answer = by_text(client, list(texts.values()))
        assert tiers(answer) == ["DISK"] * 3 + ["COMPUTED"] + ["DISK"] * 6
        assert scores(answer) == pytest.approx(right, abs=1e-6)
        assert second_tier(client).rejected == 1
        check_that_one_is_damaged(client, texts, right)


def check_that_one_is_damaged(
    client: E2RankClient, texts: dict[str, str], right: list[float]
) -> None:
    """The text of id7 is; its vector is in a cache, and needs no text to be found."""
    assert scores(by_id(client, list(texts))) == pytest.approx(right, abs=1e-6)
    for call in (
        lambda: client.get_documents(list(texts)),
        lambda: client.rerank(
            QUERY, [Document(id=each) for each in texts], method="COSINE", return_documents=True
        ),
    ):
        with pytest.raises(DataLossError) as caught:
            call()
        assert (caught.value.code.name, caught.value.document_id) == ("DATA_LOSS", "id7")
    others = [each for each in texts if each != "id7"]
    assert len(client.get_documents(others)) == len(others)
    # To put it again repairs it.
    client.put_documents([StoredDocument("id7", texts["id7"])])
    assert client.get_documents(["id7"])[0] == StoredDocument("id7", texts["id7"])


def test_a_byte_flipped_in_valkey_costs_one_document_and_makes_no_score_wrong(
    tmp_path: Path,
) -> None:
    texts = {f"id{n}": f"leaf {n} and the beet of day {n}" for n in range(10)}
    with (
        running_valkey() as cache,
        running_valkey(appendonly="yes", maxmemory_policy="noeviction") as store,
    ):
        shared = (f"--second-tier={cache.url}", f"--document-store={store.url}")
        with gateway(tmp_path / "first", *shared) as (_, client):
            client.put_documents([StoredDocument(*each) for each in texts.items()])
            right = scores(by_id(client, list(texts)))
            name = KEY_PREFIX + cache_key(client, texts["id3"]).hex()
            wait_until(lambda: has_written_all(client))
        with gateway(tmp_path / "second", *shared) as (_, client):
            cache.execute("SET", name, flipped(cache.execute("GET", name), 100))
            records = "e2rank:documents:{n:}:records"
            record = store.execute("HGET", records, "id7")
            store.execute("HSET", records, "id7", flipped(record, len(record) - 5))
            answer = by_text(client, list(texts.values()))
            assert tiers(answer) == ["SHARED"] * 3 + ["COMPUTED"] + ["SHARED"] * 6
            assert scores(answer) == pytest.approx(right, abs=1e-6)
            assert second_tier(client).rejected == 1
            check_that_one_is_damaged(client, texts, right)


def cache_key(client: E2RankClient, text: str) -> bytes:
    """Return the key of a text in the empty namespace."""
    secret = SECRET.encode()
    digest = text_digest(secret, None, text)
    [key] = cache_keys(
        namespace_tag(secret, "", 0), secret, client.get_model().identity.fingerprint, [digest]
    )
    return key


def flip(file: Path, found: bytes, at: int) -> None:
    """Flip a bit of the byte `at` behind the beginning of each place where `found` stands."""
    content = file.read_bytes()
    first = content.find(found)
    assert first >= 0
    while first >= 0:
        content = flipped(content, first + at)
        first = content.find(found, first + at)
    file.write_bytes(content)


def flipped(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def segments(data: Path) -> list[Path]:
    return list((data / "embedding-cache").glob("segment-*.lmdb"))


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)
