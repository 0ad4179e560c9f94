"""What happens around a call: ids, statuses, the gate, cancellation, parsing, logging."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import grpc
import pytest

from e2rank_server.errors import (
    ConfigurationError,
    FieldViolation,
    InvalidRequestError,
    OverloadedError,
    PromptTooLongError,
    UnavailableError,
)
from e2rank_server.gateway.request_id import RequestIdFilter
from tests.gateway.running_gateway import MAX_CONCURRENT_REQUESTS, Gateway, failure_of
from tests.gateway.wire_requests import embed_request, rerank_request

RERANK = "/e2rank.v1.RerankService/Rerank"


def fail_with(gateway: Gateway, error: BaseException) -> None:
    async def fail() -> None:
        raise error

    gateway.model.before_answering = fail


def wait_forever(gateway: Gateway) -> None:
    gateway.model.before_answering = asyncio.Event().wait  # type: ignore[assignment]


def call_with_bytes(gateway: Gateway, data: bytes, method: str = RERANK) -> grpc.aio.UnaryUnaryCall:
    return gateway.channel.unary_unary(method)(data)


# Request ids


async def request_id_of(call: grpc.aio.UnaryUnaryCall) -> str:
    await call
    return dict(await call.trailing_metadata())["x-request-id"]


async def test_callers_request_id_is_echoed(gateway: Gateway) -> None:
    call = gateway.rerank(rerank_request(), metadata=[("x-request-id", "abc-123")])
    assert await request_id_of(call) == "abc-123"


@pytest.mark.parametrize("offered", ["x" * 129, "two words", ""])
async def test_request_id_that_is_long_or_not_visible_ascii_is_replaced(
    gateway: Gateway, offered: str
) -> None:
    call = gateway.rerank(rerank_request(), metadata=[("x-request-id", offered)])
    assert await request_id_of(call) not in ("", offered)


async def test_calls_without_request_id_get_one_each(gateway: Gateway) -> None:
    first = await request_id_of(gateway.rerank(rerank_request()))
    second = await request_id_of(gateway.rerank(rerank_request()))
    assert first
    assert first != second


async def test_failed_call_carries_its_request_id(gateway: Gateway) -> None:
    call = gateway.rerank(rerank_request(0), metadata=[("x-request-id", "abc")])
    failure = await failure_of(call)
    assert failure.trailers["x-request-id"] == "abc"
    assert failure.metadata["request_id"] == "abc"


# Errors from below


async def test_engines_violations_reach_the_caller(gateway: Gateway) -> None:
    fail_with(gateway, InvalidRequestError.of("documents[3].text", "is needed in the prompt"))
    failure = await failure_of(gateway.rerank(rerank_request()))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.violations == {"documents[3].text": "is needed in the prompt"}


async def test_prompt_that_cannot_fit_has_its_own_reason(gateway: Gateway) -> None:
    fail_with(gateway, PromptTooLongError([FieldViolation("query", "takes 600 of 512 tokens")]))
    failure = await failure_of(gateway.rerank(rerank_request()))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.reason == "PROMPT_TOO_LONG"


async def test_overload_tells_when_to_come_back(gateway: Gateway) -> None:
    fail_with(gateway, OverloadedError("too much", retry_after_seconds=0.2504))
    failure = await failure_of(gateway.rerank(rerank_request()))
    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failure.reason == "OVERLOADED"
    assert failure.retry_seconds == 0.251
    assert failure.trailers["grpc-retry-pushback-ms"] == "251"


async def test_lost_backend_is_unavailable_and_named(gateway: Gateway) -> None:
    fail_with(gateway, UnavailableError("tokenizer", "is away"))
    failure = await failure_of(gateway.rerank(rerank_request()))
    assert failure.code is grpc.StatusCode.UNAVAILABLE
    assert failure.reason == "BACKEND_UNAVAILABLE"
    assert failure.metadata["backend"] == "tokenizer"
    assert failure.retry_seconds == 1.0
    assert "grpc-retry-pushback-ms" not in failure.trailers


async def test_group_of_one_kind_of_error_counts_as_that_error(gateway: Gateway) -> None:
    away = UnavailableError("embedder", "is away")
    fail_with(gateway, ExceptionGroup("tasks", [away, ExceptionGroup("inner", [away])]))
    failure = await failure_of(gateway.rerank(rerank_request()))
    assert failure.code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("secret path /srv/models"),
        ConfigurationError(["secret setting"]),
        ExceptionGroup("tasks", [ValueError("secret"), UnavailableError("embedder", "secret")]),
    ],
)
async def test_unexpected_error_is_internal_and_its_text_stays_in_the_log(
    gateway: Gateway, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    fail_with(gateway, error)
    caplog.handler.addFilter(RequestIdFilter())
    caplog.handler.setFormatter(logging.Formatter("[%(request_id)s] %(message)s"))
    call = gateway.rerank(rerank_request(), metadata=[("x-request-id", "abc")])
    failure = await failure_of(call)
    assert failure.code is grpc.StatusCode.INTERNAL
    assert failure.reason == "INTERNAL"
    assert failure.message == "internal error; the server's log has it under request id abc"
    assert "secret" not in repr(failure)
    assert "secret" in caplog.text
    assert f"[abc] unexpected error in {RERANK}" in caplog.text


async def test_more_violations_than_trailers_hold_are_counted_not_sent(gateway: Gateway) -> None:
    many = [FieldViolation(f"documents[{i}].text", "字" * 100) for i in range(1000)]
    fail_with(gateway, InvalidRequestError(many))
    failure = await failure_of(gateway.rerank(rerank_request()))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.metadata["num_violations"] == "1000"
    assert 3 <= len(failure.violations) < 1000
    assert len(failure.message.encode()) <= 512


# Cancellation and deadlines


async def cancel_midway(gateway: Gateway) -> None:
    """Make a call, cancel it once the model has it, and wait until the model knows."""
    gateway.model.entered.clear()
    gateway.model.cancelled.clear()
    wait_forever(gateway)
    call = gateway.rerank(rerank_request())
    pending = asyncio.ensure_future(call)
    await asyncio.wait_for(gateway.model.entered.wait(), 10)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pending
    await asyncio.wait_for(gateway.model.cancelled.wait(), 10)


async def test_cancelled_call_cancels_the_engines_work(gateway: Gateway) -> None:
    await cancel_midway(gateway)
    assert gateway.model.cancelled.is_set()


async def test_expired_deadline_cancels_the_engines_work(gateway: Gateway) -> None:
    wait_forever(gateway)
    timeout_seconds = 0.1
    while not gateway.model.entered.is_set():  # a busy machine may be slower than the deadline
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway.embed(embed_request(), timeout=timeout_seconds)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        timeout_seconds *= 2
    await asyncio.wait_for(gateway.model.cancelled.wait(), 10)


# The gate


async def test_one_call_too_many_is_refused_and_the_gate_opens_again(gateway: Gateway) -> None:
    full, release = asyncio.Barrier(MAX_CONCURRENT_REQUESTS + 1), asyncio.Event()

    async def wait_for_release() -> None:
        await full.wait()
        await release.wait()

    gateway.model.before_answering = wait_for_release
    calls = [
        asyncio.ensure_future(gateway.rerank(rerank_request()))
        for _ in range(MAX_CONCURRENT_REQUESTS)
    ]
    await asyncio.wait_for(full.wait(), 10)
    failure = await failure_of(gateway.embed(embed_request()))
    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failure.reason == "OVERLOADED"
    assert failure.retry_seconds == 1.0
    await gateway.is_serving()  # an overloaded server still says how it is
    release.set()
    await asyncio.gather(*calls)
    gateway.model.before_answering = None
    await gateway.embed(embed_request())


async def test_cancelled_and_failed_calls_leave_the_gate(gateway: Gateway) -> None:
    for _ in range(MAX_CONCURRENT_REQUESTS):
        await cancel_midway(gateway)
    fail_with(gateway, RuntimeError("x"))
    for _ in range(MAX_CONCURRENT_REQUESTS):
        await failure_of(gateway.rerank(rerank_request()))
    gateway.model.before_answering = None
    await gateway.rerank(rerank_request())


# Parsing


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda data: data.replace(b"which one", b"which \xff\xfee"), "query"),
        (lambda data: data.replace(b"text 1", b"tex\xc3(1"), "documents[1].text"),
        (lambda data: data.replace(b"d1", b"\xed\xa0"), "documents[1].id"),
    ],
)
async def test_invalid_utf8_is_an_invalid_argument_that_names_the_field(
    gateway: Gateway, spoil: object, field: str
) -> None:
    data = spoil(rerank_request().SerializeToString())  # type: ignore[operator]
    failure = await failure_of(call_with_bytes(gateway, data))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.reason == "INVALID_REQUEST"
    (violation,) = failure.violations.items()
    assert violation[0] == field
    assert violation[1].startswith("is not valid UTF-8 at byte ")


@pytest.mark.parametrize(
    "data", [b"\xff", b"\x1a\x7fabc", rerank_request().SerializeToString()[:-1]]
)
async def test_bytes_that_are_no_protobuf_are_an_invalid_argument(
    gateway: Gateway, data: bytes
) -> None:
    failure = await failure_of(call_with_bytes(gateway, data))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert len(failure.violations) == 1


async def test_health_check_parses_as_strictly(gateway: Gateway) -> None:
    call = call_with_bytes(gateway, b"\x0a\x01\xff", "/grpc.health.v1.Health/Check")
    failure = await failure_of(call)
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(failure.violations) == ["service"]


async def test_message_beyond_the_size_limit_is_refused_by_grpc(gateway: Gateway) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.rerank(rerank_request(query="x" * 65 * 1024))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert gateway.model.requests == []


async def test_unknown_method_is_unimplemented(gateway: Gateway) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call_with_bytes(gateway, b"", "/e2rank.v1.RerankService/Guess")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# The access log


class Lines(logging.Handler):
    """Hands over log lines as they come; a failed call's comes after its status."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(RequestIdFilter())
        self.setFormatter(logging.Formatter("[%(request_id)s] %(message)s"))
        self._queue: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self._queue.put_nowait(self.format(record))

    async def next(self) -> str:
        return await asyncio.wait_for(self._queue.get(), 10)


@pytest.fixture
async def access_lines() -> AsyncIterator[Lines]:
    logger, handler = logging.getLogger("e2rank_server.access"), Lines()
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


async def test_each_call_is_logged_with_outcome_and_id_but_without_content(
    gateway: Gateway, access_lines: Lines
) -> None:
    metadata = [("x-request-id", "abc")]
    await gateway.rerank(rerank_request(query="confidential"), metadata=metadata)
    good = await access_lines.next()
    await failure_of(gateway.rerank(rerank_request(0, query="confidential"), metadata=metadata))
    bad = await access_lines.next()
    assert good.startswith(f"[abc] {RERANK} OK ")
    assert bad.startswith(f"[abc] {RERANK} INVALID_ARGUMENT ")
    for line in (good, bad):
        assert "confidential" not in line


async def test_cancelled_call_is_logged_as_cancelled(gateway: Gateway, access_lines: Lines) -> None:
    await cancel_midway(gateway)
    assert f"] {RERANK} CANCELLED " in await access_lines.next()
