import asyncio
from dataclasses import replace

import numpy as np
import pytest

from e2rank_server.embedder.fake import FakeEmbedder
from e2rank_server.embedding_cache.memory import MemoryEmbeddingCache
from e2rank_server.embedding_cache.values import ElementType
from e2rank_server.engine.urgency import Urgency, pass_priority
from e2rank_server.errors import (
    InvalidRequestError,
    PromptTooLongError,
    UnavailableError,
)
from e2rank_server.profiles.profile import Pooling
from e2rank_server.types import (
    CacheTier,
    CosineOptions,
    Document,
    E2RankOptions,
    EmbedRequest,
    FirstStageScores,
    InputType,
    Method,
    PromptOrder,
    RerankRequest,
    ScoreScaling,
    ScoreSource,
    TextInput,
    VectorPrfOptions,
    WarningCode,
)
from tests.unit.engine_rig import DIMENSION, EngineRig, documents, profile, settle

FRUIT = documents("red apple pie", "fast car", "green apple", "slow boat", "apple tart")


def request(**changes: object) -> RerankRequest:
    return replace(
        RerankRequest(query="apple pie", documents=FRUIT, options=CosineOptions()), **changes
    )


async def test_cosine_ranks_by_similarity_and_reports_what_it_took() -> None:
    rig = EngineRig()
    outcome = await rig.model.rerank(request())
    assert outcome.method is Method.COSINE
    assert outcome.results[0].index == 0
    assert {result.index for result in outcome.results[-2:]} == {1, 3}
    scores = [result.relevance_score for result in outcome.results]
    assert scores == sorted(scores, reverse=True)
    assert outcome.usage.documents_embedded == 5
    assert outcome.usage.prompt_tokens == 4
    assert outcome.usage.prompt_documents == 0
    assert outcome.timings.total_seconds > 0
    assert outcome.warnings == []


async def test_all_candidates_are_scored_although_only_the_first_are_in_the_prompt() -> None:
    rig = EngineRig()
    outcome = await rig.model.rerank(request(options=E2RankOptions(prompt_documents=2)))
    assert outcome.method is Method.E2RANK
    assert sorted(result.index for result in outcome.results) == [0, 1, 2, 3, 4]
    [prompt] = rig.tokenizer.prompts
    assert [document.text for document in prompt.documents] == ["red apple pie", "fast car"]
    assert outcome.usage.prompt_documents == 2


async def test_cosine_order_shows_the_nearest_documents_first() -> None:
    rig = EngineRig()
    options = E2RankOptions(prompt_documents=3, prompt_order=PromptOrder.COSINE)
    await rig.model.rerank(request(options=options))
    [prompt] = rig.tokenizer.prompts
    shown = [document.text for document in prompt.documents]
    assert shown[0] == "red apple pie"
    assert set(shown) == {"red apple pie", "green apple", "apple tart"}


async def test_the_profile_decides_what_a_request_leaves_open() -> None:
    listwise = profile(default_method=Method.E2RANK, prompt_documents=1, trained_for_listwise=True)
    rig = EngineRig(listwise)
    outcome = await rig.model.rerank(request(options=None))
    assert outcome.method is Method.E2RANK
    assert outcome.usage.prompt_documents == 1
    assert outcome.warnings == []
    outcome = await EngineRig().model.rerank(request(options=None))
    assert outcome.method is Method.COSINE


async def test_a_listwise_prompt_is_pooled_over_the_query_where_the_profile_says_so() -> None:
    rig = EngineRig(profile(listwise_pooling=Pooling.QUERY_TOKENS))
    await rig.model.rerank(request(options=E2RankOptions()))
    [span] = [p.pooling_span for call in rig.embedder.calls for p in call.prompts if p.pooling_span]
    assert span[1] - span[0] == 2, "the query has two tokens"
    rig = EngineRig(profile(listwise_pooling=Pooling.MEAN))
    await rig.model.rerank(request(options=E2RankOptions()))
    assert all(p.pooling_span is None for call in rig.embedder.calls for p in call.prompts)


