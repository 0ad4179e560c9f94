"""The latency experiment on fakes: its order and checks, bounds, passages, a made model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.latency.__main__ import parse_arguments
from benchmarks.latency.bounds import Comparison, Pairs, speedups
from benchmarks.latency.experiment import Experiment, UnequalWorkError
from benchmarks.latency.prompts import WindowIds, e2rank_request, llm_request
from benchmarks.latency.random_model import write_profile
from benchmarks.latency.shapes import CANDIDATES, SHAPES, Shape, first_tokens
from benchmarks.latency.turns import Server, Turns
from benchmarks.overhead.texts import Texts
from benchmarks.qwen3 import QWEN3_0_6B
from e2rank.v1 import rerank_pb2
from e2rank_server.llm_listwise.windows import windows
from e2rank_server.profiles.loading import load_profile
from e2rank_server.profiles.profile import SourceKind
from e2rank_server.prompting.segments import load_tokenizer
from e2rank_server.types import TokenIds
from tests.contract.small_tokenizers import smollm_like

SHAPE = replace(
    SHAPES["smollm2-100w"], queries=2, warm_iterations=3, cold_iterations=2, windows_between=2
)
PASSAGES = [f"passage {number}" for number in range(CANDIDATES)]

# Bounds


def test_bound_is_what_the_bare_passes_alone_would_give() -> None:
    figures = speedups(
        Comparison(
            warm=Pairs(served=[2.0] * 5, bare=[1.8] * 5),
            cold=Pairs(served=[10.0] * 3, bare=[9.5] * 3),
            llm=Pairs(served=[50.0], bare=[45.0]),
        )
    )
    found = {name: figure.value for name, figure in figures.items()}
    assert found == pytest.approx(
        {
            "warm_speedup": 25,
            "warm_bound": 25,
            "warm_share_of_bound": 1,
            "warm_over_passes": 2 / 1.8,
            "cold_speedup": 5,
            "cold_bound": 45 / 9.5,
            "cold_share_of_bound": 5 / (45 / 9.5),
            "cold_over_passes": 10 / 9.5,
            "llm_over_windows": 50 / 45,
        }
    )


def test_intervals_hold_the_figures_and_count_the_fewest_iterations() -> None:
    figures = speedups(
        Comparison(
            warm=Pairs([2.0, 2.4, 2.1], [1.8, 2.2, 1.7]),
            cold=Pairs([10.0, 12.0], [9.0, 11.5]),
            llm=Pairs([50.0, 66.0], [45.0, 60.0]),
        )
    )
    for figure in figures.values():
        assert figure.low <= figure.value <= figure.high
        assert figure.iterations == 2
    assert figures["warm_speedup"].low < figures["warm_speedup"].high


def test_sides_that_were_not_measured_in_turns_are_refused() -> None:
    pairs = Pairs([1.0], [1.0])
    with pytest.raises(ValueError, match="1 and 2 samples are not pairs"):
        speedups(Comparison(pairs, pairs, Pairs([1.0], [1.0, 2.0])))


# Passages and requests


@pytest.fixture
def tokenizer_json(tmp_path: Path) -> Path:
    return smollm_like(tmp_path)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_passages_have_the_shapes_length_and_differ(shape: Shape, tokenizer_json: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_json.read_text())
    passages = shape.passages(5, Texts(), tokenizer)
    assert len(set(passages)) == 5
    for passage in passages:
        if shape.passage_tokens is None:
            assert len(passage.split()) == shape.passage_words
        else:
            num_tokens = len(tokenizer.encode(passage, add_special_tokens=False).ids)
            assert shape.passage_tokens - 30 < num_tokens <= shape.passage_tokens


def test_a_text_is_cut_between_words(tokenizer_json: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_json.read_text())
    text = "unexampled antidisestablishmentarianism everywhere"
    lengths = {
        cut: len(tokenizer.encode(cut, add_special_tokens=False).ids)
        for cut in (text, text.rpartition(" ")[0], text.split()[0])
    }
    for cut, number in lengths.items():
        assert first_tokens(text, number, tokenizer) == cut
    shorter = text.rpartition(" ")[0]
    assert first_tokens(text, lengths[text] - 1, tokenizer) == shorter
    assert first_tokens(text, lengths[shorter] - 1, tokenizer) == text.split()[0]


def test_both_methods_are_asked_for_as_the_paper_has_them() -> None:
    e2rank = e2rank_request("q", PASSAGES, "n")
    llm = llm_request("q", PASSAGES, 1024)
    assert [each.text for each in e2rank.documents] == [each.text for each in llm.documents]
    assert e2rank.e2rank.prompt_documents == 20
    options = llm.llm_listwise
    assert (options.template, options.window_size, options.stride) == ("rankqwen3", 20, 10)
    assert options.max_words_per_document == 1024
    assert len(windows(CANDIDATES, options.window_size, options.stride)) == 9


# The model that is made


def test_qwens_shape_has_as_many_parameters_as_the_published_model() -> None:
    hidden, head = QWEN3_0_6B["hidden_size"], QWEN3_0_6B["head_dim"]
    heads, kv_heads = QWEN3_0_6B["num_attention_heads"], QWEN3_0_6B["num_key_value_heads"]
    attention = 2 * hidden * head * (heads + kv_heads) + 2 * head
    layer = attention + 3 * hidden * QWEN3_0_6B["intermediate_size"] + 2 * hidden
    embedding = QWEN3_0_6B["vocab_size"] * hidden
    assert QWEN3_0_6B["tie_word_embeddings"]
    assert embedding + QWEN3_0_6B["num_hidden_layers"] * layer + hidden == 596_049_920


def test_made_profile_is_smollm2s_but_for_model_and_size(tmp_path: Path) -> None:
    profile = load_profile(
        str(write_profile(tmp_path, "made", dimension=64, max_model_tokens=4096))
    )
    smollm2 = load_profile("smollm2-135m")
    assert (profile.name, profile.dimension, profile.max_model_tokens) == ("made", 64, 4096)
    assert (profile.source.kind, Path(profile.source.location)) == (SourceKind.PATH, tmp_path)
    assert profile.pooling is smollm2.pooling
    assert profile.prompts == replace(smollm2.prompts, max_prompt_tokens=4095)


# The experiment


class FakePrompts:
    """Ids of a length that the texts decide."""

    max_words = 1024

    async def listwise(self, query: str, passages: Sequence[str]) -> TokenIds:
        return np.zeros(len(query) + 20, np.int32)

    async def documents(self, passages: Sequence[str]) -> list[TokenIds]:
        return [np.zeros(len(passage), np.int32) for passage in passages]

    def windows(self, query: str, passages: Sequence[str]) -> list[WindowIds]:
        return [WindowIds([0] * 200, len(each)) for each in windows(len(passages), 20, 10)]


@dataclass
class FakeServer:
    """Answers as the server would: documents of a namespace are new once."""

    calls: list[str]
    extra_prompt_tokens: int = 0
    extra_window_tokens: int = 0
    namespaces: set[str] = field(default_factory=set)
    orders: list[tuple[str, ...]] = field(default_factory=list)

    async def rerank(self, request: rerank_pb2.RerankRequest) -> rerank_pb2.RerankResponse:
        answer = rerank_pb2.RerankResponse()
        self.orders.append((request.query, *(each.text for each in request.documents)))
        if request.WhichOneof("method") == "llm_listwise":
            self.calls.append("llm")
            schedule = windows(len(request.documents), 20, 10)
            report = answer.llm_listwise
            report.windows = len(schedule)
            report.prompt_tokens = len(schedule) * (200 + self.extra_window_tokens)
            report.generated_tokens = sum(len(window) for window in schedule)
            report.outputs.malformed = len(schedule)
            return answer
        is_new = request.namespace not in self.namespaces
        self.namespaces.add(request.namespace)
        self.calls.append("cold" if is_new else "warm")
        answer.usage.prompt_tokens = len(request.query) + 20 + self.extra_prompt_tokens
        answer.usage.documents_embedded = len(request.documents) if is_new else 0
        answer.usage.document_tokens = sum(len(each.text) for each in request.documents)
        return answer


@dataclass
class FakeBareEngine:
    calls: list[str]

    async def encode(self, token_ids: TokenIds) -> None:
        self.calls.append("bare prompt")

    async def encode_all(self, prompts: Sequence[TokenIds]) -> None:
        self.calls.append(f"{len(prompts)} bare documents")

    async def generate(self, token_ids: Sequence[int], num_tokens: int) -> None:
        assert num_tokens == 20
        self.calls.append("bare window")


def on_fakes(server: FakeServer) -> tuple[Experiment, Turns, list[None]]:
    steps: list[None] = []
    experiment = Experiment(SHAPE, FakePrompts(), PASSAGES, lambda: steps.append(None))
    turns = Turns(Server(server.rerank, engines=((), ())), FakeBareEngine(server.calls))
    return experiment, turns, steps


async def test_reranks_and_bare_passes_are_measured_in_turns() -> None:
    server = FakeServer([])
    experiment, turns, steps = on_fakes(server)
    samples = await experiment.e2rank(turns)
    filling = ["cold", "bare prompt"]
    cold = ["cold", "100 bare documents", "bare prompt"]
    assert server.calls == [*filling, *["warm", "bare prompt"] * 3, *cold * 2]
    assert [len(samples.warm), len(samples.bare_prompt)] == [3, 3]
    assert [len(samples.cold), len(samples.bare_cold)] == [2, 2]
    assert samples.document_tokens == [sum(len(each) for each in PASSAGES)] * 2
    assert len(steps) == 5


async def test_queries_of_the_llm_lie_between_bare_windows() -> None:
    server = FakeServer([])
    experiment, turns, steps = on_fakes(server)
    samples = await experiment.llm(turns)
    between = ["bare window"] * 2
    assert server.calls == ["llm", "bare window", *between, "llm", *between, "llm", *between]
    assert [len(samples.queries), len(samples.bare_queries)] == [2, 2]
    first = samples.bare_windows[:4]
    assert samples.bare_queries[0] == pytest.approx(9 * sum(first) / 4)
    assert samples.window_answer_tokens == [20, 20]
    assert samples.outputs == {"malformed": 18}
    assert len(steps) == 8


async def test_no_two_requests_have_the_same_query_or_the_same_order() -> None:
    server = FakeServer([])
    experiment, turns, _ = on_fakes(server)
    await experiment.e2rank(turns)
    await experiment.llm(turns)
    for one, other in itertools.combinations(server.orders, 2):
        assert one[0] != other[0]
        assert one[1:] != other[1:]


async def test_a_prompt_of_another_length_is_an_error() -> None:
    experiment, turns, _ = on_fakes(FakeServer([], extra_prompt_tokens=1))
    with pytest.raises(UnequalWorkError, match=r"prompt tokens: .* expected"):
        await experiment.e2rank(turns)


async def test_windows_may_differ_by_a_few_tokens_and_no_more() -> None:
    experiment, turns, _ = on_fakes(FakeServer([], extra_window_tokens=3))
    assert (await experiment.llm(turns)).window_prompt_tokens == [203, 203]
    experiment, turns, _ = on_fakes(FakeServer([], extra_window_tokens=5))
    with pytest.raises(UnequalWorkError, match="1845 in the server's answer, 1800 expected"):
        await experiment.llm(turns)


# The command line


def test_shapes_are_chosen_by_name() -> None:
    assert [shape.name for shape in parse_arguments([]).shapes] == list(SHAPES)
    chosen = parse_arguments(["--shapes", "smollm2-350t,smollm2-100w"]).shapes
    assert [shape.name for shape in chosen] == ["smollm2-350t", "smollm2-100w"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--shapes", "smollm3"], "no shape 'smollm3'; there are smollm2-100w"),
        (["--queries", "0"], "--queries: 0 is less than 1"),
        (["--candidates", "19"], "--candidates: 19 is less than 20"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(arguments)
    assert complaint in capsys.readouterr().err
