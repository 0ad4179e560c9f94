"""The quality benchmark on a tiny collection, with a client that needs no server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.collection import (
    Collection,
    CollectionDocument,
    CollectionError,
    Run,
    read_collection,
)
from benchmarks.figures import Provenance
from benchmarks.quality.methods import METHODS, instruction_for
from e2rank_client import (
    CosineOptions,
    E2RankOptions,
    LlmListwiseOptions,
    RerankResult,
    UnavailableError,
    VectorPrfOptions,
)
from e2rank_client.errors import FailedCall
from e2rank_client.types import LlmOutputCounts
from tests.unit.quality_rig import COLORS, StubClient, make_collection, make_model

first_stages = pytest.importorskip(
    "benchmarks.quality.first_stages", reason="needs bm25s and PyStemmer", exc_type=ImportError
)
ranker_module = pytest.importorskip("benchmarks.quality.ranker", exc_type=ImportError)
saved_module = pytest.importorskip("benchmarks.quality.saved_sections", exc_type=ImportError)
scores = pytest.importorskip("benchmarks.quality.scores", exc_type=ImportError)
serving = pytest.importorskip("benchmarks.quality.serving", exc_type=ImportError)
sections = pytest.importorskip("benchmarks.quality.sections", exc_type=ImportError)
DEPTH = first_stages.DEPTH


def make_ranker(client: StubClient, collection: Collection | None = None, **changes: Any) -> Any:
    collection = collection or make_collection()
    return ranker_module.Ranker(client, "small-0.1b", collection, **changes)


async def test_dense_retrieval_keeps_the_nearest_documents_of_all_best_first() -> None:
    client, counted = StubClient(), []
    run = await make_ranker(client, make_collection(400)).dense(counted.append)
    assert sum(counted) == 400
    for number, color in enumerate(COLORS):
        ranking = run[f"q-{color}"]
        assert len(ranking) == DEPTH
        assert all(int(name[1:]) % 3 == number for name in ranking)
        assert set(ranking.values()) == {1.0}
    small = await make_ranker(StubClient(), make_collection(5)).dense(counted.append)
    assert list(small["q-green"].values()) == sorted(small["q-green"].values(), reverse=True)
    assert {len(ranking) for ranking in small.values()} == {5}


async def test_documents_are_embedded_in_the_collections_namespace_a_few_batches_at_once() -> None:
    client = StubClient()
    await make_ranker(client, make_collection(400)).dense(lambda _: None)
    documents = [call for call in client.embedded if call[0] == "DOCUMENT"]
    assert {namespace for _, namespace, _, _ in documents} == {"colors"}
    assert len(documents) > 1
    assert 1 < client.most_running <= 4


async def test_excluded_documents_take_no_place_in_dense_retrieval() -> None:
    barred = frozenset({"d0", "d3", "missing"})
    collection = make_collection(400, excluded={"q-red": barred})
    run = await make_ranker(StubClient(), collection).dense(lambda _: None)
    assert not barred & run["q-red"].keys()
    assert {len(ranking) for ranking in run.values()} == {DEPTH}


async def test_candidates_are_reranked_best_first_by_the_method_asked_one_at_a_time() -> None:
    client = StubClient()
    candidates = {"q-red": {"d1": 9.0, "d0": 8.0}, "q-green": {"d1": 9.0}, "q-blue": {}}
    method = METHODS["e2rank_first_stage"]
    reranked = await make_ranker(client).rerank(method, candidates)
    assert client.reranked[0] == ("a red one", ["d1", "d0"], method)
    assert reranked.run == {"q-red": {"d0": 1.0, "d1": 0.0}, "q-green": {"d1": 1.0}}
    assert client.most_running == 1


async def test_queries_are_reranked_at_once_if_that_is_asked_for() -> None:
    client = StubClient()
    candidates = {f"q-{color}": {"d0": 1.0} for color in COLORS}
    await make_ranker(client, in_flight=3).rerank(METHODS["cosine"], candidates)
    assert client.most_running == 3


async def test_a_failed_call_ends_the_run_with_its_own_error() -> None:
    class Broken(StubClient):
        async def rerank(self, *args: Any, **kwargs: Any) -> RerankResult:
            import grpc

            raise UnavailableError(FailedCall(grpc.StatusCode.UNAVAILABLE, "gone"))

    with pytest.raises(UnavailableError, match="gone"):
        await make_ranker(Broken()).rerank(METHODS["cosine"], {"q-red": {"d0": 1.0}})


def test_all_methods_and_both_prompt_orders_are_measured() -> None:
    kinds = {type(options) for options in METHODS.values()}
    assert kinds == {CosineOptions, VectorPrfOptions, E2RankOptions, LlmListwiseOptions}
    orders = {m.prompt_order for m in METHODS.values() if isinstance(m, E2RankOptions)}
    assert orders == {"FIRST_STAGE", "COSINE"}


def test_a_collections_instruction_is_for_queries_that_are_embedded_by_themselves() -> None:
    claims = "Given a scientific claim, retrieve documents that support or refute the claim"
    for options in (None, CosineOptions(), VectorPrfOptions()):
        assert instruction_for("scifact", options) == claims
    for listwise in (E2RankOptions(), LlmListwiseOptions()):
        assert instruction_for("scifact", listwise) == ""
    assert instruction_for("unheard-of") == ""


def test_reciprocal_rank_fusion_equals_a_case_worked_by_hand() -> None:
    first = {"q": {"a": 9.0, "b": 8.0, "c": 7.0}}
    second = {"q": {"c": 0.9, "a": 0.8, "d": 0.7}, "only": {"e": 1.0}}
    fused = first_stages.reciprocal_rank_fusion([first, second], 3)
    # a: 1/61 + 1/62, c: 1/63 + 1/61, b: 1/62, d: 1/63
    assert list(fused["q"]) == ["a", "c", "b"]
    assert fused["q"]["a"] == pytest.approx(0.0325224749)
    assert fused["q"]["c"] == pytest.approx(0.0322664585)
    assert fused["q"]["b"] == pytest.approx(0.0161290323)
    assert fused["only"] == {"e": pytest.approx(1 / 61)}


def test_documents_that_are_fused_to_equal_scores_keep_the_order_of_the_runs() -> None:
    fused = first_stages.reciprocal_rank_fusion([{"q": {"a": 1.0}}, {"q": {"b": 1.0}}], 2)
    assert list(fused["q"]) == ["a", "b"]


def write_run_file(folder: Path, lines: str) -> Path:
    file = folder / "mine.trec"
    file.write_text(lines)
    return file


def test_a_run_of_ones_own_is_a_first_stage_of_the_judged_queries_without_excluded_documents(
    tmp_path: Path,
) -> None:
    file = write_run_file(
        tmp_path, "q-red Q0 d0 1 3 t\nq-red Q0 d1 2 2 t\nq-red Q0 d2 3 1 t\nother Q0 zz 1 1 t\n"
    )
    collection = make_collection(excluded={"q-red": frozenset({"d1"})})
    run = first_stages.read_candidates(file, collection, depth=2)
    assert run == {"q-red": {"d0": 3.0, "d2": 1.0}, "q-green": {}, "q-blue": {}}


def test_a_run_of_another_collection_is_refused(tmp_path: Path) -> None:
    file = write_run_file(tmp_path, "q-red Q0 nowhere 1 3 t\n")
    with pytest.raises(CollectionError, match=r"'q-red' has documents that colors lacks: \['now"):
        first_stages.read_candidates(file, make_collection())
    file = write_run_file(tmp_path, "q9 Q0 d1 1 3 t\n")
    with pytest.raises(CollectionError, match="none of the queries of colors"):
        first_stages.read_candidates(file, make_collection())


CANDIDATES: Run = {f"q-{color}": {"d1": 3.0, "d0": 2.0, "d2": 1.0} for color in COLORS}


class Measurement:
    """Sections of the tiny collection, from a first stage of one's own and a dense one."""

    def __init__(self, client: StubClient, **plan: Any) -> None:
        ranker = make_ranker(client)
        stages = first_stages.FirstStages(
            first_stages.Bm25Stage(ranker.collection),
            lambda: ranker.dense(lambda _: None),
            {"mine": CANDIDATES},
        )
        chosen = {"first_stages": ["mine"], "methods": ["cosine"]} | plan
        self.skipped: list[str] = []
        self.sections = sections.QualitySections(
            ranker, make_model(), stages, sections.Plan(**chosen), lambda *_: lambda _: None
        )

    async def figures(self, saved: Any = None) -> dict[str, float]:
        saved = saved or saved_sections(None)
        await self.sections.measure(saved, self.skipped.append)
        return dict(saved.figures)