async def test_top_n_cuts_and_more_than_all_is_all() -> None:
    rig = EngineRig()
    everything = await rig.model.rerank(request())
    top = await rig.model.rerank(request(top_n=2))
    assert [r.index for r in top.results] == [r.index for r in everything.results[:2]]
    assert len((await rig.model.rerank(request(top_n=99))).results) == 5


async def test_equal_documents_are_embedded_once_and_keep_their_order() -> None:
    rig = EngineRig()
    outcome = await rig.model.rerank(request(documents=documents("b c", "apple", "b c", "b c")))
    ties = [result.index for result in outcome.results if result.index != 1]
    assert ties == [0, 2, 3]
    assert rig.tokenizer.documents == ["b c", "apple"]
    assert outcome.usage.documents_embedded == 4


async def test_the_second_time_nothing_is_embedded_and_the_scores_are_the_same() -> None:
    rig = EngineRig()
    cold = await rig.model.rerank(request())
    before = len(rig.tokenizer.documents)
    warm = await rig.model.rerank(request())
    assert len(rig.tokenizer.documents) == before, "a hit costs no tokenization"
    assert warm.usage.documents_cached == 5
    assert warm.usage.document_tokens == 0
    assert [(r.index, r.relevance_score) for r in warm.results] == [
        (r.index, r.relevance_score) for r in cold.results
    ]
    assert {r.cache_tier for r in cold.results} == {CacheTier.COMPUTED}
    assert {r.cache_tier for r in warm.results} == {CacheTier.MEMORY}


async def test_titles_are_part_of_the_text() -> None:
    rig = EngineRig()
    titled = [Document(text="pie", title="apple"), Document(text="pie", title="car")]
    outcome = await rig.model.rerank(request(documents=titled))
    assert outcome.results[0].index == 0
    assert outcome.results[0].relevance_score > outcome.results[1].relevance_score


@pytest.mark.parametrize(
    "other",
    [{"namespace": "other"}, {"secret": b"t" * 32}, {"fingerprint": "g"}],
    ids=["namespace", "secret", "model"],
)
async def test_vectors_are_not_shared_across(other: dict[str, object]) -> None:
    rig = EngineRig()
    await rig.model.rerank(request())
    namespace = other.pop("namespace", "")
    model = rig.another_model(**other)  # type: ignore[arg-type]
    outcome = await model.rerank(request(namespace=namespace))
    assert outcome.usage.documents_cached == 0


async def test_a_callers_vector_is_used_and_its_text_never_embedded() -> None:
    rig = EngineRig()
    [vector] = (
        await rig.model.embed(EmbedRequest(InputType.DOCUMENT, [TextInput("apple pie")]))
    ).vectors
    given = [
        Document(text="car"),
        Document(text="anything", vector=vector),
        Document(vector=-vector),
    ]
    outcome = await rig.model.rerank(request(documents=given))
    assert [result.index for result in outcome.results] == [1, 0, 2]
    assert outcome.results[0].cache_tier is CacheTier.CALLER
    assert outcome.results[-1].relevance_score == pytest.approx(-outcome.results[0].relevance_score)
    assert "anything" not in rig.tokenizer.documents
    assert (outcome.usage.documents_from_caller, outcome.usage.documents_embedded) == (2, 1)


async def test_candidates_that_all_bring_vectors_need_no_text_for_cosine() -> None:
    vectors = np.eye(3, DIMENSION, dtype=np.float32)
    outcome = await EngineRig().model.rerank(
        request(documents=[Document(vector=vector) for vector in vectors])
    )
    assert outcome.usage.documents_from_caller == 3


