"""Real Triton, shared by these tests: it gives the ids that the in-process tokenizer gives."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from e2rank_server.tokenizer.in_process import InProcessTokenizer
from e2rank_server.tokenizer.protocol import ListwisePromptInput, TokenizedPrompt, TokenizedText
from e2rank_server.tokenizer.triton.client import TritonTokenizer
from e2rank_server.tokenizer.triton.manifest import TritonProfile
from e2rank_server.tokenizer.triton.server import EmbeddedTriton
from e2rank_server.types import InputType, TextInput
from tests.contract.tokenizer_contract import TokenizerCase, TokenizerContract
from tests.e2e.triton_profiles import ENVIRONMENT, narrow, real_profile, small_profiles

pytestmark = pytest.mark.e2e

REAL = ["all-minilm-l6-v2", "smollm2-135m", "all-minilm-l6-v2-narrow", "smollm2-135m-narrow"]
SMALL = [
    f"small-{name}"
    for name in (
        *("e2rank-eval", "e2rank-readme", "e2rank-train"),
        *("qwen3-embedding-0.6b", "smollm2-135m", "all-minilm-l6-v2"),
    )
]
ALPHABETS = [
    "abcdefghij     ,.;:-'\"\n\t",
    "".join(map(chr, range(0x20, 0x7F))),
    "".join(map(chr, range(0x20))) + "\x7f\x85\xa0\u2028\u2029\u200b\u200d\ufeff",
    "àéîõüßłøæþ\u0300\u0301\u0308\u0327\u20dd ﬁﬂ①Ⅷ½²",
    "東京日本語한국어ไทยहिन्दी नमस्ते עברית العربية\u202e\u202c ",
    "\U0001f680\U0001f469\U0001f3fd\u200d\U0001f4bb\U0001f1e9\U0001f1ea\u2764\ufe0f ",
    "\U0001d518\U00020000\U000e0041\ue000\uffff\U0010ffff",
]
SPECIALS = [
    *("[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", "<s>", "</s>", "<unk>", "##ing"),
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<repo_name>"),
    *("{query}", "{documents}", "<|im_", "end|>", "[ SEP ]", "[sep]"),
]


def hostile_texts(number: int, seed: int) -> list[str]:
    """Texts of mixed scripts, controls and special strings, some empty, a few very long."""
    chance = random.Random(seed)
    texts = []
    for _ in range(number):
        pieces = [
            chance.choice(SPECIALS)
            if chance.random() < 0.15
            else "".join(chance.choices(chance.choice(ALPHABETS), k=chance.randint(0, 25)))
            for _ in range(chance.randint(0, 8))
        ]
        texts.append(chance.choice(["", " "]).join(pieces) * (40 if chance.random() < 0.01 else 1))
    return texts


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TritonProfile]:
    real = [real_profile("all-minilm-l6-v2"), real_profile("smollm2-135m")]
    small = small_profiles(tmp_path_factory.mktemp("tokenizers"))
    return {each.name: each for each in (*real, *map(narrow, real), *small)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def triton(
    profiles: dict[str, TritonProfile], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[EmbeddedTriton]:
    log = tmp_path_factory.mktemp("triton") / "triton.log"
    server = await EmbeddedTriton.start(ENVIRONMENT, list(profiles.values()), log)
    yield server
    await server.close()


@pytest.fixture
async def stub(
    triton: EmbeddedTriton,
) -> AsyncIterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    async with grpc.aio.insecure_channel(triton.address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


class TestTritonTokenizer(TokenizerContract):
    @pytest.fixture(params=[*SMALL, "all-minilm-l6-v2", "smollm2-135m"])
    async def case(
        self,
        request: pytest.FixtureRequest,
        triton: EmbeddedTriton,
        profiles: dict[str, TritonProfile],
    ) -> AsyncIterator[TokenizerCase]:
        profile = profiles[request.param]
        tokenizer = TritonTokenizer(triton.address, profile)
        yield TokenizerCase(tokenizer, profile.prompts, profile.tokenizer_json)
        await tokenizer.close()


@pytest.mark.parametrize("name", REAL)
async def test_thousands_of_texts_have_the_ids_of_the_in_process_tokenizer(
    triton: EmbeddedTriton, profiles: dict[str, TritonProfile], name: str
) -> None:
    profile = profiles[name]
    texts = hostile_texts(1000, seed=11)
    titles = [text if index % 3 == 0 else None for index, text in enumerate(reversed(texts))]
    inputs = [TextInput(text, title) for text, title in zip(texts, titles, strict=True)]
    ours = TritonTokenizer(triton.address, profile)
    async with InProcessTokenizer(profile.prompts, profile.tokenizer_json) as theirs:
        for input_type in InputType:
            # The narrow profiles have no room for it.
            instruction = None if "narrow" in name else "Find what {query} <|im_end|> means"
            call = (input_type, inputs, instruction)
            assert_same_texts(await ours.tokenize_texts(*call), await theirs.tokenize_texts(*call))
    await ours.close()


@pytest.mark.parametrize("name", REAL)
async def test_listwise_prompts_have_the_ids_of_the_in_process_tokenizer(
    triton: EmbeddedTriton, profiles: dict[str, TritonProfile], name: str
) -> None:
    profile = profiles[name]
    prompts = listwise_prompts(100, seed=12)
    ours = TritonTokenizer(triton.address, profile)
    async with InProcessTokenizer(profile.prompts, profile.tokenizer_json) as theirs:
        here = await asyncio.gather(
            *map(ours.tokenize_listwise_prompt, prompts), return_exceptions=True
        )
        there = await asyncio.gather(
            *map(theirs.tokenize_listwise_prompt, prompts), return_exceptions=True
        )
    await ours.close()

    fitting = 0
    for mine, expected in zip(here, there, strict=True):
        if isinstance(expected, TokenizedPrompt):
            fitting += 1
            assert isinstance(mine, TokenizedPrompt)
            assert_same_prompt(mine, expected)
        else:
            assert (type(mine), str(mine)) == (type(expected), str(expected))
    assert fitting > len(prompts) // 2


def listwise_prompts(number: int, seed: int) -> list[ListwisePromptInput]:
    """Prompts of odd texts, every other one with scores; some have titles or tighter limits."""
    chance = random.Random(seed)
    texts = hostile_texts(number * 10, seed)
    prompts = []
    for index in range(number):
        chosen = texts[index * 10 : index * 10 + chance.randint(1, 10)]
        prompts.append(
            ListwisePromptInput(
                query=f"which one? {chance.choice(texts)[:60]}",
                documents=[TextInput(text, chance.choice([None, "", "title"])) for text in chosen],
                instruction=chance.choice([None, "Sort these"]),
                scores=[f"{chance.uniform(0, 30):.2f}" for _ in chosen] if index % 2 else None,
                max_tokens_per_document=chance.choice([None, None, 1, 7]),
            )
        )
    return prompts


def assert_same_texts(ours: Sequence[TokenizedText], theirs: Sequence[TokenizedText]) -> None:
    assert len(ours) == len(theirs)
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine.token_ids.tolist() == expected.token_ids.tolist()
        assert mine.is_truncated == expected.is_truncated


def assert_same_prompt(ours: TokenizedPrompt, theirs: TokenizedPrompt) -> None:
    assert ours.token_ids.tolist() == theirs.token_ids.tolist()
    assert ours.query_span == theirs.query_span
    assert tuple(ours.truncated) == tuple(theirs.truncated)
    assert ours.is_shrunk == theirs.is_shrunk


def infer_request(model: str, **inputs: Sequence[bytes]) -> Any:
    """A request as a stranger might send it: any bytes."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, elements in inputs.items():
        request.inputs.add(name=name, datatype="BYTES", shape=[1, len(elements)])
        content = b"".join(struct.pack("<I", len(element)) + element for element in elements)
        request.raw_input_contents.append(content)
    return request