def saved_sections(file: Path | None, commit: str = "abc", *, is_resumed: bool = True) -> Any:
    provenance = Provenance({}, commit, "run", "today")
    return saved_module.SavedSections(file, provenance, is_resumed=is_resumed)


async def test_a_reranking_is_compared_with_its_first_stage_and_with_cosine() -> None:
    figures = await Measurement(
        StubClient(), methods=["cosine", "e2rank_first_stage", "llm_listwise"]
    ).figures()
    prefix = "colors.small-0.1b.mine"
    assert figures["colors.mine.mrr@10"] == pytest.approx((0.5 + 1 + 1 / 3) / 3)
    assert figures[f"{prefix}.cosine.ndcg@10"] == 1
    gain = 1 - figures["colors.mine.ndcg@10"]
    assert figures[f"{prefix}.cosine.minus_first_stage"] == pytest.approx(gain, abs=1e-5)
    assert f"{prefix}.cosine.minus_cosine" not in figures
    # Two of three queries differ, and to the same side: 2 of 8 sign patterns are as extreme, twice.
    assert figures[f"{prefix}.cosine.p_vs_first_stage"] == 0.5
    assert figures[f"{prefix}.e2rank_first_stage.p_vs_cosine"] == 1
    assert figures[f"{prefix}.llm_listwise.minus_cosine"] == pytest.approx(-gain, abs=1e-5)
    assert figures[f"{prefix}.cosine.p50_seconds"] == 0.5