@pytest.mark.parametrize("order", list(PromptOrder))
async def test_a_shown_document_without_text_is_refused_by_index(order: PromptOrder) -> None:
    vectors = np.eye(2, DIMENSION, dtype=np.float32)
    mixed = [Document(text="x"), *(Document(vector=vector) for vector in vectors)]
    options = E2RankOptions(prompt_order=order)
    rig = EngineRig()
    with pytest.raises(InvalidRequestError) as caught:
        await rig.model.rerank(request(documents=mixed, options=options))
    assert [v.field for v in caught.value.violations] == ["documents[1].text", "documents[2].text"]
    assert rig.gate.running_tokens == 0
    if order is PromptOrder.FIRST_STAGE:
        assert not rig.embedder.calls, "what is known to fail costs no work"


async def test_a_document_without_text_may_be_a_candidate_that_is_not_shown() -> None:
    vector = np.eye(1, DIMENSION, dtype=np.float32)[0]
    mixed = [Document(text="apple"), Document(vector=vector)]
    outcome = await EngineRig().model.rerank(
        request(documents=mixed, options=E2RankOptions(prompt_documents=1))
    )
    assert len(outcome.results) == 2


async def test_first_stage_scores_stand_beside_their_own_documents() -> None:
    scored = [Document(text=f"apple{n}", first_stage_score=float(n)) for n in (0, 10, 5)]
    options = E2RankOptions(
        prompt_documents=2,
        prompt_order=PromptOrder.COSINE,
        first_stage_scores=FirstStageScores(ScoreScaling.PERCENT),
    )
    rig = EngineRig()
    outcome = await rig.model.rerank(
        request(query="apple5 apple10", documents=scored, options=options)
    )
    [prompt] = rig.tokenizer.prompts
    shown = dict(zip((d.text for d in prompt.documents), prompt.scores or (), strict=True))
    assert shown == {"apple10": "100", "apple5": "50"}
    codes = {warning.code for warning in outcome.warnings}
    assert WarningCode.FIRST_STAGE_SCORES_EXPERIMENTAL in codes


async def test_warnings_say_what_the_caller_should_know() -> None:
    rig = EngineRig()
    long_query = " ".join(f"w{n}" for n in range(40))
    outcome = await rig.model.rerank(request(query=long_query, instruction="find fruit"))
    assert {w.code for w in outcome.warnings} == {
        WarningCode.QUERY_TRUNCATED,
        WarningCode.INSTRUCTION_IGNORED,
    }
    outcome = await rig.model.rerank(request(options=E2RankOptions(), instruction="find fruit"))
    assert {w.code for w in outcome.warnings} == {
        WarningCode.PROFILE_NOT_TRAINED_FOR_LISTWISE,
        WarningCode.INSTRUCTION_IGNORED,
    }
    wordy = documents(*(" ".join(f"{d}w{n}" for n in range(30)) for d in range(8)))
    outcome = await rig.model.rerank(
        request(documents=wordy, options=E2RankOptions(prompt_documents=8))
    )
    assert WarningCode.PROMPT_DOCUMENTS_SHRUNK in {w.code for w in outcome.warnings}
    assert outcome.usage.prompt_documents_truncated == 8


async def test_a_prompt_that_cannot_fit_is_an_error_and_returns_its_permit() -> None:
    rig = EngineRig()
    query = " ".join(f"w{n}" for n in range(127))
    with pytest.raises(PromptTooLongError):
        await rig.model.rerank(request(query=query, options=E2RankOptions()))
    assert rig.gate.running_tokens == 0


async def test_a_requests_priority_counts_before_the_urgency_of_its_passes() -> None:
    rig = EngineRig()
    await rig.model.rerank(request(priority=-3, options=E2RankOptions()))
    prompt, *candidates = [call.priority for call in rig.embedder.calls]
    assert {pass_priority(-3, Urgency.CANDIDATES)} == set(candidates)
    assert prompt == pass_priority(-3, Urgency.PROMPT)
    assert pass_priority(-3, Urgency.BATCH) < pass_priority(-2, Urgency.PROMPT)


