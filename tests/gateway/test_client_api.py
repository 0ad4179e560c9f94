"""Both Python clients against a server whose answers the test decides."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2

import e2rank_client
from e2rank.v1 import (
    embedding_pb2,
    model_pb2,
    rerank_pb2,
    rerank_pb2_grpc,
    types_pb2,
)
from e2rank_client import (
    AsyncE2RankClient,
    CacheTier,
    CosineOptions,
    DataLossError,
    DeadlineExceededError,
    Document,
    E2RankClient,
    E2RankOptions,
    FirstStageScores,
    HealthStatus,
    InitialOrder,
    InvalidRequestError,
    LlmListwiseOptions,
    LlmListwiseReport,
    LlmOutputCounts,
    MessageTooLargeError,
    Method,
    ModelLoad,
    ModelMismatchError,
    OverloadedError,
    PromptOrder,
    PromptTooLongError,
    QuotaExceededError,
    ScoreKind,
    ScoreScaling,
    ScoreSource,
    SecondTierState,
    ServerError,
    UnavailableError,
    UnknownDocumentsError,
    UnknownModelError,
    Vector,
    VectorPrfOptions,
    WarningCode,
)
from tests.gateway.canned_server import (
    CannedServer,
    canned_server,
    failure,
    forever,
    open_client,
    reason,
)

IDENTITY = types_pb2.ModelIdentity(
    profile="small",
    revision="r1",
    fingerprint="f1",
    template_version="eval/1",
    tokenizer_backend=types_pb2.TOKENIZER_BACKEND_TRITON,
    embedder_backend=types_pb2.EMBEDDER_BACKEND_VLLM_IN_PROCESS,
)


@pytest.fixture
async def server() -> AsyncIterator[CannedServer]:
    async with canned_server() as canned:
        yield canned


@pytest.fixture(params=["async", "blocking"])
async def client(server: CannedServer, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    async with open_client(request.param, server.address, max_attempts=1) as either:
        yield either


LLM_OPTIONS = LlmListwiseOptions(
    template="insertrank",
    window_size=10,
    stride=5,
    num_passes=2,
    initial_order=InitialOrder.SHUFFLED,
    shuffle_seed=7,
    max_words_per_document=50,
    thinking=True,
    reasoning_token_budget=99,
    first_stage_scores=FirstStageScores(ScoreScaling.MIN_MAX),
    allow_degraded=True,
)


@pytest.mark.parametrize(
    ("method", "sent"),
    [
        ("E2RANK", {"e2rank": {}}),
        ("COSINE", {"cosine": {}}),
        ("VECTOR_PRF", {"vector_prf": {}}),
        ("LLM_LISTWISE", {"llm_listwise": {}}),
        (Method.VECTOR_PRF, {"vector_prf": {}}),
        (
            VectorPrfOptions(3, 0.5),
            {"vector_prf": {"feedback_documents": 3, "feedback_weight": 0.5}},
        ),
        (
            LLM_OPTIONS,
            {
                "llm_listwise": {
                    "template": "insertrank",
                    "window_size": 10,
                    "stride": 5,
                    "num_passes": 2,
                    "initial_order": "INITIAL_ORDER_SHUFFLED",
                    "shuffle_seed": "7",
                    "max_words_per_document": 50,
                    "thinking": True,
                    "reasoning_token_budget": 99,
                    "first_stage_scores": {
                        "scaling": "FIRST_STAGE_SCORE_SCALING_MIN_MAX",
                        "source": "FIRST_STAGE_SCORE_SOURCE_CALLER",
                    },
                    "allow_degraded": True,
                }
            },
        ),
        (None, {}),
    ],
)
async def test_rerank_sends_the_method_and_its_options(
    server: CannedServer, client: Any, method: Any, sent: dict[str, Any]
) -> None:
    server.answer = rerank_pb2.RerankResponse()
    await client.rerank("q", ["d"], method=method)
    expected = rerank_pb2.RerankRequest()
    json_format.ParseDict(sent, expected)
    chosen = server.request.WhichOneof("method")
    assert chosen == expected.WhichOneof("method")
    if chosen is not None:
        assert getattr(server.request, chosen) == getattr(expected, chosen)


async def test_rerank_reads_what_an_llm_did(server: CannedServer, client: Any) -> None:
    server.answer = rerank_pb2.RerankResponse(
        method=rerank_pb2.RERANK_METHOD_LLM_LISTWISE,
        score_kind=rerank_pb2.SCORE_KIND_RECIPROCAL_RANK,
        llm_listwise=rerank_pb2.LlmListwiseReport(
            generator_model="m",
            template="t",
            template_version="1",
            windows=21,
            outputs=rerank_pb2.LlmOutputCounts(
                ok=1, malformed=2, repetition=3, missing=4, refused=5, failed=6
            ),
            prompt_tokens=7,
            generated_tokens=8,
            identifiers_absent=9,
        ),
    )
    answer = await client.rerank("q", ["d"], method="LLM_LISTWISE")
    assert answer.method is Method.LLM_LISTWISE
    assert answer.score_kind is ScoreKind.RECIPROCAL_RANK
    assert answer.llm_listwise == LlmListwiseReport(
        "m", "t", "1", 21, LlmOutputCounts(1, 2, 3, 4, 5, 6), 7, 8, 9
    )


async def test_rerank_sends_all_that_was_asked(server: CannedServer, client: Any) -> None:
    server.answer = rerank_pb2.RerankResponse()
    vector = Vector(np.array([0.6, 0.8], np.float32), "f1")

    await client.rerank(
        "q",
        ["plain", Document(id="b", text="t", title="T", vector=vector, first_stage_score=1.5)],
        model="small",
        namespace="n",
        instruction="i",
        top_n=1,
        return_documents=True,
        max_tokens_per_document=7,
        unknown_documents="DROP",
        priority=-2,
        method=E2RankOptions(
            prompt_documents=5,
            prompt_order=PromptOrder.COSINE,
            first_stage_scores=FirstStageScores(source=ScoreSource.CANDIDATE_BM25),
        ),
    )

    assert server.request == rerank_pb2.RerankRequest(
        model="small",
        namespace="n",
        query="q",
        instruction="i",
        documents=[
            rerank_pb2.Document(text="plain"),
            rerank_pb2.Document(
                id="b",
                text="t",
                title="T",
                vector=types_pb2.Vector(
                    data=np.array([0.6, 0.8], "<f4").tobytes(),
                    encoding=types_pb2.VECTOR_ENCODING_FLOAT32,
                    dimension=2,
                    model_fingerprint="f1",
                ),
                first_stage_score=1.5,
            ),
        ],
        top_n=1,
        return_documents=True,
        max_tokens_per_document=7,
        unknown_documents=types_pb2.UNKNOWN_DOCUMENTS_DROP,
        priority=-2,
        e2rank=rerank_pb2.E2RankOptions(
            prompt_documents=5,
            prompt_order=rerank_pb2.PROMPT_ORDER_COSINE,
            first_stage_scores=rerank_pb2.FirstStageScoreOptions(
                scaling=rerank_pb2.FIRST_STAGE_SCORE_SCALING_RAW,
                source=rerank_pb2.FIRST_STAGE_SCORE_SOURCE_CANDIDATE_BM25,
            ),
        ),
    )


@pytest.mark.parametrize(
    ("method", "member"),
    [
        (None, None),
        ("E2RANK", "e2rank"),
        (E2RankOptions(), "e2rank"),
        ("COSINE", "cosine"),
        (CosineOptions(), "cosine"),
    ],
)
async def test_a_method_is_a_name_or_options_or_left_to_the_profile(
    server: CannedServer, client: Any, method: Any, member: str | None
) -> None:
    server.answer = rerank_pb2.RerankResponse()
    await client.rerank("q", ["d"], method=method)
    assert server.request.WhichOneof("method") == member
    assert not server.request.HasField("top_n")


async def test_a_method_of_another_name_is_refused_before_sending(
    server: CannedServer, client: Any
) -> None:
    with pytest.raises(ValueError, match="method is E2RANK"):
        await client.rerank("q", ["d"], method="BM25")
    assert server.request is None


async def test_rerank_returns_typed_results(server: CannedServer, client: Any) -> None:
    server.answer = rerank_pb2.RerankResponse(
        results=[
            rerank_pb2.RerankResult(
                index=1,
                id="b",
                relevance_score=0.5,
                document=rerank_pb2.Document(id="b", text="", title="T"),
                cache_tier=types_pb2.CACHE_TIER_MEMORY,
            ),
            rerank_pb2.RerankResult(index=0, relevance_score=-0.25),
        ],
        usage=rerank_pb2.RerankUsage(prompt_tokens=9, documents_cached=2),
        timings=rerank_pb2.RerankTimings(total=Duration(seconds=1, nanos=500_000_000)),
        model=IDENTITY,
        method=rerank_pb2.RERANK_METHOD_COSINE,
        warnings=[
            types_pb2.Warning(code=types_pb2.WARNING_CODE_QUERY_TRUNCATED, message="cut"),
            types_pb2.Warning(code=99, message="of a later server"),
        ],
    )

    answer = await client.rerank("q", ["a", "b"])

    assert [(r.index, r.id, r.relevance_score) for r in answer.results] == [
        (1, "b", 0.5),
        (0, "", -0.25),
    ]
    assert answer.results[0].document == Document(id="b", text="", title="T")
    assert answer.results[0].cache_tier is CacheTier.MEMORY
    assert answer.results[1].document is None
    assert answer.method is Method.COSINE
    assert answer.usage.prompt_tokens == 9
    assert answer.usage.documents_cached == 2
    assert answer.timings.total_seconds == 1.5
    assert answer.timings.queue_seconds == 0
    assert answer.model.profile == "small"
    assert answer.model.tokenizer_backend == "TRITON"
    assert [w.code for w in answer.warnings] == [
        WarningCode.QUERY_TRUNCATED,
        WarningCode.UNRECOGNISED,
    ]


async def test_embed_returns_float32_vectors_that_view_the_message(
    server: CannedServer, client: Any
) -> None:
    values = np.array([[1, 0, 0], [0, 0.6, 0.8]], "<f4")
    server.answer = embedding_pb2.EmbedResponse(
        vectors=types_pb2.VectorMatrix(
            data=values.tobytes(),
            encoding=types_pb2.VECTOR_ENCODING_FLOAT32,
            dimension=3,
            model_fingerprint="f1",
        ),
        truncated=[True, False],
        cache_tiers=[types_pb2.CACHE_TIER_COMPUTED, types_pb2.CACHE_TIER_MEMORY],
        model=IDENTITY,
    )

    answer = await client.embed(["a", "b"], input_type="DOCUMENT", titles=["A", None])

    assert [(i.text, i.title, i.HasField("title")) for i in server.request.inputs] == [
        ("a", "A", True),
        ("b", "", False),
    ]
    assert server.request.input_type == embedding_pb2.INPUT_TYPE_DOCUMENT
    received: Any = answer.vectors
    while isinstance(received, np.ndarray):
        assert not received.flags.owndata
        received = received.base
    assert received == values.tobytes()  # the one bytes object that all are views of
    assert np.shares_memory(answer.vectors, np.frombuffer(received, np.uint8))
    assert np.shares_memory(answer.vectors, answer.vector(1).values)
    assert not answer.vectors.flags.writeable
    assert answer.vectors.dtype == np.float32
    np.testing.assert_array_equal(answer.vectors, values)
    np.testing.assert_array_equal(answer.vector(1).values, values[1])
    assert answer.vector(1).model_fingerprint == answer.model.fingerprint
    assert answer.truncated == (True, False)
    assert answer.cache_tiers == (CacheTier.COMPUTED, CacheTier.MEMORY)


@pytest.mark.parametrize(
    ("vectors", "truncated", "tiers"),
    [
        (types_pb2.VectorMatrix(data=b"\0" * 7, encoding=1, dimension=2), [False], [2]),
        (types_pb2.VectorMatrix(data=b"\0" * 8, encoding=99, dimension=2), [False], [2]),
        (types_pb2.VectorMatrix(data=b"\0" * 8, encoding=1, dimension=2), [False] * 2, [2, 2]),
        (types_pb2.VectorMatrix(data=b"\0" * 8, encoding=1, dimension=2), [False], []),
    ],
)
async def test_vectors_that_break_the_contract_are_an_error(
    server: CannedServer,
    client: Any,
    vectors: types_pb2.VectorMatrix,
    truncated: list[bool],
    tiers: list[int],
) -> None:
    server.answer = embedding_pb2.EmbedResponse(
        vectors=vectors, truncated=truncated, cache_tiers=tiers
    )
    with pytest.raises(ServerError, match="unreadable answer"):
        await client.embed(["a"], input_type="QUERY")


async def test_titles_that_do_not_match_the_texts_are_refused(client: Any) -> None:
    with pytest.raises(ValueError, match="zip"):
        await client.embed(["a", "b"], input_type="DOCUMENT", titles=["A"])


async def test_models_are_described(server: CannedServer, client: Any) -> None:
    wire = model_pb2.Model(
        identity=IDENTITY,
        dimension=3,
        trained_for_listwise=True,
        default_method=rerank_pb2.RERANK_METHOD_E2RANK,
        default_prompt_order=rerank_pb2.PROMPT_ORDER_FIRST_STAGE,
        compute_dtype="float32",
        limits=model_pb2.ModelLimits(max_documents_per_request=10, max_prompt_documents=4),
        load=model_pb2.ModelLoad(is_serving=True, running_tokens=12),
        cache=model_pb2.CacheStats(
            hits=7,
            second_tier=model_pb2.SecondTierStats(
                tier="CACHE_TIER_DISK",
                state="SECOND_TIER_STATE_AWAY",
                timeouts=3,
                writes=model_pb2.SecondTierWrites(state="SECOND_TIER_STATE_AVAILABLE", written=5),
            ),
        ),
    )
    server.answer = model_pb2.GetModelResponse(model=wire)
    model = await client.get_model("small")
    assert server.request.model == "small"
    assert (model.dimension, model.trained_for_listwise, model.compute_dtype) == (
        3,
        True,
        "float32",
    )
    assert model.default_method is Method.E2RANK
    assert model.default_prompt_order is PromptOrder.FIRST_STAGE
    assert model.limits.max_documents_per_request == 10
    assert model.load == ModelLoad(is_serving=True, running_tokens=12, waiting_tokens=0)
    assert model.cache.hits == 7
    tier = model.cache.second_tier
    assert (tier.tier, tier.state, tier.timeouts) == (CacheTier.DISK, SecondTierState.AWAY, 3)
    assert (tier.writes.state, tier.writes.written) == (SecondTierState.AVAILABLE, 5)

    server.answer = model_pb2.ListModelsResponse(models=[wire, wire])
    assert await client.list_models() == (model, model)


BAD_REQUEST = error_details_pb2.BadRequest(
    field_violations=[
        error_details_pb2.BadRequest.FieldViolation(field="query", description="is blank")
    ]
)


async def test_a_refused_request_says_which_fields_and_why(
    server: CannedServer, client: Any
) -> None:
    server.answer = failure(
        grpc.StatusCode.INVALID_ARGUMENT, "query: is blank", reason("INVALID_REQUEST"), BAD_REQUEST
    )
    with pytest.raises(InvalidRequestError, match="query: is blank") as caught:
        await client.rerank("", ["d"])
    error = caught.value
    assert [(v.field, v.description) for v in error.violations] == [("query", "is blank")]
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.reason == "INVALID_REQUEST"
    assert error.request_id == "r-7"


@pytest.mark.parametrize(
    ("code", "name", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "PROMPT_TOO_LONG", PromptTooLongError),
        (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL", UnknownModelError),
        (grpc.StatusCode.NOT_FOUND, "UNKNOWN_DOCUMENTS", UnknownDocumentsError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", QuotaExceededError),
        (grpc.StatusCode.DATA_LOSS, "DATA_LOSS", DataLossError),
        (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_MISMATCH", ModelMismatchError),
        (grpc.StatusCode.UNAVAILABLE, "BACKEND_UNAVAILABLE", UnavailableError),
        (grpc.StatusCode.INTERNAL, "INTERNAL", ServerError),
        # A later server's reason: the status code still says what to do.
        (grpc.StatusCode.UNAVAILABLE, "SOMETHING_NEW", UnavailableError),
        (grpc.StatusCode.DATA_LOSS, "SOMETHING_NEW", DataLossError),
        (grpc.StatusCode.ABORTED, "SOMETHING_NEW", ServerError),
    ],
)
async def test_the_servers_reason_decides_the_error(
    server: CannedServer, client: Any, code: grpc.StatusCode, name: str, kind: type[Exception]
) -> None:
    server.answer = failure(code, "why", reason(name))
    with pytest.raises(kind, match="why") as caught:
        await client.get_model()
    assert type(caught.value) is kind


async def test_an_overloaded_server_says_when_to_come_back(
    server: CannedServer, client: Any
) -> None:
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(nanos=250_000_000))
    server.answer = failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", reason("OVERLOADED"), retry)
    with pytest.raises(OverloadedError) as caught:
        await client.rerank("q", ["d"])
    assert caught.value.retry_after_seconds == 0.25


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, UnavailableError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, OverloadedError),
        (grpc.StatusCode.UNIMPLEMENTED, ServerError),
    ],
)
@pytest.mark.parametrize("trailers", [(), (("grpc-status-details-bin", b"\xff\xff"),)])
async def test_a_status_without_readable_details_is_mapped_by_its_code(
    server: CannedServer,
    client: Any,
    code: grpc.StatusCode,
    kind: type[Exception],
    trailers: tuple[tuple[str, bytes], ...],
) -> None:
    async def abort(context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(code, "a proxy's words", trailers)

    server.answer = abort
    with pytest.raises(kind, match="a proxy's words") as caught:
        await client.rerank("q", ["d"])
    assert getattr(caught.value, "retry_after_seconds", None) is None


async def test_no_server_is_unavailable() -> None:
    async with AsyncE2RankClient("127.0.0.1:1") as nobody:
        with pytest.raises(UnavailableError):
            await nobody.get_model()


async def test_a_call_ends_at_its_timeout_and_the_server_stops_working(
    server: CannedServer, client: Any
) -> None:
    server.answer = forever
    with pytest.raises(DeadlineExceededError):
        await client.rerank("q", ["d"], timeout_seconds=0.2)
    await asyncio.wait_for(server.cancelled.wait(), 10)


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
async def test_a_timeout_that_is_none_is_refused(client: Any, seconds: float) -> None:
    with pytest.raises(ValueError, match="not positive and finite"):
        await client.get_model(timeout_seconds=seconds)
    with pytest.raises(ValueError, match="timeout_seconds"):
        E2RankClient("localhost:1", timeout_seconds=seconds)


async def test_a_call_without_a_timeout_has_the_clients(server: CannedServer) -> None:
    server.answer = forever
    async with AsyncE2RankClient(server.address, timeout_seconds=0.2) as impatient:
        with pytest.raises(DeadlineExceededError):
            await impatient.get_model()


async def test_cancelling_an_async_call_cancels_it_in_the_server(server: CannedServer) -> None:
    entered = asyncio.Event()

    async def enter(_context: Any) -> None:
        entered.set()
        await asyncio.Event().wait()

    server.answer = enter
    async with AsyncE2RankClient(server.address) as client:
        call = asyncio.ensure_future(client.rerank("q", ["d"]))
        await asyncio.wait_for(entered.wait(), 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(server.cancelled.wait(), 10)


async def test_messages_beyond_grpcs_default_of_4_mib_pass_both_ways(
    server: CannedServer, client: Any
) -> None:
    text = "x" * (5 << 20)
    document = rerank_pb2.Document(text=text)
    server.answer = rerank_pb2.RerankResponse(results=[rerank_pb2.RerankResult(document=document)])
    answer = await client.rerank("q", [text])
    assert answer.results[0].document is not None
    assert len(answer.results[0].document.text or "") == len(text)


async def test_a_message_beyond_the_servers_limit_has_an_error_of_its_own() -> None:
    canned = CannedServer()
    grpc_server = grpc.aio.server(options=[("grpc.max_receive_message_length", 1000)])
    rerank_pb2_grpc.add_RerankServiceServicer_to_server(canned, grpc_server)
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    await grpc_server.start()
    async with AsyncE2RankClient(f"127.0.0.1:{port}") as client:
        with pytest.raises(MessageTooLargeError):
            await client.rerank("q", ["x" * 2000])
    await grpc_server.stop(None)


@pytest.mark.parametrize("kind", ["async", "blocking"])
async def test_an_option_of_the_channel_overrides_the_clients_own(
    server: CannedServer, kind: str
) -> None:
    server.answer = rerank_pb2.RerankResponse(results=[rerank_pb2.RerankResult(id="x" * 2000)])
    options = [("grpc.max_receive_message_length", 1000)]
    async with open_client(kind, server.address, channel_options=options) as client:
        with pytest.raises(MessageTooLargeError):
            await client.rerank("q", ["d"])


async def test_health_is_reported(server: CannedServer, client: Any) -> None:
    await server.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert await client.check_health() is HealthStatus.NOT_SERVING
    await server.health.set("e2rank.v1.RerankService", health_pb2.HealthCheckResponse.SERVING)
    assert await client.check_health("e2rank.v1.RerankService") is HealthStatus.SERVING


async def test_waiting_ends_when_the_server_starts_serving(
    server: CannedServer, client: Any
) -> None:
    await server.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    waiting = asyncio.ensure_future(client.wait_until_ready(timeout_seconds=30))
    assert await client.check_health() is HealthStatus.NOT_SERVING
    assert not waiting.done()
    await server.health.set("", health_pb2.HealthCheckResponse.SERVING)
    await asyncio.wait_for(waiting, 10)


async def test_waiting_gives_up_at_its_timeout_and_says_what_it_last_heard(
    server: CannedServer, client: Any
) -> None:
    await server.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    with pytest.raises(DeadlineExceededError, match="last answer: NOT_SERVING"):
        await client.wait_until_ready(timeout_seconds=0.3)


async def test_all_calls_share_one_connection(server: CannedServer, client: Any) -> None:
    peers = set()

    async def note(context: grpc.aio.ServicerContext[Any, Any]) -> model_pb2.GetModelResponse:
        peers.add(context.peer())
        return model_pb2.GetModelResponse()

    server.answer = note
    for _ in range(5):
        await client.get_model()
    assert len(peers) == 1


METHODS = [
    "rerank",
    "embed",
    "embed_many",
    "embed_stored",
    "put_documents",
    "get_documents",
    "documents_exist",
    "delete_documents",
    "delete_namespace",
    "get_namespace_stats",
    "get_model",
    "list_models",
    "check_health",
]


@pytest.mark.parametrize("name", METHODS)
def test_both_clients_have_the_same_methods_with_real_signatures(name: str) -> None:
    blocking = inspect.signature(getattr(E2RankClient, name))
    awaitable = inspect.signature(getattr(AsyncE2RankClient, name))
    assert blocking.parameters == awaitable.parameters
    assert next(iter(blocking.parameters)) == "self"
    assert "timeout_seconds" in blocking.parameters
    assert awaitable.return_annotation == Awaitable[blocking.return_annotation]


def test_no_method_is_left_untested() -> None:
    public = {name for name in vars(E2RankClient) if not name.startswith("_")}
    assert public == {*METHODS, "wait_until_ready", "close"}


def test_the_tree_of_errors_shows_all_of_them() -> None:
    errors = {name for name in e2rank_client.__all__ if name.endswith("Error")}
    tree = e2rank_client.errors.__doc__ or ""
    assert {name for name in errors if f"{name} " not in tree and f"{name}\n" not in tree} == set()


def test_both_clients_are_made_from_the_same_arguments() -> None:
    blocking = inspect.signature(E2RankClient).parameters
    awaitable = inspect.signature(AsyncE2RankClient).parameters
    assert list(blocking) == list(awaitable)
    assert [p.default for p in blocking.values()] == [p.default for p in awaitable.values()]


def test_help_names_every_argument_of_a_client() -> None:
    for name in inspect.signature(E2RankClient).parameters:
        assert f"{name}: " in (E2RankClient.__doc__ or "")


def test_everything_exported_is_there_and_everything_there_is_exported() -> None:
    exported = {name for name in vars(e2rank_client) if not name.startswith("_")}
    modules = {name for name in exported if inspect.ismodule(getattr(e2rank_client, name))}
    assert exported - modules == set(e2rank_client.__all__)