async def test_the_profiles_own_prompt_order_is_also_called_e2rank() -> None:
    figures = await Measurement(
        StubClient(), methods=["e2rank_first_stage", "e2rank_cosine"]
    ).figures()
    prefix = "colors.small-0.1b.mine.e2rank"
    assert figures[f"{prefix}.ndcg@10"] == figures[f"{prefix}_first_stage.ndcg@10"]
    assert f"{prefix}_cosine.ndcg@10" in figures


async def test_malformed_outputs_of_an_llm_are_a_rate_and_counts_of_windows() -> None:
    client = StubClient(LlmOutputCounts(1, 1, 1, 0, 0, 1))
    figures = await Measurement(client, methods=["llm_listwise"]).figures()
    prefix = "colors.small-0.1b.mine.llm_listwise"
    assert figures[f"{prefix}.malformed_rate"] == 0.75
    assert figures[f"{prefix}.windows"] == 12
    assert figures[f"{prefix}.outputs_failed"] == 3


async def test_an_llm_that_never_answers_is_an_error_and_no_figure() -> None:
    client = StubClient(LlmOutputCounts(0, 0, 0, 0, 0, 4))
    saved = saved_sections(None)
    with pytest.raises(scores.GeneratorAlwaysFailedError, match="failed for all 12 windows"):
        await Measurement(client, methods=["llm_listwise"]).figures(saved)
    assert not any("llm_listwise" in name for name in saved.figures)