async def test_two_requests_that_miss_the_same_text_embed_it_once() -> None:
    rig = EngineRig()
    rig.embedder.hold()
    first = asyncio.create_task(rig.model.rerank(request()))
    await settle()
    second = asyncio.create_task(rig.model.rerank(request(query="boat")))
    await settle()
    rig.embedder.release()
    outcomes = await asyncio.gather(first, second)
    assert sorted(rig.tokenizer.documents) == sorted(d.text or "" for d in FRUIT)
    assert [outcome.usage.documents_embedded for outcome in outcomes] == [5, 5]


async def test_a_request_that_leaves_does_not_take_the_others_documents_with_it() -> None:
    rig = EngineRig()
    rig.embedder.hold()
    leaver = asyncio.create_task(rig.model.rerank(request()))
    await settle()
    stayer = asyncio.create_task(rig.model.rerank(request(documents=FRUIT[:2])))
    await settle()
    leaver.cancel()
    await asyncio.wait([leaver])
    await settle()
    assert rig.embedder.num_aborted_prompts == 4, "its query, and the three only it wanted"
    rig.embedder.release()
    assert (await stayer).usage.documents_embedded == 2
    assert rig.gate.running_tokens == 0


async def test_the_last_to_leave_aborts_all_and_a_newcomer_starts_afresh() -> None:
    rig = EngineRig()
    rig.embedder.hold()
    leavers = [asyncio.create_task(rig.model.rerank(request())) for _ in range(2)]
    await settle()
    for leaver in leavers:
        leaver.cancel()
    await settle()  # the newcomer arrives while the abandoned work is being cancelled
    newcomer = asyncio.create_task(rig.model.rerank(request()))
    await asyncio.wait(leavers)
    assert rig.embedder.num_aborted_prompts == 5 + 2
    await settle()
    rig.embedder.release()
    assert (await newcomer).usage.documents_embedded == 5
    assert rig.embedder.num_running_prompts == 0


async def test_a_deadline_frees_the_engine_and_the_permit() -> None:
    rig = EngineRig()
    rig.embedder.hold()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await rig.model.rerank(request(options=E2RankOptions()))
    await settle()
    assert rig.embedder.num_running_prompts == 0
    assert (rig.gate.running_tokens, rig.gate.waiting_tokens) == (0, 0)


async def test_a_backend_that_is_away_is_unavailable_and_comes_back() -> None:
    rig = EngineRig()
    for part in (rig.tokenizer, rig.embedder):
        part.is_available = False
        with pytest.raises(UnavailableError):
            await rig.model.rerank(request())
        with pytest.raises(UnavailableError):
            await rig.model.check_health()
        part.is_available = True
        assert (await rig.model.rerank(request())).results
        await rig.model.check_health()
    assert rig.gate.running_tokens == 0


async def test_a_vector_that_is_not_finite_is_refused_and_not_cached() -> None:
    class Broken(FakeEmbedder):
        async def embed(self, prompts: object, *, priority: int = 0) -> np.ndarray:
            return np.full((1, DIMENSION), np.nan, dtype=np.float32)

    rig = EngineRig()
    rig.embedder = Broken(DIMENSION)
    with pytest.raises(ArithmeticError):
        await rig.another_model().rerank(request())
    assert rig.cache.statistics().entries == 0


async def test_warm_up_runs_both_kinds_of_pass() -> None:
    rig = EngineRig()
    await rig.model.warm_up()
    assert rig.tokenizer.prompts
    assert rig.tokenizer.documents


async def test_with_a_cache_without_room_answers_are_the_same() -> None:
    roomy, cramped = EngineRig(), EngineRig(cache_bytes=1)
    expected = await roomy.model.rerank(request())
    for _ in range(2):
        outcome = await cramped.model.rerank(request())
        assert outcome.results == expected.results


