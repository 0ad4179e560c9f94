"""`e2rank put`, interrupted by the death of the server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from e2rank_client import Document, E2RankClient
from tests.e2e.server_process import ServerProcess

pytestmark = pytest.mark.e2e

NUM_DOCUMENTS = 4000
NUM_ASKED = 500
E2RANK = Path(sys.executable).with_name("e2rank")
BYTES_BESIDE_A_DOCUMENT = 128


@contextmanager
def server_on(data: Path, folder: Path, listen: str) -> Iterator[ServerProcess]:
    """Run a gateway that keeps documents in `data`."""
    folder.mkdir()
    server = ServerProcess(
        folder,
        "--embedder=fake",
        "--tokenizer=in-process",
        "--document-store=disk",
        f"--data-directory={data}",
        f"--listen={listen}",
    )
    try:
        server.wait_until_serving()
        yield server
    finally:
        server.kill()


def start_put(corpus: Path, address: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(str(E2RANK), "put", str(corpus), "--namespace=wiki", "--batch-size=16"),
            *("--max-wait=0", "--json", f"--address={address}"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_acknowledged(corpus: Path) -> int:
    """Return how far a put came that has not ended well."""
    try:
        resume = json.loads(corpus.with_name(corpus.name + ".e2rank-put").read_text())
    except FileNotFoundError:
        return 0
    return int(resume["mark"]["line"])


def wait_for_lines(corpus: Path, number: int, put: subprocess.Popen[str]) -> None:
    while lines_acknowledged(corpus) < number:
        assert put.poll() is None, put.communicate()
        time.sleep(0.001)


def stored(client: E2RankClient, ids: list[str]) -> dict[str, str]:
    """Return the texts of those that are stored."""
    found: dict[str, str] = {}
    for first in range(0, len(ids), NUM_ASKED):
        some = client.get_documents(ids[first : first + NUM_ASKED], namespace="wiki")
        found |= {each.id: each.text for each in some if each is not None}
    return found


def scores(client: E2RankClient, documents: list[Document], namespace: str) -> list[float]:
    answer = client.rerank("leaf sugar", documents, method="COSINE", namespace=namespace)
    return [each.relevance_score for each in sorted(answer.results, key=lambda each: each.index)]


def assert_scores_are_of_the_texts(client: E2RankClient, texts: Mapping[str, str]) -> None:
    by_id = scores(client, [Document(id=name) for name in texts], "wiki")
    by_text = scores(client, [Document(text) for text in texts.values()], "another")
    assert by_id == pytest.approx(by_text, abs=1e-3)  # cached vectors are float16


def test_a_put_goes_on_where_the_killed_server_had_acknowledged_it(tmp_path: Path) -> None:
    texts = {f"id{n}": f"leaf {n} and sugar {n % 7}" for n in range(NUM_DOCUMENTS)}
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in texts.items()))
    ids = list(texts)
    with server_on(tmp_path / "data", tmp_path / "first", "127.0.0.1:0") as server:
        address = server.address  # the put that goes on has to be to the same
        put = start_put(corpus, address)
        wait_for_lines(corpus, NUM_DOCUMENTS // 8, put)
        server.kill()
        _, errors = put.communicate(timeout=60)
        assert put.returncode == 1, errors
    acknowledged = lines_acknowledged(corpus)
    assert NUM_DOCUMENTS // 8 <= acknowledged < NUM_DOCUMENTS

    with (
        server_on(tmp_path / "data", tmp_path / "second", address),
        E2RankClient(address) as client,
    ):
        survived = stored(client, ids)
        assert set(ids[:acknowledged]) <= survived.keys()
        assert survived.items() <= texts.items()
        assert client.get_namespace_stats("wiki").documents == len(survived)
        assert_scores_are_of_the_texts(client, dict(list(survived.items())[-100:]))

        put = start_put(corpus, address)
        output, errors = put.communicate(timeout=60)
        assert put.returncode == 0, errors
        totals: dict[str, Any] = json.loads(output)
        assert totals["first_line"] == acknowledged + 1
        assert totals["documents_new"] == NUM_DOCUMENTS - len(survived)
        assert totals["documents_unchanged"] == len(survived) - acknowledged
        assert stored(client, ids) == texts
        stats = client.get_namespace_stats("wiki")
        assert stats.documents == NUM_DOCUMENTS
        assert stats.stored_bytes == sum(
            len(name) + len(text) + BYTES_BESIDE_A_DOCUMENT for name, text in texts.items()
        )
        assert_scores_are_of_the_texts(client, dict(list(texts.items())[-100:]))
    assert lines_acknowledged(corpus) == 0