async def test_an_llm_is_measured_on_a_sample_and_compared_on_that_sample() -> None:
    client = StubClient()
    figures = await Measurement(
        client, methods=["cosine", "llm_listwise"], num_llm_queries=2
    ).figures()
    prefix = "colors.small-0.1b.mine"
    assert figures[f"{prefix}.cosine.num_queries"] == 3
    assert figures[f"{prefix}.llm_listwise.num_queries"] == 2
    assert len(client.reranked) == 3 + 2


async def test_dense_retrieval_leaves_no_document_to_embed_for_reranking_its_best() -> None:
    client = StubClient()
    figures = await Measurement(client, first_stages=["dense"]).figures()
    assert figures["colors.small-0.1b.dense.cosine.documents_embedded"] == 0
    assert sum(number for kind, _, number, _ in client.embedded if kind == "DOCUMENT") == 200


async def test_candidates_of_other_first_stages_are_embedded_before_a_method_is_timed() -> None:
    client = StubClient()
    figures = await Measurement(client, methods=["cosine", "vector_prf"]).figures()
    assert figures["colors.small-0.1b.mine.cosine.documents_embedded"] == 0
    assert [number for kind, _, number, _ in client.embedded if kind == "DOCUMENT"] == [3]


async def test_rankings_are_written_as_trec_runs(tmp_path: Path) -> None:
    await Measurement(StubClient(), runs_folder=tmp_path).figures()
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"colors.mine.trec", "colors.small-0.1b.mine.cosine.trec"}
    first = (tmp_path / "colors.mine.trec").read_text().splitlines()[0]
    assert first == "q-red Q0 d1 1 3.0 colors.mine"


async def test_a_resumed_run_measures_only_what_its_commit_has_not_measured(
    tmp_path: Path,
) -> None:
    file = tmp_path / "quality.json"
    await Measurement(StubClient()).figures(saved_sections(file))
    client = StubClient()
    resumed = Measurement(client, methods=["cosine", "e2rank_cosine"])
    figures = await resumed.figures(saved_sections(file))
    assert resumed.skipped == ["colors mine", "colors small-0.1b mine cosine"]
    # What the new section is compared with is ranked again, for there is no ranking in the file.
    assert {type(method) for _, _, method in client.reranked} == {CosineOptions, E2RankOptions}
    assert "colors.small-0.1b.mine.e2rank_cosine.minus_cosine" in figures
    assert json.loads(file.read_text())["figures"] == figures


@pytest.mark.parametrize(
    ("commit", "change"),
    [
        ("def", lambda measurement: None),
        ("abc-dirty", lambda measurement: None),
        ("abc", lambda measurement: measurement["plan"].update(num_llm_queries=2)),
    ],
)
async def test_another_commit_or_condition_is_measured_anew(
    tmp_path: Path, commit: str, change: Callable[[dict[str, Any]], None]
) -> None:
    file = tmp_path / "quality.json"
    plan: dict[str, Any] = {"methods": ["llm_listwise"]}
    await Measurement(StubClient(), **plan).figures(saved_sections(file, commit="abc"))
    change({"plan": plan})
    again = Measurement(StubClient(), **plan)
    await again.figures(saved_sections(file, commit))
    assert "colors small-0.1b mine llm_listwise" not in again.skipped


async def test_without_resume_everything_is_measured_anew(tmp_path: Path) -> None:
    file = tmp_path / "quality.json"
    await Measurement(StubClient()).figures(saved_sections(file))
    again = Measurement(StubClient())
    await again.figures(saved_sections(file, is_resumed=False))
    assert again.skipped == []


async def test_a_section_is_saved_before_the_next_one_is_measured(tmp_path: Path) -> None:
    class Failing(StubClient):
        async def rerank(self, *args: Any, **kwargs: Any) -> RerankResult:
            if isinstance(kwargs["method"], VectorPrfOptions):
                raise ConnectionError("gone")
            return await super().rerank(*args, **kwargs)

    file = tmp_path / "quality.json"
    with pytest.raises(ConnectionError):
        await Measurement(Failing(), methods=["cosine", "vector_prf"]).figures(saved_sections(file))
    assert "colors.small-0.1b.mine.cosine.ndcg@10" in json.loads(file.read_text())["figures"]