async def test_short_prompts_of_a_model_that_takes_long_ones_run_side_by_side() -> None:
    limits = replace(profile().prompts, max_prompt_tokens=32767, max_document_tokens=8192)
    rig = EngineRig(profile(prompts=limits))
    rig.embedder.hold()
    requests = [request(query=f"q{n}", options=E2RankOptions()) for n in range(20)]
    running = [asyncio.create_task(rig.model.rerank(each)) for each in requests]
    await settle()
    assert rig.gate.waiting_tokens == 0
    rig.embedder.release()
    await asyncio.gather(*running)


async def test_what_a_request_is_admitted_for_grows_with_what_it_has_to_compute() -> None:
    async def admitted(**changes: object) -> int:
        rig = EngineRig()
        rig.embedder.hold()
        task = asyncio.create_task(rig.model.rerank(request(**changes)))
        await settle()
        tokens = rig.gate.running_tokens
        rig.embedder.release()
        await task
        return tokens

    short = await admitted(documents=FRUIT[:1])
    more = await admitted(documents=FRUIT)
    listwise = await admitted(documents=FRUIT, options=E2RankOptions())
    long = await admitted(documents=documents("word " * 10_000), options=E2RankOptions())
    limits = profile().prompts
    assert short < more < listwise < long
    assert long == limits.max_document_tokens + limits.max_prompt_tokens


@pytest.mark.parametrize("element_type", ElementType)
async def test_a_request_scores_the_same_cold_and_warm(element_type: ElementType) -> None:
    rig = EngineRig()
    rig.cache = MemoryEmbeddingCache(DIMENSION, 4 << 20, element_type)
    model = rig.another_model()
    texts = documents(*(f"one of {n} texts about {n * n} things" for n in range(30)))
    asked = RerankRequest(query="texts about things", documents=texts)
    cold, warm = await model.rerank(asked), await model.rerank(asked)
    assert (cold.usage.documents_embedded, warm.usage.documents_cached) == (30, 30)
    assert [(r.index, r.relevance_score) for r in cold.results] == [
        (r.index, r.relevance_score) for r in warm.results
    ]


async def test_vector_feedback_ranks_by_the_query_and_the_first_documents() -> None:
    rig = EngineRig()
    candidates = documents("apple tart", "apple pie", "apple cake tart", "pear soup")
    outcome = await rig.model.rerank(
        request(query="apple", documents=candidates, options=VectorPrfOptions(2, 0.5))
    )
    [query] = (await rig.model.embed(EmbedRequest(InputType.QUERY, [TextInput("apple")]))).vectors
    texts = [TextInput(document.text or "") for document in candidates]
    vectors = (await rig.model.embed(EmbedRequest(InputType.DOCUMENT, texts))).vectors
    moved = query + 0.5 * (vectors[0] + vectors[1]) / 2
    scores = vectors @ (moved / np.linalg.norm(moved))
    assert outcome.method is Method.VECTOR_PRF
    assert [r.index for r in outcome.results] == np.argsort(-scores, kind="stable").tolist()
    assert [r.relevance_score for r in outcome.results] == pytest.approx(
        sorted(scores.tolist(), reverse=True), abs=1e-5
    )


async def test_vector_feedback_costs_no_listwise_prompt() -> None:
    rig = EngineRig()
    await rig.model.rerank(request(documents=documents("a", "b"), options=VectorPrfOptions()))
    assert rig.tokenizer.prompts == []
    assert len(rig.embedded_lengths()) == 3


async def test_scores_computed_over_the_candidates_are_labelled() -> None:
    rig = EngineRig()
    options = E2RankOptions(
        prompt_documents=1, first_stage_scores=FirstStageScores(source=ScoreSource.CANDIDATE_BM25)
    )
    outcome = await rig.model.rerank(
        request(query="apple", documents=documents("pear", "apple"), options=options)
    )
    [prompt] = rig.tokenizer.prompts
    assert prompt.scores == ["0.000"]
    assert WarningCode.CANDIDATE_BM25 in {warning.code for warning in outcome.warnings}
