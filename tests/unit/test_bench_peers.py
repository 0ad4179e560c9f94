"""The peers benchmark's own parts, on stand-ins for the peers."""

from __future__ import annotations

import base64
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from benchmarks.overhead.texts import Texts
from benchmarks.peers import commands
from benchmarks.peers.break_even import break_even_hit_rate
from benchmarks.peers.embedding import (
    HEADLINE,
    CutTextError,
    Load,
    count_tokens,
    headlines,
    load_figures,
    measure_embedding,
)
from benchmarks.peers.http_answers import WrongAnswerError, scores, vectors
from benchmarks.peers.peer_process import (
    PeerCommand,
    PeerError,
    RunningPeer,
    free_port,
    running_peer,
)
from benchmarks.peers.reranking import (
    RerankingPlan,
    RerankingSamples,
    ZipfCandidates,
    best_peer,
    reranking_figures,
)
from benchmarks.peers.sentence_transformers_process import answer, server
from benchmarks.peers.sides import Batch, HttpPeer, Run, SentenceTransformersPeer
from benchmarks.peers.turns import alone, order
from e2rank_server.profiles.loading import load_profile

# Serves an embedding [length of the text, 1] and the score 1 / length, worst document
# first, as base64; has a child, and writes both process ids.
STAND_IN = """
import base64, json, os, pathlib, struct, subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(os.environ["STAND_IN_PIDS"]).write_text(f"{os.getpid()} {child.pid}")
print("getting ready", flush=True)

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send(200, {})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/embeddings":
            rows = [struct.pack("<2f", len(text), 1) for text in asked["input"]]
            entries = [
                {"index": index, "embedding": base64.b64encode(row).decode()}
                for index, row in enumerate(rows)
            ]
            self.send(200, {"data": entries[::-1]})
        elif self.path == "/rerank" and asked["documents"][0] != "refuse this":
            entries = [
                {"index": index, "relevance_score": 1 / len(text)}
                for index, text in enumerate(asked["documents"])
            ]
            self.send(200, {"results": sorted(entries, key=lambda each: each["relevance_score"])})
        else:
            self.send(422, {"detail": "not this one"})

    def log_message(self, *arguments):
        pass

    def send(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def command(program: str, port: int, pids: Path = Path(os.devnull)) -> PeerCommand:
    arguments = [sys.executable, "-c", program, str(port)]
    return PeerCommand("stand-in", arguments, {"STAND_IN_PIDS": str(pids)}, port)


@pytest.fixture(scope="module")
def stand_in() -> Iterator[RunningPeer]:
    with running_peer(command(STAND_IN, free_port())) as peer:
        peer.wait_until_ready()
        yield peer


def test_a_peer_is_stopped_with_everything_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with running_peer(command(STAND_IN, free_port(), pids)) as peer:
        peer.wait_until_ready()
        processes = peer.processes()
        assert [process.pid for process in processes] == [int(p) for p in pids.read_text().split()]
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


def test_a_peer_that_ends_fails_with_its_code_and_its_log() -> None:
    program = "import sys; print('no such model'); sys.exit(3)"
    with (
        running_peer(command(program, free_port())) as peer,
        pytest.raises(
            PeerError, match=r"stand-in ended with code 3; .*--peers(.|\n)*no such model"
        ),
    ):
        peer.wait_until_ready()


def test_a_peer_that_never_answers_fails_in_time() -> None:
    program = "import time; print('loading', flush=True); time.sleep(600)"
    with running_peer(command(program, free_port())) as peer:
        while not peer.log_tail():
            pass
        with pytest.raises(PeerError, match=r"did not answer within 0.1 s(.|\n)*loading"):
            peer.wait_until_ready(timeout_seconds=0.1)


def test_a_peer_that_is_not_installed_is_named_with_what_to_do() -> None:
    absent = PeerCommand("infinity", ["/nonexistent/infinity_emb"], {}, free_port())
    with pytest.raises(PeerError, match=r"infinity cannot be started.*setup\.py bench peers"):
        running_peer(absent).__enter__()


async def test_an_http_peer_embeds_in_the_order_of_the_texts(stand_in: RunningPeer) -> None:
    found = await HttpPeer(stand_in, "/embeddings").embed(["one", "three", "seventeen"])
    assert found.tolist() == [[3, 1], [5, 1], [9, 1]]


async def test_an_http_peer_embeds_all_batches_and_times_each(stand_in: RunningPeer) -> None:
    run = await HttpPeer(stand_in, "/embeddings").run([["a"], ["b"], ["c"]], clients=2)
    assert len(run.request_seconds) == 3
    assert max(run.request_seconds) <= run.seconds <= sum(run.request_seconds) + 1


async def test_an_http_peer_reranks(stand_in: RunningPeer) -> None:
    assert await HttpPeer(stand_in, "/embeddings").rerank("q", ["a", "bc"]) > 0


async def test_a_refusal_says_what_the_peer_said(stand_in: RunningPeer) -> None:
    with pytest.raises(PeerError, match=r"stand-in answered 422: .*not this one"):
        await HttpPeer(stand_in, "/embeddings").rerank("q", ["refuse this"])


async def test_a_peer_that_is_gone_is_an_error_not_a_hang(tmp_path: Path) -> None:
    with running_peer(command(STAND_IN, free_port(), tmp_path / "pids")) as peer:
        peer.wait_until_ready()
        side = HttpPeer(peer, "/embeddings")
        peer.processes()[0].kill()
        psutil.wait_procs(peer.processes()[:1], timeout=10)
        with pytest.raises(PeerError, match="stand-in gave no answer"):
            await side.embed(["a"])


@pytest.mark.parametrize("encode", [lambda row: row, lambda row: base64.b64encode(row.tobytes())])
def test_embeddings_are_read_from_numbers_and_from_base64(encode: Callable[..., Any]) -> None:
    row = np.array([0.5, -2.0], "<f4")
    encoded = encode(row)
    value = encoded.decode() if isinstance(encoded, bytes) else encoded.tolist()
    assert vectors({"data": [{"index": 0, "embedding": value}]}, 1).tolist() == [[0.5, -2.0]]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ([], "data: not a list"),
        ({"data": [1]}, "data: not a list of objects"),
        ({"data": []}, "data: 0 vectors"),
        ({"data": [{"index": 0, "embedding": [1]}]}, "data: 1 vectors of one length, 2 expected"),
        ({"data": [{"index": 2, "embedding": [1]}]}, "index: 2 is not between 0 and 1"),
        ({"data": [{"index": 0, "embedding": "???"}]}, "embedding: "),
        ({"data": [{"index": 0, "embedding": ["x"]}]}, "embedding: "),
    ],
)
def test_wrong_embeddings_are_refused_by_field(given: object, field: str) -> None:
    with pytest.raises(WrongAnswerError, match=field):
        vectors(given, 2)


def test_scores_are_in_the_order_of_the_documents() -> None:
    results = [{"index": 1, "relevance_score": 0.75}, {"index": 0, "relevance_score": 0.25}]
    assert scores({"results": results}, 2).tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("results", "field"),
    [
        ([{"index": 0, "relevance_score": 1.0}], "1 of 2 documents have no score"),
        ([{"index": 0, "relevance_score": "high"}], "relevance_score: 'high' is not a number"),
        ([{"index": -1, "relevance_score": 1.0}], "index: -1"),
    ],
)
def test_wrong_scores_are_refused_by_field(results: list[dict[str, Any]], field: str) -> None:
    with pytest.raises(WrongAnswerError, match=field):
        scores({"results": results}, 2)


def lengths(batch: Sequence[Any]) -> np.ndarray:
    """Stand for the library: a vector [2] of a text, a score of a pair."""
    if isinstance(batch[0], str):
        return np.array([[len(text), 1] for text in batch], np.float32)
    return np.array([len(document) for _, document in batch], np.float32)


def test_the_library_process_times_each_batch_and_each_rerank() -> None:
    embedded = answer(lengths, {"batches": [["a", "bc"], ["def"]]})
    assert len(embedded["seconds"]) == 2
    assert len(base64.b64decode(embedded["rows"])) == 3 * 2 * 4
    reranked = answer(lengths, {"query": "q", "documents": ["a", "bc"]})
    assert len(reranked["seconds"]) == 1
    assert np.frombuffer(base64.b64decode(reranked["rows"]), "<f4").tolist() == [1, 2]


@pytest.fixture
def library_peer(stand_in: RunningPeer) -> Iterator[tuple[SentenceTransformersPeer, list[int]]]:
    """Serve the stand-in for the library in a thread; also its batches' sizes."""
    sizes: list[int] = []

    def call(batch: Sequence[Any]) -> np.ndarray:
        sizes.append(len(batch))
        return lengths(batch)

    http = server(call, 0)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    peer = SentenceTransformersPeer(stand_in)
    stand_in_url, stand_in.url = stand_in.url, f"http://127.0.0.1:{http.server_address[1]}"
    yield peer, sizes
    stand_in.url = stand_in_url
    http.shutdown()
    thread.join()
    http.server_close()