async def status_of(call: Any) -> tuple[str, str]:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


async def test_a_bad_request_fails_alone_among_its_neighbours(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, profiles: dict[str, TritonProfile]
) -> None:
    key = [profiles["all-minilm-l6-v2"].key.encode()]
    good = {"PROFILE": key, "INPUT_TYPE": [b"QUERY"]}
    bad = [
        infer_request("tokenize_texts", **good, TEXTS=[b"fine", b"\xff\xfe"]),
        infer_request("tokenize_texts", PROFILE=[b"nobody"], INPUT_TYPE=[b"QUERY"], TEXTS=[b"a"]),
        infer_request("tokenize_texts", PROFILE=key, INPUT_TYPE=[b"POEM"], TEXTS=[b"a"]),
    ]
    requests = [
        bad[index // 8 % 3]
        if index % 8 == 3
        else infer_request("tokenize_texts", **good, TEXTS=[b"word " * index] * (index % 5))
        for index in range(96)
    ]

    answers = await asyncio.gather(*(status_of(stub.ModelInfer(each)) for each in requests))

    for index, (code, details) in enumerate(answers):
        if index % 8 != 3:
            assert code == "OK", details
            continue
        assert code == "INVALID_ARGUMENT"
        expected = ["is not UTF-8", "no profile 'nobody' is served here", "is 'POEM'"]
        assert expected[index // 8 % 3] in details


async def test_prompts_that_no_one_rendered_fail_alone_in_the_batch_they_join(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, profiles: dict[str, TritonProfile]
) -> None:
    def tokenizer_request(segment: bytes, *, is_special: bool) -> Any:
        request = infer_request(
            "tokenizer",
            PROFILE=[profiles["all-minilm-l6-v2"].key.encode()],
            SEGMENTS=[b"[CLS]", b"text", segment],
        )
        request.inputs.add(name="IS_SPECIAL", datatype="BOOL", shape=[1, 3])
        request.raw_input_contents.append(bytes([1, 0, is_special]))
        request.inputs.add(name="LAYOUT", datatype="INT32", shape=[1, 1, 6])
        request.raw_input_contents.append(struct.pack("<6i", 3, 1, 0, 4, -1, 0))
        return request

    requests = [tokenizer_request(b"[NOVEL]", is_special=index % 8 == 3) for index in range(64)]

    answers = await asyncio.gather(*(status_of(stub.ModelInfer(each)) for each in requests))

    for index, (code, details) in enumerate(answers):
        assert code == ("INTERNAL" if index % 8 == 3 else "OK"), details
        assert "NOVEL" not in details


async def test_a_batch_of_more_than_one_is_refused(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, profiles: dict[str, TritonProfile]
) -> None:
    key = profiles["all-minilm-l6-v2"].key.encode()
    request = infer_request(
        "tokenize_texts", PROFILE=[key] * 2, INPUT_TYPE=[b"QUERY"] * 2, TEXTS=[b"a", b"b"]
    )
    for tensor in request.inputs:
        tensor.shape[:] = [2, 1]

    code, details = await status_of(stub.ModelInfer(request))

    assert code == "INVALID_ARGUMENT"
    assert "has batch size 2; send one of 1" in details


async def test_scores_for_some_documents_only_are_refused(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, profiles: dict[str, TritonProfile]
) -> None:
    request = infer_request(
        "tokenize_listwise_prompt",
        PROFILE=[profiles["all-minilm-l6-v2"].key.encode()],
        QUERY=[b"q"],
        DOCUMENTS=[b"a", b"b"],
        SCORES=[b"1.0"],
    )

    code, details = await status_of(stub.ModelInfer(request))

    assert code == "INVALID_ARGUMENT"
    assert "there are 1 for 2 documents" in details
