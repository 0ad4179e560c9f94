"""An LLM at an OpenAI-compatible endpoint: what is asked, what is believed, how it fails."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from e2rank_server.errors import (
    ConfigurationError,
    E2RankError,
    GeneratorRefusedError,
    OverloadedError,
    PromptTooLongError,
    UnavailableError,
)
from e2rank_server.generator.openai_connection import MAX_ANSWER_BYTES
from e2rank_server.generator.openai_endpoint import OpenAiEndpointGenerator
from e2rank_server.generator.protocol import Generation, GeneratorPrompt, OutputBudget
from e2rank_server.types import ChatMessage, GeneratorBackend
from tests.fake_openai_endpoint import Answer, Break, FakeOpenAiEndpoint, tokens_of
from tests.fake_vllm_server import eventually

KEY = "sk-live-0123456789"
PROMPT = GeneratorPrompt([ChatMessage("system", "You rank."), ChatMessage("user", "Rank [1] [2]")])
BEGUN = GeneratorPrompt(PROMPT.messages, answer_prefix="[")
BUDGET = OutputBudget("[1] > [2]")
LETTERS = "ABCD"


@pytest.fixture
async def endpoint() -> AsyncIterator[FakeOpenAiEndpoint]:
    async with FakeOpenAiEndpoint() as fake:
        yield fake


@asynccontextmanager
async def generator(
    endpoint: FakeOpenAiEndpoint, **options: Any
) -> AsyncIterator[OpenAiEndpointGenerator]:
    settings = {"api_key": None, "api": "vllm", "timeout_seconds": 30, "max_retries": 0}
    made = await OpenAiEndpointGenerator.start(endpoint.model, endpoint.url, **settings | options)
    try:
        yield made
    finally:
        await made.close()


async def generate(
    endpoint: FakeOpenAiEndpoint,
    prompt: GeneratorPrompt = PROMPT,
    budget: OutputBudget = BUDGET,
    **options: Any,
) -> Generation:
    async with generator(endpoint, **options) as made:
        return await made.generate(prompt, budget)


async def failure(endpoint: FakeOpenAiEndpoint, **options: Any) -> E2RankError:
    with pytest.raises(E2RankError) as caught:
        await generate(endpoint, **options)
    return caught.value


# What is asked


async def test_a_conversation_goes_out_greedily_and_its_answer_comes_back(
    endpoint: FakeOpenAiEndpoint,
) -> None:
    endpoint.answer_with("[2] > [1]")
    async with generator(endpoint) as made:
        assert (made.backend, made.model) == (GeneratorBackend.OPENAI_ENDPOINT, "llm")
        answer = await made.generate(PROMPT, BUDGET)
    assert answer == Generation("[2] > [1]", prompt_tokens=14, generated_tokens=7)
    (request,) = endpoint.requests
    assert request["messages"] == [
        {"role": "system", "content": "You rank."},
        {"role": "user", "content": "Rank [1] [2]"},
    ]
    assert (request["model"], request["temperature"]) == ("llm", 0)


async def test_vllm_is_told_what_its_own_fields_are_for(endpoint: FakeOpenAiEndpoint) -> None:
    prompt = GeneratorPrompt(PROMPT.messages, answer_prefix="[", thinking=False)
    async with generator(endpoint) as made:
        await made.generate(prompt, BUDGET, priority=3)
    (request,) = endpoint.requests
    assert request["messages"][-1] == {"role": "assistant", "content": "["}
    assert request["continue_final_message"] is True
    assert request["add_generation_prompt"] is False
    assert request["chat_template_kwargs"] == {"enable_thinking": False}
    assert request["priority"] == 3
    # Else vLLM applies that of the model's generation_config.json.
    assert request["repetition_penalty"] == 1.0


async def test_openai_gets_standard_fields_only(endpoint: FakeOpenAiEndpoint) -> None:
    prompt = GeneratorPrompt(PROMPT.messages, answer_prefix="[", thinking=False)
    async with generator(endpoint, api="openai") as made:
        await made.generate(prompt, BUDGET, priority=3)
    (request,) = endpoint.requests
    assert set(request) == {"model", "messages", "temperature", "max_completion_tokens"}
    assert [each["role"] for each in request["messages"]] == ["system", "user"]


async def test_thinking_at_openai_is_an_effort_and_no_temperature(
    endpoint: FakeOpenAiEndpoint,
) -> None:
    prompt = GeneratorPrompt(PROMPT.messages, thinking=True)
    await generate(endpoint, prompt, OutputBudget("[1] > [2]", 1000), api="openai")
    (request,) = endpoint.requests
    assert request["reasoning_effort"] == "medium"
    assert "temperature" not in request
    assert request["max_completion_tokens"] == 9 + 1000


async def test_an_endpoint_without_priorities_is_asked_without_from_then_on(
    endpoint: FakeOpenAiEndpoint,
) -> None:
    endpoint.takes_priority = False
    async with generator(endpoint) as made:
        for _ in range(2):
            assert (await made.generate(PROMPT, BUDGET, priority=1)).text == "[1]"
    assert ["priority" in request for request in endpoint.requests] == [True, False, False]


@pytest.mark.parametrize("api", ["vllm", "openai"])
async def test_special_tokens_in_a_text_reach_the_model_broken(
    endpoint: FakeOpenAiEndpoint, api: str
) -> None:
    text = "a<|im_end|> b</s> <start_of_turn>user [/INST] <<SYS>>"
    prompt = GeneratorPrompt([ChatMessage("user", text)])
    await generate(endpoint, prompt, api=api)
    (message,) = endpoint.requests[0]["messages"]
    for token in ("<|im_end|>", "</s>", "<start_of_turn>", "[/INST]", "<<SYS>>"):
        assert token not in message["content"]
    assert message["content"].replace("\u200b", "") == text


@pytest.mark.parametrize("text", ["if a < b: x[i] = c", "<p>a <strong>b</strong></p> [1] > [2]"])
async def test_other_texts_reach_the_model_as_they_are(
    endpoint: FakeOpenAiEndpoint, text: str
) -> None:
    await generate(endpoint, GeneratorPrompt([ChatMessage("user", text)]))
    assert endpoint.requests[0]["messages"] == [{"role": "user", "content": text}]


async def test_connections_are_kept(endpoint: FakeOpenAiEndpoint) -> None:
    async with generator(endpoint) as made:
        for _ in range(3):
            await made.generate(PROMPT, BUDGET)
    assert len(endpoint.connections) == 1


async def test_the_configured_key_is_sent_and_that_of_the_environment_never(
    endpoint: FakeOpenAiEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
    await generate(endpoint, api_key=KEY)
    assert endpoint.headers["Authorization"] == f"Bearer {KEY}"
    await generate(endpoint)
    assert "environment" not in endpoint.headers["Authorization"]


async def test_proxies_of_the_environment_are_not_used(
    endpoint: FakeOpenAiEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert (await generate(endpoint)).text == "[1]"


def test_the_official_client_is_imported_only_on_start() -> None:
    code = (
        "import sys, e2rank_server.generator.openai_endpoint;"
        "sys.exit('openai' in sys.modules or 'httpx2' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    "url",
    [
        "llm:8000",
        "ftp://llm/v1",
        "http://",
        "http://llm:port/v1",
        "http://llm/v1?key=1",
        "http://user:secret@llm/v1",
    ],
)
async def test_a_url_that_is_none_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match="generator") as caught:
        await OpenAiEndpointGenerator.start("m", url, api_key=None, api="vllm", timeout_seconds=1)
    assert "secret" not in str(caught.value)


async def test_a_key_that_fits_no_header_is_a_configuration_error_without_it() -> None:
    with pytest.raises(ConfigurationError) as caught:
        await OpenAiEndpointGenerator.start(
            "m", "http://llm/v1", api_key=KEY + "\n", api="vllm", timeout_seconds=1
        )
    assert KEY not in str(caught.value)


# Lengths


async def test_an_answer_is_held_to_the_length_that_vllm_counts_which_is_asked_once(
    endpoint: FakeOpenAiEndpoint,
) -> None:
    endpoint.has_tokenize = True
    async with generator(endpoint) as made:
        await made.generate(PROMPT, BUDGET)
        await made.generate(BEGUN, BUDGET)
        await made.generate(PROMPT, OutputBudget("[1]"))
    lengths = [(each["min_tokens"], each["max_tokens"]) for each in endpoint.requests]
    assert lengths == [(7, 7), (7, 7), (3, 3)]
    assert endpoint.tokenize_requests == [
        {"model": "llm", "prompt": text, "add_special_tokens": False}
        for text in ("[1] > [2]", "[1]")
    ]


async def test_without_a_count_the_length_is_estimated_and_not_forced(
    endpoint: FakeOpenAiEndpoint,
) -> None:
    async with generator(endpoint) as made:
        for text in ("[1] > [2]", "[1]", "é"):
            await made.generate(PROMPT, OutputBudget(text))
    assert [each["max_tokens"] for each in endpoint.requests] == [9, 3, 2]
    assert not any("min_tokens" in each for each in endpoint.requests)
    # An endpoint that has no such path is not asked again.
    assert len(endpoint.tokenize_requests) == 1


async def test_with_reasoning_nothing_is_forced(endpoint: FakeOpenAiEndpoint) -> None:
    endpoint.has_tokenize = True
    await generate(endpoint, budget=OutputBudget("[1] > [2]", reasoning_tokens=500))
    (request,) = endpoint.requests
    assert request["max_tokens"] == 9 + 500
    assert "min_tokens" not in request


async def test_where_an_answer_cannot_be_begun_it_may_be_longer_and_loses_its_beginning(
    endpoint: FakeOpenAiEndpoint,
) -> None:
    endpoint.answer_with(" [2] > [1]")
    answer = await generate(endpoint, BEGUN, OutputBudget("2] > [1]"), api="openai")
    assert answer.text == "2] > [1]"
    assert endpoint.requests[0]["max_completion_tokens"] == 9


async def test_prompt_and_output_are_counted_as_vllm_will_render_them(
    endpoint: FakeOpenAiEndpoint,
) -> None:
    endpoint.has_tokenize = True
    prompt = GeneratorPrompt(PROMPT.messages, answer_prefix="[", thinking=False)
    async with generator(endpoint) as made:
        assert made.max_model_tokens is None
        count = await made.count_tokens(prompt, BUDGET)
        assert made.max_model_tokens == endpoint.max_model_len
    rendered = "system: You rank.\nuser: Rank [1] [2]\nassistant: ["
    assert count == len(tokens_of(rendered)) + 7
    counted = endpoint.tokenize_requests[0]
    assert counted["continue_final_message"] is True
    assert counted["chat_template_kwargs"] == {"enable_thinking": False}


async def test_a_configured_context_is_believed_over_what_the_endpoint_says(
    endpoint: FakeOpenAiEndpoint,
) -> None:
    endpoint.has_tokenize = True
    async with generator(endpoint, max_model_tokens=1000) as made:
        await made.count_tokens(PROMPT, BUDGET)
        assert made.max_model_tokens == 1000


@pytest.mark.parametrize("api", ["vllm", "openai"])
async def test_tokens_that_nobody_counts_are_unknown(
    endpoint: FakeOpenAiEndpoint, api: str
) -> None:
    async with generator(endpoint, api=api) as made:
        assert await made.count_tokens(PROMPT, BUDGET) is None


async def test_an_endpoint_that_counts_texts_but_no_conversations_still_forces_lengths(
    endpoint: FakeOpenAiEndpoint,
) -> None:
    endpoint.has_tokenize, endpoint.tokenizes_messages = True, False
    async with generator(endpoint) as made:
        assert await made.count_tokens(PROMPT, BUDGET) is None
        await made.generate(PROMPT, BUDGET)
    assert endpoint.requests[0]["min_tokens"] == 7


@pytest.mark.parametrize(
    "answer",
    [[], {}, {"count": "7"}, {"count": -1}, {"count": 1.5}, {"count": 7, "max_model_len": []}],
)
async def test_a_count_that_is_none_makes_the_endpoint_unavailable(
    endpoint: FakeOpenAiEndpoint, answer: Any
) -> None:
    endpoint.has_tokenize, endpoint.tokenize_answer = True, answer
    async with generator(endpoint) as made:
        for call in (made.count_tokens(PROMPT, BUDGET), made.generate(PROMPT, BUDGET)):
            with pytest.raises(UnavailableError, match="makes no sense"):
                await call


# First tokens


async def test_the_first_token_after_a_begun_answer_is_read_at_once(
    endpoint: FakeOpenAiEndpoint,
) -> None:
    endpoint.answer_with(Answer("B", "length", logprobs=[{"B": -0.1, "A": -2.5, "x": -3.0}]))
    async with generator(endpoint) as made:
        first = await made.first_token(BEGUN, LETTERS, priority=2)
    assert first.logprobs == {"B": -0.1, "A": -2.5}
    assert (first.prompt_tokens, first.generated_tokens) == (17, 1)
    (request,) = endpoint.requests
    assert (request["logprobs"], request["top_logprobs"], request["max_tokens"]) == (True, 20, 1)
    assert (request["continue_final_message"], request["priority"]) == (True, 2)


async def test_a_begun_answer_is_read_at_its_first_token_whatever_that_is(
    endpoint: FakeOpenAiEndpoint,
) -> None:
    endpoint.answer_with(Answer("x", logprobs=[{"x": -0.1, "C": -4.0}]))
    async with generator(endpoint) as made:
        assert (await made.first_token(BEGUN, LETTERS)).logprobs == {"C": -4.0}


async def test_spellings_of_an_identifier_count_as_the_likeliest_of_them(
    endpoint: FakeOpenAiEndpoint,
) -> None:
    likely = {" A": -3.0, "A": -2.0, "A]": -4.0, "a": -0.5, "AB": -0.6, "Z": -0.7, "[B": -5.0}
    endpoint.answer_with(Answer("A", logprobs=[likely]))
    async with generator(endpoint) as made:
        assert (await made.first_token(BEGUN, LETTERS)).logprobs == {"A": -2.0, "B": -5.0}


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([{"[": -0.1}, {"B": -0.2, "A": -1.0}, {"]": 0.0}], {"B": -0.2, "A": -1.0}),
        ([{" ": -0.1}, {" [": -0.1}, {"C": -0.3}], {"C": -0.3}),
        ([{"[": -0.1}, {"?": -0.2, "D": -1.0}, {"]": 0.0}], {"D": -1.0}),
        ([{"A": -0.1, "B": -2.0}, {"]": 0.0}], {"A": -0.1, "B": -2.0}),
        ([{"[B": -0.1, "[A": -2.0}, {"]": 0.0}], {"B": -0.1, "A": -2.0}),
        ([{"Sure": -0.1, "A": -2.0}, {",": -0.1}, {" here": -0.1}], {}),
        ([{"The": -0.1}, {" best": -0.1}, {" [": -0.1}], {}),
    ],
)
async def test_an_answer_that_was_not_begun_is_read_behind_its_bracket(
    endpoint: FakeOpenAiEndpoint,
    positions: list[dict[str, float]],
    expected: dict[str, float],
) -> None:
    endpoint.answer_with(Answer("x", "length", logprobs=positions))
    async with generator(endpoint, api="openai") as made:
        assert (await made.first_token(BEGUN, LETTERS)).logprobs == expected
    assert endpoint.requests[0]["max_completion_tokens"] == 3


async def test_an_endpoint_that_tells_no_logprobs_is_refused_for_good(
    endpoint: FakeOpenAiEndpoint,
) -> None:
    async with generator(endpoint) as made:
        with pytest.raises(GeneratorRefusedError, match="log-probabilities"):
            await made.first_token(BEGUN, LETTERS)


async def test_a_refusal_has_no_first_tokens(endpoint: FakeOpenAiEndpoint) -> None:
    endpoint.answer_with(Answer(None, "content_filter"))
    async with generator(endpoint) as made:
        assert (await made.first_token(BEGUN, LETTERS)).logprobs == {}


# Refusals


@pytest.mark.parametrize(
    "answer",
    [
        Answer("I can't help with that.", refusal="I can't help with that."),
        Answer(None, "content_filter"),
        Answer("[1] >", "content_filter"),
        Answer(None),
        Answer(" \n"),
    ],
)
async def test_an_answer_that_declines_is_a_refusal(
    endpoint: FakeOpenAiEndpoint, answer: Answer
) -> None:
    endpoint.answer_with(answer)
    assert (await generate(endpoint)).is_refusal


async def test_a_prompt_that_the_provider_filters_is_a_refusal(
    endpoint: FakeOpenAiEndpoint,
) -> None:
    endpoint.fail_with(400, "The prompt was filtered", code="content_filter")
    assert await generate(endpoint) == Generation("", 0, 0, is_refusal=True)


@pytest.mark.parametrize(
    "answer", [Answer(None, reasoning="Let me see"), Answer("", "length"), Answer("[1]")]
)
async def test_an_answer_that_is_only_poor_is_no_refusal(
    endpoint: FakeOpenAiEndpoint, answer: Answer
) -> None:
    endpoint.answer_with(answer)
    assert not (await generate(endpoint)).is_refusal


async def test_reasoning_that_the_endpoint_splits_off_is_not_the_answer(
    endpoint: FakeOpenAiEndpoint,
) -> None:
    endpoint.answer_with(Answer("[2] > [1]", reasoning="[1] looks bad"))
    assert (await generate(endpoint)).text == "[2] > [1]"


# Failures


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 504, 529])
async def test_a_server_that_fails_is_unavailable(
    endpoint: FakeOpenAiEndpoint, status: int
) -> None:
    endpoint.fail_with(status, "out of order")
    error = await failure(endpoint)
    assert isinstance(error, UnavailableError)
    assert (error.backend, str(error)) == (
        "generator",
        f"generator: the endpoint answers HTTP {status}: out of order",
    )


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 405, 413, 422])
async def test_a_call_that_repeating_will_not_help_is_refused(
    endpoint: FakeOpenAiEndpoint, status: int
) -> None:
    endpoint.fail_with(status, "no\nsuch  thing", headers={"Location": endpoint.url})
    error = await failure(endpoint)
    assert isinstance(error, GeneratorRefusedError)
    assert str(error) == f"generator: the endpoint answers HTTP {status}: no such thing"
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 1),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "9999"}, 60),
        ({"Retry-After": "-3"}, 0),
        ({"Retry-After": "nan"}, 1),
        ({"Retry-After": "soon"}, 1),
        ({"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"}, 1),
        ({"Retry-After-Ms": "1500", "Retry-After": "7"}, 1.5),
    ],
)
async def test_too_many_requests_are_an_overload_with_the_wait_that_is_asked_for(
    endpoint: FakeOpenAiEndpoint, headers: dict[str, str], seconds: float
) -> None:
    endpoint.fail_with(429, "slow down", headers=headers)
    error = await failure(endpoint)
    assert isinstance(error, OverloadedError)
    assert error.retry_after_seconds == seconds
    assert "slow down" in str(error)


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("This model's maximum context length is 4096 tokens. However, you sent 5000.", {}),
        ("Input length (5000) exceeds model's maximum context length (4096).", {}),
        ("the request exceeds the available context size (4096)", {"type": "exceed_context"}),
        ("Too much: 5000 > 4096", {"code": "context_length_exceeded"}),
    ],
)
async def test_a_prompt_beyond_the_context_is_too_long_with_the_endpoints_numbers(
    endpoint: FakeOpenAiEndpoint, message: str, fields: dict[str, str]
) -> None:
    endpoint.fail_with(400, message, **fields)
    error = await failure(endpoint)
    assert isinstance(error, PromptTooLongError)
    (violation,) = error.violations
    assert violation.field == "llm_listwise"
    assert "4096" in violation.description


async def test_a_model_that_takes_no_temperature_is_refused_with_the_reason(
    endpoint: FakeOpenAiEndpoint,
) -> None:
    endpoint.fail_with(400, "Unsupported value", param="temperature")
    error = await failure(endpoint, api="openai")
    assert isinstance(error, GeneratorRefusedError)
    assert "temperature 0, which some reasoning models do not take" in str(error)


NOT_COMPLETIONS: list[Any] = [
    [],
    None,
    {"error": {"message": "busy"}},
    {"choices": None},
    {"choices": {}},
    {"choices": []},
    {"choices": [None]},
    {"choices": [{}]},
    {"choices": [{"message": "hi", "finish_reason": "stop"}]},
    {"choices": [{"message": {"content": 7}, "finish_reason": "stop"}]},
    {"choices": [{"message": {"content": ["a"]}, "finish_reason": "stop"}]},
    {"choices": [{"message": {"content": "a"}}]},
    {"choices": [{"message": {"content": "a"}, "finish_reason": 1}]},
    {"choices": [{"message": {"content": "a"}, "finish_reason": "abort"}]},
    {"choices": [{"message": {"content": "a"}, "finish_reason": "tool_calls"}]},
    {"choices": [{"message": {"content": "a", "refusal": 1}, "finish_reason": "stop"}]},
    {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "usage": []},
    {
        "choices": [{"message": {"content": "a"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": -1},
    },
    {
        "choices": [{"message": {"content": "a"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": True},
    },
]


@pytest.mark.parametrize("body", NOT_COMPLETIONS, ids=json.dumps)
async def test_json_that_is_no_completion_makes_the_endpoint_unavailable(
    endpoint: FakeOpenAiEndpoint, body: Any
) -> None:
    endpoint.send(json.dumps(body).encode())
    error = await failure(endpoint)
    assert isinstance(error, UnavailableError)
    assert "makes no sense" in str(error)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe\x00garbage",
        b'{"choices": [',
        b"[" * 100_000,
        b"9" * 10_000,
        b"<html>Bad gateway</html>",
        b'data: {"choices": []}\n\n',
    ],
)
@pytest.mark.parametrize("content_type", ["application/json", "text/html", "text/event-stream"])
async def test_bytes_that_are_no_json_make_the_endpoint_unavailable(
    endpoint: FakeOpenAiEndpoint, body: bytes, content_type: str
) -> None:
    endpoint.send(body, content_type=content_type)
    assert isinstance(await failure(endpoint), UnavailableError)


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"[" * 100_000, b'{"error": 5}', b'"no"'])
@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, GeneratorRefusedError), (429, OverloadedError), (500, UnavailableError)],
)
async def test_an_error_without_a_readable_message_is_still_of_its_kind(
    endpoint: FakeOpenAiEndpoint, body: bytes, status: int, kind: type[E2RankError]
) -> None:
    endpoint.send(body, status=status)
    error = await failure(endpoint)
    assert type(error) is kind
    assert str(status) in str(error)
    assert len(str(error)) < 400


async def test_a_completion_without_usage_counts_no_tokens(endpoint: FakeOpenAiEndpoint) -> None:
    endpoint.send(b'{"choices": [{"message": {"content": "[1]"}, "finish_reason": "stop"}]}')
    assert await generate(endpoint) == Generation("[1]", 0, 0)


@pytest.mark.parametrize(
    "logprobs",
    [
        7,
        {"content": "A"},
        {"content": ["A"]},
        {"content": [{"token": 1, "logprob": 0}]},
        {"content": [{"token": "A", "logprob": "0"}]},
        {"content": [{"token": "A", "logprob": float("nan")}]},
        {"content": [{"token": "A", "logprob": float("-inf")}]},
        {"content": [{"token": "A", "logprob": 0.5}]},
        {"content": [{"token": "A", "logprob": -(10**400)}]},
        {"content": [{"token": "A", "logprob": -1.0, "top_logprobs": [{}]}]},
    ],
)
async def test_logprobs_that_are_none_make_the_endpoint_unavailable(
    endpoint: FakeOpenAiEndpoint, logprobs: Any
) -> None:
    choice = {"message": {"content": "A"}, "finish_reason": "length", "logprobs": logprobs}
    endpoint.send(json.dumps({"choices": [choice]}).encode())
    async with generator(endpoint) as made:
        with pytest.raises(UnavailableError, match="makes no sense"):
            await made.first_token(BEGUN, LETTERS)


@pytest.mark.parametrize("how", [Break.RESET, Break.TRUNCATE, Break.COMPRESS])
async def test_an_answer_that_breaks_off_makes_the_endpoint_unavailable(
    endpoint: FakeOpenAiEndpoint, how: Break
) -> None:
    endpoint.break_with(how)
    assert isinstance(await failure(endpoint), UnavailableError)


async def test_an_endless_answer_is_read_to_the_limit_and_no_further(
    endpoint: FakeOpenAiEndpoint,
) -> None:
    endpoint.break_with(Break.ENDLESS)
    error = await failure(endpoint)
    assert isinstance(error, UnavailableError)
    assert f"more than {MAX_ANSWER_BYTES} bytes" in str(error)
    await eventually(lambda: endpoint.num_disconnects == 1)


async def test_an_answer_that_stalls_ends_with_the_time(endpoint: FakeOpenAiEndpoint) -> None:
    endpoint.break_with(Break.STALL)
    error = await failure(endpoint, timeout_seconds=0.05)
    assert isinstance(error, UnavailableError)
    assert "0.05 seconds" in str(error)
    await eventually(lambda: endpoint.num_disconnects == len(endpoint.requests))


async def test_an_endpoint_that_is_not_there_is_unavailable(endpoint: FakeOpenAiEndpoint) -> None:
    await endpoint.stop()
    error = await failure(endpoint)
    assert isinstance(error, UnavailableError)
    assert "no connection" in str(error)


async def test_the_time_of_a_call_bounds_all_its_attempts(endpoint: FakeOpenAiEndpoint) -> None:
    endpoint.fail_with(500, headers={"Retry-After-Ms": "1"})
    error = await failure(endpoint, timeout_seconds=0.1, max_retries=1_000_000)
    assert isinstance(error, UnavailableError)
    assert "0.1 seconds" in str(error)


async def test_what_may_pass_is_tried_again(endpoint: FakeOpenAiEndpoint) -> None:
    for status in (429, 500):
        endpoint.fail_with(status, headers={"Retry-After-Ms": "1"}, times=2)
        assert (await generate(endpoint, max_retries=2)).text == "[1]"
    assert len(endpoint.requests) == 6


async def test_a_wait_that_would_outlast_the_call_is_left_to_the_caller(
    endpoint: FakeOpenAiEndpoint,
) -> None:
    endpoint.fail_with(429, headers={"Retry-After": "8"})
    error = await failure(endpoint, timeout_seconds=30, max_retries=2)
    assert isinstance(error, OverloadedError)
    assert error.retry_after_seconds == 8
    assert len(endpoint.requests) == 1


async def test_leaving_a_call_closes_its_request(endpoint: FakeOpenAiEndpoint) -> None:
    endpoint.hold()
    async with generator(endpoint) as made:
        task = asyncio.create_task(made.generate(PROMPT, BUDGET))
        await eventually(lambda: endpoint.num_waiting == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: endpoint.num_disconnects == 1)
        endpoint.release()
        assert (await made.generate(PROMPT, BUDGET)).text == "[1]"


async def test_closing_ends_the_calls_in_flight_and_later_ones(
    endpoint: FakeOpenAiEndpoint,
) -> None:
    endpoint.hold()
    async with generator(endpoint) as made:
        task = asyncio.create_task(made.generate(PROMPT, BUDGET))
        await eventually(lambda: endpoint.num_waiting == 1)
        await made.close()
        with pytest.raises(UnavailableError, match="closed"):
            await task
        for call in (made.generate(PROMPT, BUDGET), made.check_health()):
            with pytest.raises(UnavailableError, match="closed"):
                await call
    await eventually(lambda: endpoint.num_disconnects == 1)


# Health


async def test_health_asks_nothing_of_an_endpoint_that_answers(
    endpoint: FakeOpenAiEndpoint,
) -> None:
    async with generator(endpoint) as made:
        await made.check_health()
        await made.generate(PROMPT, BUDGET)
        await made.check_health()
    assert endpoint.num_model_requests == 0


async def test_health_tells_of_an_endpoint_that_went_and_of_its_return(
    endpoint: FakeOpenAiEndpoint,
) -> None:
    async with generator(endpoint) as made:
        await endpoint.stop()
        with pytest.raises(UnavailableError):
            await made.generate(PROMPT, BUDGET)
        with pytest.raises(UnavailableError, match="no connection"):
            await made.check_health()
        await endpoint.start()
        await made.check_health()
        assert (await made.generate(PROMPT, BUDGET)).text == "[1]"


async def test_an_endpoint_that_only_refuses_is_healthy(endpoint: FakeOpenAiEndpoint) -> None:
    async with generator(endpoint) as made:
        for status in (400, 429):
            endpoint.fail_with(status)
            with pytest.raises(E2RankError):
                await made.generate(PROMPT, BUDGET)
            await made.check_health()


# Secrets


async def test_a_key_that_the_endpoint_repeats_reaches_no_error_log_or_repr(
    endpoint: FakeOpenAiEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for message in (f"Incorrect API key: {KEY}", "Bearer abc.def", "key sk-live-01234***89"):
        for status in (401, 429, 500):
            endpoint.fail_with(status, message)
            error = await failure(endpoint, api_key=KEY)
            shown = "".join(traceback.format_exception(error)) + caplog.text
            assert KEY not in shown
            assert "abc.def" not in str(error)
            assert "01234" not in str(error)
    async with generator(endpoint, api_key=KEY) as made:
        assert KEY not in repr(made)
        assert KEY not in repr(vars(made))


async def test_a_long_message_is_cut(endpoint: FakeOpenAiEndpoint) -> None:
    endpoint.fail_with(400, "no " * 100_000)
    assert len(str(await failure(endpoint))) < 400


# The fake itself


async def test_a_key_that_the_fake_requires_is_checked(endpoint: FakeOpenAiEndpoint) -> None:
    endpoint.api_key = KEY
    assert (await generate(endpoint, api_key=KEY)).text == "[1]"
    assert isinstance(await failure(endpoint, api_key="other"), GeneratorRefusedError)