async def test_the_library_gets_the_batches_of_all_clients_in_one_call(
    library_peer: tuple[SentenceTransformersPeer, list[int]],
) -> None:
    peer, sizes = library_peer
    run = await peer.run([["a", "b"]] * 6, clients=3)
    assert sizes == [6, 6]
    assert len(run.request_seconds) == 2
    assert run.seconds == sum(run.request_seconds)


async def test_the_library_embeds_and_reranks(
    library_peer: tuple[SentenceTransformersPeer, list[int]],
) -> None:
    peer, _ = library_peer
    assert (await peer.embed(["a", "bc"])).tolist() == [[1, 1], [2, 1]]
    assert await peer.rerank("q", ["a", "bc"]) >= 0


def test_peers_get_the_same_model_element_type_threads_and_lengths(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"num_hidden_layers": 6, "num_attention_heads": 12, "hidden_size": 384}'
    )
    profile = load_profile(commands.PROFILE)
    for made in (
        commands.embedding_commands(profile, tmp_path),
        commands.cross_encoder_commands(tmp_path),
    ):
        assert set(made) == set(commands.PEERS)
        assert len({each.port for each in made.values()}) == len(made)
        for name, each in made.items():
            words = list(each.arguments)
            assert str(tmp_path) in words
            if name == commands.SENTENCE_TRANSFORMERS:
                assert words[words.index("--max-tokens") + 1] == "512"
            else:
                assert words[words.index("--dtype") + 1] == "float32"
            if name == commands.VLLM:
                assert words[words.index("--max-model-len") + 1] == "512"
                assert "--no-enable-prefix-caching" in words
            else:
                assert each.variables["OMP_NUM_THREADS"] == str(commands.num_threads())