def test_a_generator_in_a_folder_is_named_without_its_path() -> None:
    assert serving.generating(make_model())["generator"] == "small-1b"
    assert serving.generating(make_model(generator=None)) == {}


def write_collection(folder: Path, **changes: str) -> Path:
    files = {
        "corpus.jsonl": '{"_id": "d1", "title": "T", "text": "one"}\n'
        '{"_id": "d2", "text": "two"}\n',
        "queries.jsonl": '{"_id": "q1", "text": "first"}\n{"_id": "q9", "text": "unjudged"}\n',
        "qrels/test.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t2\n",
    } | changes
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_beir_folder_is_read_with_its_judged_queries_only(tmp_path: Path) -> None:
    collection = read_collection(write_collection(tmp_path / "tiny"))
    assert collection.name == "tiny"
    assert collection.documents == (
        CollectionDocument("d1", "T", "one"),
        CollectionDocument("d2", "", "two"),
    )
    assert collection.queries == {"q1": "first"}
    assert collection.qrels == {"q1": {"d1": 2}}
    assert collection.excluded == {}


def test_qrels_may_lie_beside_the_corpus(tmp_path: Path) -> None:
    write_collection(tmp_path)
    (tmp_path / "qrels/test.tsv").rename(tmp_path / "qrels.tsv")
    assert read_collection(tmp_path).qrels == {"q1": {"d1": 2}}


def test_excluded_documents_are_read_and_removed_from_a_run(tmp_path: Path) -> None:
    lines = "query-id\tcorpus-id\nq1\td2\nq1\td3\n"
    collection = read_collection(write_collection(tmp_path, **{"excluded_ids.tsv": lines}))
    assert collection.excluded == {"q1": frozenset({"d2", "d3"})}
    run = {"q1": {"d2": 2.0, "d1": 1.0}, "q2": {"d2": 1.0}}
    assert collection.without_excluded(run) == {"q1": {"d1": 1.0}, "q2": {"d2": 1.0}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"corpus.jsonl": '{"_id": "d1", "text": "one"}\nnonsense\n'},
            "corpus.jsonl line 2: not JSON",
        ),
        ({"corpus.jsonl": '{"_id": "d1", "text": 3}\n'}, "line 1: `text` is not a string"),
        (
            {"corpus.jsonl": '{"_id": "d1", "text": "one"}\n{"_id": "d1", "text": "two"}\n'},
            "corpus.jsonl line 2: `_id` 'd1' occurs twice",
        ),
        ({"queries.jsonl": "[]\n"}, "queries.jsonl line 1: not an object"),
        ({"qrels/test.tsv": "h\nq1 d1 1\n"}, "test.tsv line 2: not query-id"),
        ({"qrels/test.tsv": "h\nq7\td1\t1\n"}, "judged but not in queries.jsonl"),
        ({"qrels/test.tsv": "h\n"}, "no judged queries"),
        ({"excluded_ids.tsv": "h\nq1\n"}, "excluded_ids.tsv line 2: not query-id, corpus-id"),
    ],
)
def test_a_malformed_folder_is_refused_with_the_place(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    with pytest.raises(CollectionError, match=message):
        read_collection(write_collection(tmp_path, **changes))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match=r"no corpus\.jsonl"):
        read_collection(tmp_path)


def test_a_sample_of_queries_keeps_all_documents_and_is_the_same_each_time() -> None:
    queries = {f"q{number}": f"text {number}" for number in range(50)}
    whole = Collection("many", (), queries, {query_id: {"d": 1} for query_id in queries})
    sample = whole.sampled(10, seed=0)
    assert sample == whole.sampled(10, seed=0)
    assert list(sample.queries) == list(sample.qrels) != list(queries)[:10]
    assert sorted(sample.queries, key=list(queries).index) == list(sample.queries)
    assert whole.sampled(50, seed=0) is whole
    assert len(make_collection().sampled(1, seed=0).documents) == 200
