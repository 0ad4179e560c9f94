"""The client's errors, deadline, cancellation and reconnection, against a fake Triton."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from e2rank_server.errors import PromptTooLongError, UnavailableError
from e2rank_server.prompting.specification import PromptSpecification
from e2rank_server.tokenizer.protocol import ListwisePromptInput
from e2rank_server.tokenizer.triton.client import TritonTokenizer
from e2rank_server.tokenizer.triton.manifest import TritonProfile
from e2rank_server.tokenizer.triton.wire import error_text
from e2rank_server.types import InputType, TextInput

PROMPT = ListwisePromptInput("query", [TextInput("text", "title")], max_tokens_per_document=2**32)


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers ModelInfer as told."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.answer: Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]] = ids_answer

    async def ModelInfer(self, request: Any, context: grpc.aio.ServicerContext) -> Any:  # noqa: N802
        self.requests.append(request)
        return await self.answer(request, context)


async def ids_answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
    answer = service_pb2.ModelInferResponse(model_name=request.model_name)
    for name, array in (
        ("TOKEN_IDS", np.array([1, 2, 3], dtype=np.int32)),
        ("LENGTHS", np.array([1, 2], dtype=np.int32)),
        ("IS_TRUNCATED", np.array([False, True])),
        ("QUERY_SPAN", np.array([1, 2], dtype=np.int32)),
        ("TRUNCATED", np.array([True])),
        ("IS_SHRUNK", np.array([True])),
    ):
        answer.outputs.add(name=name, shape=[1, *array.shape])
        answer.raw_output_contents.append(array.tobytes())
    return answer


@asynccontextmanager
async def serving(triton: FakeTriton, address: str) -> AsyncIterator[None]:
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    server.add_insecure_port(address)
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/socket"


@pytest.fixture
def profile(tmp_path: Path) -> TritonProfile:
    (tmp_path / "tokenizer.json").touch()
    specification = PromptSpecification(
        special_tokens=(),
        query_template="{query}",
        document_template="{document}",
        title_separator=" - ",
        query_instruction="",
        listwise_template="{documents}{query}",
        listwise_document="{document}",
        listwise_score="{score}",
        listwise_separator="",
        listwise_instruction="",
        max_query_tokens=1,
        max_document_tokens=1,
        max_prompt_tokens=2,
    )
    return TritonProfile("small", specification, tmp_path / "tokenizer.json")


@pytest.fixture
async def triton(address: str) -> AsyncIterator[FakeTriton]:
    fake = FakeTriton()
    async with serving(fake, address):
        yield fake


@pytest.fixture
async def tokenizer(address: str, profile: TritonProfile) -> AsyncIterator[TritonTokenizer]:
    client = TritonTokenizer(address, profile, timeout_seconds=10)
    yield client
    await client.close()


async def test_ids_are_parted_by_their_lengths(
    triton: FakeTriton, tokenizer: TritonTokenizer
) -> None:
    texts = await tokenizer.tokenize_texts(InputType.DOCUMENT, [TextInput("a"), TextInput("b")])

    assert [(text.token_ids.tolist(), text.is_truncated) for text in texts] == [
        ([1], False),
        ([2, 3], True),
    ]


async def test_no_texts_need_no_triton(tokenizer: TritonTokenizer) -> None:
    assert await tokenizer.tokenize_texts(InputType.QUERY, []) == []


async def test_a_prompt_goes_out_and_comes_back_whole(
    triton: FakeTriton, tokenizer: TritonTokenizer, profile: TritonProfile
) -> None:
    prompt = await tokenizer.tokenize_listwise_prompt(PROMPT)

    [request] = triton.requests
    inputs = [tensor.name for tensor in request.inputs]
    sent = dict(zip(inputs, request.raw_input_contents, strict=True))
    assert sent["PROFILE"][4:].decode() == profile.key
    assert sent["DOCUMENTS"][4:] == b"title - text"
    assert sent["MAX_TOKENS_PER_DOCUMENT"] == np.int32(2**31 - 1).tobytes()
    assert "SCORES" not in sent
    assert prompt.token_ids.tolist() == [1, 2, 3]
    assert (prompt.query_span, prompt.truncated, prompt.is_shrunk) == ((1, 2), (True,), True)


async def test_an_error_of_the_prompter_is_raised_anew(
    triton: FakeTriton, tokenizer: TritonTokenizer
) -> None:
    original = PromptTooLongError.of("query", "has 9 tokens")

    async def refuse(_: Any, context: grpc.aio.ServicerContext) -> None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"in x, {error_text(original)}")

    triton.answer = refuse

    with pytest.raises(PromptTooLongError) as raised:
        await tokenizer.tokenize_listwise_prompt(PROMPT)
    assert raised.value.violations == original.violations


@pytest.mark.parametrize("code", ["INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE"])
async def test_any_other_status_means_unavailable(
    triton: FakeTriton, tokenizer: TritonTokenizer, code: str
) -> None:
    async def fail(_: Any, context: grpc.aio.ServicerContext) -> None:
        await context.abort(grpc.StatusCode[code], "Stub process is not healthy. " * 100)

    triton.answer = fail

    with pytest.raises(UnavailableError, match=f"tokenizer: Triton answered {code}: Stub") as error:
        await tokenizer.check_health()
    assert len(str(error.value)) < 400


async def test_a_profile_too_narrow_for_the_canary_is_healthy(
    triton: FakeTriton, tokenizer: TritonTokenizer
) -> None:
    async def refuse(request: Any, context: grpc.aio.ServicerContext) -> Any:
        if request.model_name == "tokenize_texts":
            return await ids_answer(request, context)
        error = PromptTooLongError.of("query", "has 9 tokens")
        return await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error_text(error))

    triton.answer = refuse

    await tokenizer.check_health()

    assert [request.model_name for request in triton.requests] == [
        "tokenize_texts",
        "tokenize_listwise_prompt",
    ]


async def test_without_a_server_it_is_unavailable_at_once(tokenizer: TritonTokenizer) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(UnavailableError, match="tokenizer"):
            await tokenizer.check_health()


async def test_a_server_that_says_nothing_is_unavailable_after_the_deadline(
    triton: FakeTriton, address: str, profile: TritonProfile
) -> None:
    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    triton.answer = never
    hasty = TritonTokenizer(address, profile, timeout_seconds=0.05)

    with pytest.raises(UnavailableError, match="DEADLINE_EXCEEDED"):
        await hasty.tokenize_listwise_prompt(PROMPT)
    await hasty.close()


async def test_a_cancelled_call_returns_at_once_and_ends_at_the_server_by_itself(
    triton: FakeTriton, tokenizer: TritonTokenizer
) -> None:
    begun, may_end, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wait(request: Any, context: grpc.aio.ServicerContext) -> Any:
        begun.set()
        await may_end.wait()
        ended.set()
        return await ids_answer(request, context)

    triton.answer = wait
    call = asyncio.create_task(tokenizer.tokenize_listwise_prompt(PROMPT))
    await begun.wait()
    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    # A later call is answered, so a cancellation would have arrived before it.
    triton.answer = ids_answer
    await tokenizer.tokenize_listwise_prompt(PROMPT)
    may_end.set()
    async with asyncio.timeout(5):
        await ended.wait()


async def test_it_finds_a_server_that_has_come_back(
    tokenizer: TritonTokenizer, address: str
) -> None:
    for _ in range(2):
        async with serving(FakeTriton(), address), asyncio.timeout(10):
            await tokenizer.wait_until_connected()
            await tokenizer.check_health()
        with pytest.raises(UnavailableError):
            await tokenizer.check_health()