def test_published_commands_have_names_for_paths_and_ports(tmp_path: Path) -> None:
    made = commands.cross_encoder_commands(tmp_path)
    for each in made.values():
        line = each.line(commands.shown_names(tmp_path))
        assert str(tmp_path) not in line
        assert str(commands.ROOT) not in line
        assert "--port PORT" in line
        assert "MODEL" in line
    vllm = made[commands.VLLM].line(commands.shown_names(tmp_path))
    assert "--kv-cache-memory-bytes 1073741824" in vllm
    assert " .venv/bin/python -m " in vllm


class FakeSide:
    """Embeds nothing, in 1 s a text; records the batches."""

    processes: Sequence[psutil.Process] = ()

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.batches: list[Batch] = []
        self._log = log

    async def run(self, batches: Sequence[Batch], clients: int) -> Run:
        self._log.append(self.name)
        self.batches += batches
        seconds = [float(len(batch)) for batch in batches]
        return Run(sum(seconds), seconds)


def test_turns_alternate_in_direction() -> None:
    sides = [FakeSide(name, []) for name in "abc"]
    assert [[side.name for side in order(sides, turn)] for turn in range(3)] == [
        ["a", "b", "c"],
        ["c", "b", "a"],
        ["a", "b", "c"],
    ]


def test_while_one_side_is_measured_the_others_are_stopped(stand_in: RunningPeer) -> None:
    class ProcessSide(FakeSide):
        processes = stand_in.processes()

    measured, other = FakeSide("measured", []), ProcessSide("other", [])

    def wait_until(*, is_stopped: bool) -> None:
        end = time.monotonic() + 10
        while any(
            (each.status() == psutil.STATUS_STOPPED) != is_stopped for each in other.processes
        ):
            assert time.monotonic() < end

    with alone(measured, [measured, other]):
        wait_until(is_stopped=True)
    wait_until(is_stopped=False)


