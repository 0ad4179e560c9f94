"""LLM_LISTWISE on a fake LLM."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2rank_server.document_store.protocol import StoredDocument
from e2rank_server.engine.admission import WorkGate
from e2rank_server.engine.llm_rerank import LlmRerankEngine
from e2rank_server.engine.stored_documents import StoredDocuments
from e2rank_server.errors import (
    GeneratorMissingError,
    GeneratorRefusedError,
    InvalidRequestError,
    OverloadedError,
    PromptTooLongError,
    UnavailableError,
)
from e2rank_server.generator.protocol import GeneratorPrompt
from e2rank_server.llm_listwise.loading import load_templates
from e2rank_server.types import (
    Document,
    FirstStageScores,
    InitialOrder,
    LlmListwiseOptions,
    LlmOutputCounts,
    RerankOutcome,
    RerankRequest,
    ScoreKind,
    ScoreScaling,
    ScoreSource,
    WarningCode,
)
from tests.fake_document_store import FakeDocumentStore
from tests.fake_generator import FakeGenerator, by_worth, passages
from tests.unit.engine_rig import EngineRig, settle

SCORED = FirstStageScores()


def engine(
    generator: FakeGenerator,
    store: FakeDocumentStore | None = None,
    *,
    gate_tokens: int = 1 << 16,
    timeout_seconds: float = 60.0,
) -> LlmRerankEngine:
    return LlmRerankEngine(
        generator,
        load_templates(),
        default_template="rankzephyr",
        default_score_template="rank_llm_insertrank",
        gate=WorkGate(gate_tokens, 1 << 20),
        stored=StoredDocuments(store, 1 << 20),
        timeout_seconds=timeout_seconds,
    )


def candidates(worths: Sequence[int]) -> list[Document]:
    return [
        Document(id=f"d{place}", text=f"passage worth {worth}", first_stage_score=float(worth) / 8)
        for place, worth in enumerate(worths)
    ]


async def rerank(
    generator: FakeGenerator, documents: list[Document], **options: object
) -> RerankOutcome:
    request = RerankRequest("which is best", documents, options=LlmListwiseOptions(**options))  # type: ignore[arg-type]
    return await engine(generator).rerank(request)


def indexes(outcome: RerankOutcome) -> list[int]:
    return [result.index for result in outcome.results]


def codes(outcome: RerankOutcome) -> set[WarningCode]:
    return {warning.code for warning in outcome.warnings}


async def test_a_hundred_candidates_are_nine_calls_of_twenty() -> None:
    generator = FakeGenerator()
    outcome = await rerank(generator, candidates(range(100)))
    assert [len(passages(prompt)) for prompt in generator.prompts] == [20] * 9
    # The best ten of each window reach the next one: one pass finds the best ten in order.
    assert indexes(outcome)[:10] == list(range(99, 89, -1))
    assert sorted(indexes(outcome)) == list(range(100))
    assert outcome.llm_listwise is not None
    assert (outcome.llm_listwise.windows, outcome.llm_listwise.outputs.ok) == (9, 9)


async def test_one_window_over_all_candidates_is_one_call() -> None:
    generator = FakeGenerator()
    outcome = await rerank(generator, candidates([1, 9, 5]), window_size=100)
    assert len(generator.prompts) == 1
    assert indexes(outcome) == [1, 2, 0]


async def test_a_window_of_one_document_costs_no_call() -> None:
    generator = FakeGenerator()
    await rerank(generator, candidates(range(21)), window_size=20, stride=20)
    assert [len(passages(prompt)) for prompt in generator.prompts] == [20]


async def test_passes_go_on_where_the_last_one_ended() -> None:
    generator = FakeGenerator()
    outcome = await rerank(generator, candidates(range(12)), window_size=4, stride=2, num_passes=5)
    assert indexes(outcome)[:10] == list(range(11, 1, -1))
    assert len(generator.prompts) == 5 * 5


async def test_scores_are_reciprocal_ranks_and_say_so() -> None:
    outcome = await rerank(FakeGenerator(), candidates([1, 3, 2]))
    assert [result.relevance_score for result in outcome.results] == [1.0, 1 / 2, 1 / 3]
    assert outcome.score_kind is ScoreKind.RECIPROCAL_RANK
    assert {result.cache_tier for result in outcome.results} == {None}


async def test_top_n_cuts_the_answer_not_the_work() -> None:
    generator = FakeGenerator()
    request = RerankRequest(
        "q", candidates(range(40)), top_n=2, options=LlmListwiseOptions(num_passes=2)
    )
    outcome = await engine(generator).rerank(request)
    assert indexes(outcome) == [39, 38]
    assert len(generator.prompts) == 2 * 3


async def test_a_single_candidate_costs_no_call() -> None:
    generator = FakeGenerator()
    outcome = await rerank(generator, candidates([1]))
    assert indexes(outcome) == [0]
    assert generator.prompts == []


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (InitialOrder.FIRST_STAGE, [0, 1, 2, 3]),
        (InitialOrder.REVERSED, [3, 2, 1, 0]),
    ],
)
async def test_the_llm_first_sees_the_initial_order(
    order: InitialOrder, expected: list[int]
) -> None:
    generator = FakeGenerator()
    await rerank(generator, candidates(range(4)), initial_order=order)
    assert passages(generator.prompts[0]) == [f"passage worth {worth}" for worth in expected]


async def test_a_shuffle_is_that_of_its_seed() -> None:
    seen = []
    for seed in (1, 1, 2):
        generator = FakeGenerator()
        await rerank(
            generator,
            candidates(range(20)),
            initial_order=InitialOrder.SHUFFLED,
            shuffle_seed=seed,
        )
        seen.append(passages(generator.prompts[0]))
    assert seen[0] == seen[1]
    assert seen[0] != seen[2]
    assert sorted(seen[0]) == sorted(seen[2])


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    num_documents=st.integers(2, 45),
    window_size=st.integers(2, 20),
    num_passes=st.integers(1, 3),
)
def test_a_score_stays_beside_its_document_through_every_window_and_pass(
    data: st.DataObject, num_documents: int, window_size: int, num_passes: int
) -> None:
    worths = data.draw(st.permutations(range(num_documents)))
    stride = data.draw(st.integers(1, window_size))
    generator = FakeGenerator()
    outcome = asyncio.run(
        rerank(
            generator,
            candidates(worths),
            window_size=window_size,
            stride=stride,
            num_passes=num_passes,
            initial_order=data.draw(st.sampled_from(InitialOrder)),
            first_stage_scores=SCORED,
        )
    )
    for prompt in generator.prompts:
        pairs = _worths_and_scores(prompt)
        assert pairs
        for worth, score in pairs:
            assert score == f"{worth / 8:.3f}"
    assert sorted(indexes(outcome)) == list(range(num_documents))


def _worths_and_scores(prompt: GeneratorPrompt) -> list[tuple[int, str]]:
    text = "\n".join(message.content for message in prompt.messages)
    found = re.findall(r"worth (\d+)\n.*?: ([\d.]+)", text)
    return [(int(worth), score) for worth, score in found]


async def test_scores_without_a_template_take_the_default_for_scores() -> None:
    generator = FakeGenerator()
    outcome = await rerank(
        generator,
        candidates([8, 16]),
        first_stage_scores=FirstStageScores(ScoreScaling.PERCENT),
    )
    assert outcome.llm_listwise is not None
    assert outcome.llm_listwise.template == "rank_llm_insertrank"
    assert [score for _, score in _worths_and_scores(generator.prompts[0])] == ["0", "100"]


async def test_a_template_with_scores_shows_them_even_if_nobody_says_how() -> None:
    generator = FakeGenerator()
    await rerank(generator, candidates([8, 16]), template="rank_llm_insertrank")
    assert [score for _, score in _worths_and_scores(generator.prompts[0])] == ["1.000", "2.000"]


async def test_bm25_over_the_candidates_carries_a_warning() -> None:
    documents = [Document(text="apple worth 1"), Document(text="pear worth 2")]
    generator = FakeGenerator()
    request = RerankRequest(
        "apple",
        documents,
        options=LlmListwiseOptions(
            first_stage_scores=FirstStageScores(source=ScoreSource.CANDIDATE_BM25)
        ),
    )
    outcome = await engine(generator).rerank(request)
    scores = [float(score) for _, score in _worths_and_scores(generator.prompts[0])]
    assert scores[0] > scores[1] == 0.0
    assert codes(outcome) == {WarningCode.CANDIDATE_BM25}


async def test_a_missing_score_is_named() -> None:
    documents = candidates([1, 2])
    documents[1].first_stage_score = None
    with pytest.raises(InvalidRequestError, match=r"documents\[1\]\.first_stage_score"):
        await rerank(FakeGenerator(), documents, first_stage_scores=SCORED)


@pytest.mark.parametrize(
    ("answer", "defect"),
    [
        ("[2] > [1] > [3]", "ok"),
        ("The best are [2] and [1].", "malformed"),
        ("[2] > [2] > [1] > [3]", "repetition"),
        ("[2] > [1]", "missing"),
        ("", "refused"),
    ],
)
async def test_each_output_is_counted_by_its_defect(answer: str, defect: str) -> None:
    llm = engine(FakeGenerator(lambda _: answer))
    request = RerankRequest("q", candidates([1, 2, 3]), options=LlmListwiseOptions())
    outcome = await llm.rerank(request)
    assert outcome.llm_listwise is not None
    assert outcome.llm_listwise.outputs == LlmOutputCounts(**{defect: 1})
    assert llm.outputs == LlmOutputCounts(**{defect: 1})
    assert indexes(outcome) == ([0, 1, 2] if defect == "refused" else [1, 0, 2])
    assert codes(outcome) == (set() if defect == "ok" else {WarningCode.LLM_OUTPUT_REPAIRED})


@pytest.mark.parametrize(
    "error",
    [
        UnavailableError("generator", "away"),
        OverloadedError("busy", 1.0),
        GeneratorRefusedError("no such model"),
    ],
)
async def test_a_failing_generator_is_the_callers_error(error: Exception) -> None:
    def fail(_: GeneratorPrompt) -> str:
        raise error

    with pytest.raises(type(error)):
        await rerank(FakeGenerator(fail), candidates(range(40)))


async def test_a_request_may_allow_that_the_rest_keeps_its_order() -> None:
    calls = Counter[str]()

    def fail_at_the_second(prompt: GeneratorPrompt) -> str:
        calls["made"] += 1
        if calls["made"] == 2:
            raise UnavailableError("generator", "it went away")
        return by_worth(prompt)

    outcome = await rerank(
        FakeGenerator(fail_at_the_second),
        candidates(range(6)),
        window_size=2,
        stride=1,
        allow_degraded=True,
    )
    # Only the last window was reordered; nothing is asked of what has gone.
    assert indexes(outcome) == [0, 1, 2, 3, 5, 4]
    assert calls["made"] == 2
    assert outcome.llm_listwise is not None
    assert outcome.llm_listwise.outputs == LlmOutputCounts(ok=1, failed=4)
    [warning] = outcome.warnings
    assert warning.code is WarningCode.GENERATOR_FAILED
    assert "4 of 5 windows kept their order" in warning.message
    assert "it went away" in warning.message


async def test_passages_shrink_until_a_window_fits_the_context() -> None:
    generator = FakeGenerator(max_model_tokens=400)
    documents = [Document(text=f"worth {n} " + "word " * 200) for n in range(4)]
    outcome = await rerank(generator, documents)
    assert len(generator.prompts) == 1
    assert await generator.count_tokens(generator.prompts[0], generator.budgets[0]) <= 400
    assert indexes(outcome) == [3, 2, 1, 0]
    assert codes(outcome) == {WarningCode.PROMPT_DOCUMENTS_SHRUNK}
    assert outcome.usage.prompt_documents_truncated == 4


async def test_a_window_that_cannot_fit_is_an_error_before_any_call() -> None:
    generator = FakeGenerator(max_model_tokens=50)
    with pytest.raises(PromptTooLongError, match=r"llm_listwise\.window_size.*limit is 50"):
        await rerank(generator, candidates(range(4)))
    assert generator.prompts == []


async def test_first_ranks_by_the_first_tokens_log_probabilities() -> None:
    generator = FakeGenerator(logprobs=lambda ids: {ids[2]: -0.1, ids[0]: -2.0})
    outcome = await rerank(generator, candidates([1, 1, 1, 1]), template="first")
    assert indexes(outcome) == [2, 0, 1, 3]
    assert outcome.llm_listwise is not None
    assert outcome.llm_listwise.identifiers_absent == 2
    assert outcome.llm_listwise.outputs.ok == 1


async def test_no_identifier_at_all_is_a_refusal() -> None:
    generator = FakeGenerator(logprobs=lambda _: {})
    outcome = await rerank(generator, candidates([1, 1]), template="first")
    assert outcome.llm_listwise is not None
    assert outcome.llm_listwise.outputs.refused == 1


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"template": "nothing"}, "llm_listwise.template"),
        ({"window_size": 10, "stride": 11}, "llm_listwise.stride"),
        ({"template": "first", "window_size": 27}, "llm_listwise.window_size"),
        (
            {"template": "rankzephyr", "first_stage_scores": SCORED},
            "llm_listwise.first_stage_scores",
        ),
        ({"template": "rankzephyr", "thinking": True}, "llm_listwise.thinking"),
        (
            {"template": "rankqwen3", "reasoning_token_budget": 9},
            "llm_listwise.reasoning_token_budget",
        ),
    ],
)
async def test_options_that_do_not_suit_the_template_are_named(
    options: dict[str, object], field: str
) -> None:
    generator = FakeGenerator()
    with pytest.raises(InvalidRequestError) as caught:
        await rerank(generator, candidates([1, 2]), **options)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert generator.prompts == []


async def test_thinking_gets_its_budget_on_top_of_the_answer() -> None:
    generator = FakeGenerator(lambda _: "<think>hm [1]</think>[2] > [1]")
    outcome = await rerank(
        generator,
        candidates([1, 2]),
        template="rankqwen3",
        thinking=True,
        reasoning_token_budget=77,
    )
    assert generator.prompts[0].thinking is True
    assert generator.budgets[0].reasoning_tokens == 77
    assert indexes(outcome) == [1, 0]


async def test_max_tokens_per_document_is_not_for_llms() -> None:
    request = RerankRequest(
        "q", candidates([1, 2]), max_tokens_per_document=5, options=LlmListwiseOptions()
    )
    with pytest.raises(InvalidRequestError, match="max_tokens_per_document"):
        await engine(FakeGenerator()).rerank(request)


async def test_every_candidate_needs_its_text() -> None:
    documents = [*candidates([1]), Document(vector=np.ones(2, np.float32))]
    with pytest.raises(InvalidRequestError, match=r"documents\[1\]\.text"):
        await rerank(FakeGenerator(), documents)


async def test_documents_by_id_are_read_from_the_store() -> None:
    store = FakeDocumentStore()
    await store.put(
        "n", [StoredDocument(n, f"worth {n}", None, n.encode() * 16) for n in ("1", "2")]
    )
    request = RerankRequest(
        "q",
        [Document(id="1"), Document(id="gone"), Document(id="2")],
        namespace="n",
        drop_unknown=True,
        options=LlmListwiseOptions(),
    )
    outcome = await engine(FakeGenerator(), store).rerank(request)
    assert indexes(outcome) == [2, 0]
    assert outcome.unknown == [1]
    assert outcome.usage.documents_stored == 2


async def test_a_generator_that_never_answers_is_unavailable() -> None:
    generator = FakeGenerator()
    generator.hold = asyncio.Event()
    request = RerankRequest("q", candidates([1, 2]), options=LlmListwiseOptions())
    with pytest.raises(UnavailableError, match=r"no output within 0\.01 seconds"):
        await engine(generator, timeout_seconds=0.01).rerank(request)
    assert generator.num_cancelled == 1


async def test_leaving_cancels_the_generation_and_frees_the_gate() -> None:
    generator = FakeGenerator()
    generator.hold = asyncio.Event()
    llm = engine(generator)
    request = RerankRequest("q", candidates([1, 2]), options=LlmListwiseOptions())
    leaver = asyncio.create_task(llm.rerank(request))
    await generator.was_asked.wait()
    leaver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaver
    assert generator.num_cancelled == 1
    generator.hold.set()
    assert indexes(await llm.rerank(request)) == [1, 0]


async def test_work_beyond_the_gate_waits() -> None:
    generator = FakeGenerator()
    generator.hold = asyncio.Event()
    llm = engine(generator, gate_tokens=20)
    request = RerankRequest("q", candidates([1, 2]), options=LlmListwiseOptions())
    both = [asyncio.create_task(llm.rerank(request)) for _ in range(2)]
    await generator.was_asked.wait()
    await settle()
    assert len(generator.prompts) == 1
    generator.hold.set()
    await asyncio.gather(*both)
    assert len(generator.prompts) == 2


async def test_a_model_without_an_llm_says_so() -> None:
    request = RerankRequest("q", candidates([1, 2]), options=LlmListwiseOptions())
    with pytest.raises(GeneratorMissingError, match="--generator-model"):
        await EngineRig().model.rerank(request)