async def test_all_sides_embed_the_same_new_texts_in_turns() -> None:
    log: list[str] = []
    sides = [FakeSide("e2rank", log), FakeSide("infinity", log)]
    load = Load(batch=2, clients=3, requests_per_client=2, turns=2)
    steps: list[None] = []
    figures = await measure_embedding(sides, [load], lambda: steps.append(None))
    assert log == ["e2rank", "infinity", "e2rank", "infinity", "infinity", "e2rank"]
    assert len(steps) == 2
    warm_up = 16
    ours, theirs = (side.batches[warm_up:] for side in sides)
    assert ours == theirs
    assert [len(batch) for batch in ours] == [2] * 3 * 2 * 2
    texts = [text for batch in sides[0].batches for text in batch]
    assert len(set(texts)) == len(texts)
    assert figures["embed.batch_2.clients_3.e2rank.texts_per_second"].value == 1.0
    assert figures["embed.batch_2.clients_3.infinity.p50_seconds"].value == 2.0
    assert figures["embed_over_infinity.batch_2.clients_3"].value == 1.0


def test_the_headline_is_our_throughput_over_theirs() -> None:
    runs = {"e2rank": [Run(2.0, [2.0])] * 3, "vllm_http": [Run(3.0, [3.0])] * 3}
    figures = load_figures(HEADLINE, runs)
    assert headlines(figures)["embed_over_vllm_http"].value == pytest.approx(1.5)
    assert headlines(load_figures(Load(1, 1, 1, 1), runs)) == {}


def test_a_text_that_a_side_would_cut_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(2)  # as some models' files say; it must not hide the length
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert count_tokens(tmp_path / "tokenizer.json", ["a b c", "a"], 3) == [3, 1]
    with pytest.raises(CutTextError, match="a text has 3 tokens, of which 2 are kept"):
        count_tokens(tmp_path / "tokenizer.json", ["a b c", "a"], 2)


@pytest.mark.parametrize(
    ("other_seconds", "expected"),
    [
        (3.0, 0.0),  # as fast without a single hit
        (2.0, 0.0),
        (1.5, 0.25),
        (1.0, 0.5),
        (0.6, 0.9),
        (0.35, 0.95),
        (0.1, 1.0),
        (0.09, None),  # slower even when everything is cached
    ],
)
def test_break_even_is_interpolated_between_measured_hit_rates(
    other_seconds: float, expected: float | None
) -> None:
    seconds = {1.0: 0.1, 0.0: 2.0, 0.5: 1.0, 0.9: 0.6}
    assert break_even_hit_rate(seconds, other_seconds) == (
        None if expected is None else pytest.approx(expected)
    )


def samples(cold: float, warm: float) -> RerankingSamples:
    """Make two turns; the best cross-encoder takes 1 s."""
    ours = {
        "e2rank.cold": [cold] * 2,
        "e2rank.hit_rate_50": [(cold + warm) / 2] * 2,
        "e2rank.warm": [warm] * 2,
        "e2rank.zipf": [0.5] * 2,
        "cosine.cold": [cold] * 2,
        "cosine.warm": [warm / 2] * 2,
    }
    return RerankingSamples(
        peers={"vllm_http": [1.0] * 2, "infinity": [2.0] * 2},
        ours=ours,
        zipf_seconds=[0.25, 0.75],
        zipf_cached=[0, 50],
    )


PLAN = RerankingPlan(turns=2, candidates=100, hit_rates=(0.5,))


def test_reranking_is_compared_with_the_quickest_cross_encoder() -> None:
    figures = reranking_figures(samples(cold=2.0, warm=0.1), PLAN)
    assert figures["crossencoder_over_warm"].value == pytest.approx(10)
    assert figures["crossencoder_over_cold"].value == pytest.approx(0.5)
    assert figures["crossencoder_over_zipf"].value == pytest.approx(2)
    assert figures["crossencoder_over_warm.cosine"].value == pytest.approx(20)
    assert figures["crossencoder.minilm.infinity.p50_seconds"].value == 2.0
    assert figures["rerank.e2rank.zipf.hit_rate"] == 0.25
    assert figures["break_even_hit_rate"] == pytest.approx(1 / 1.9)
    assert best_peer({"a": [3.0, 1.0, 2.0], "b": [1.5, 1.5, 9.0]}) == "b"


def test_without_a_break_even_the_figure_is_left_out() -> None:
    assert "break_even_hit_rate" not in reranking_figures(samples(cold=3.0, warm=1.5), PLAN)
    assert reranking_figures(samples(cold=0.9, warm=0.1), PLAN)["break_even_hit_rate"] == 0.0


def test_zipf_candidates_are_distinct_and_the_popular_come_often() -> None:
    passages = Texts().shuffled([f"passage {number}" for number in range(200)])
    stream = iter(ZipfCandidates(passages, 1.0, 20))
    requests = [next(stream) for _ in range(50)]
    assert all(len(set(request)) == 20 for request in requests)
    asked = [passages.index(text) for request in requests for text in request]
    assert asked.count(0) > 30
    assert sum(number < 20 for number in asked) > 2 * sum(number >= 180 for number in asked)


def test_rankings_agree_but_for_ties() -> None:
    pytest.importorskip("scipy")
    from benchmarks.peers.agreement import agreement_figures, compare

    ours = np.array([0.9, 0.5, 0.49995, 0.1], np.float32)
    tie = compare(ours, np.array([0.9, 0.49995, 0.5, 0.1], np.float32))
    assert tie.is_same_ranking
    assert tie.kendall_tau < 1
    swapped = compare(ours, np.array([0.9, 0.45, 0.5, 0.1], np.float32))
    assert not swapped.is_same_ranking
    # Neighbours that differ by less than a tie each must not add up to a large step.
    drift = np.array([0.5 + 0.00009 * step for step in range(5)], np.float32)
    assert not compare(drift[::-1].copy(), drift).is_same_ranking
    figures = agreement_figures("infinity", [tie, swapped])
    assert figures["agreement.infinity"] == 0.5
    assert figures["agreement.infinity.max_score_difference"] == pytest.approx(0.05, abs=1e-6)


def test_table_and_plot_show_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.figures import value_of
    from benchmarks.peers.report import markdown_tables, plot, rerank_seconds

    runs = {"e2rank": [Run(2.0, [2.0])] * 3, "vllm_http": [Run(1.0, [1.0])] * 3}
    embedding = load_figures(HEADLINE, runs)
    figures = {
        **headlines(embedding),
        **embedding,
        **reranking_figures(samples(cold=2.0, warm=0.1), PLAN),
    }
    table = markdown_tables(figures)
    assert "in each | E2Rank Server | vLLM's HTTP server |" in table
    assert "| 8 of 32 | 256.0 | 512.0 |" in table
    assert "| embed_over_vllm_http | 0.5 | 0.5 to 0.5 | 3 | at least 1: missed |" in table
    plain = {name: value_of(each) for name, each in figures.items()}
    assert list(rerank_seconds(plain))[:2] == ["E2RANK, cold", "COSINE, cold"]
    assert rerank_seconds(plain)["E2RANK, 50 % cached"] == pytest.approx(1.05)
    plot(plain, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")
    plot({}, tmp_path / "nothing.png")
    assert not (tmp_path / "nothing.png").exists()


def test_an_unknown_peer_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.peers.__main__ import parse_arguments

    assert parse_arguments(["--peers", "infinity,vllm_http"]).peers == ("infinity", "vllm_http")
    with pytest.raises(SystemExit):
        parse_arguments(["--peers", "infinity,tei"])
    assert "tei: choose from vllm_http,infinity,sentence_transformers" in capsys.readouterr().err


def test_a_section_in_which_a_ranking_differs_fails_the_run() -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.figures import Provenance, Section
    from benchmarks.peers.__main__ import agrees

    provenance = Provenance({}, "", "", "")
    for name, share, expected in (("agreement", 1.0, True), ("agreement", 0.95, False)):
        section = Section(name, provenance, {}, {"agreement.infinity": share})
        assert agrees(section, ["infinity"]) is expected
    assert agrees(Section("embedding", provenance, {}, {}), ["infinity"])
