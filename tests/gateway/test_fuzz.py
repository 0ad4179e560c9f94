"""No input makes the gateway answer INTERNAL or UNKNOWN."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2rank.v1 import embedding_pb2, rerank_pb2, types_pb2
from e2rank_server.gateway.server import GatewayServer
from tests.fakes import FakeServedModel
from tests.gateway.running_gateway import LIMITS

RERANK = "/e2rank.v1.RerankService/Rerank"
EMBED = "/e2rank.v1.EmbeddingService/Embed"
EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class Fuzzed:
    """A gateway on an event loop of its own, since Hypothesis runs synchronous tests."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.runner.run(self._start())

    async def _start(self) -> None:
        self.server = GatewayServer(
            [FakeServedModel()],
            LIMITS,
            address="127.0.0.1:0",
            max_concurrent_requests=8,
            health_interval_seconds=1,
        )
        self.channel = grpc.aio.insecure_channel(await self.server.start())

    def code_of(self, method: str, data: bytes) -> grpc.StatusCode:
        async def call() -> grpc.StatusCode:
            return await self.channel.unary_unary(method)(data).code()

        return self.runner.run(call())

    def close(self) -> None:
        async def stop() -> None:
            await self.channel.close()
            await self.server.stop(0)

        self.runner.run(stop())
        self.runner.close()


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Fuzzed]:
    gateway = Fuzzed()
    yield gateway
    gateway.close()


texts = st.one_of(st.text(max_size=8), st.sampled_from(["", " ", "x" * 300]))
names = st.one_of(st.sampled_from(["", "fake-model"]), texts)
enums = st.integers(-(2**31), 2**31 - 1) | st.integers(0, 4)
counts = st.none() | st.integers(0, 6) | st.just(2**32 - 1)
vectors = st.builds(
    types_pb2.Vector,
    data=st.binary(max_size=20) | st.binary(min_size=16, max_size=16),
    encoding=enums,
    dimension=st.sampled_from([0, 4, 2**32 - 1]),
    model_fingerprint=st.sampled_from(["", "fingerprint-1", "other"]),
)
documents = st.builds(
    rerank_pb2.Document,
    id=texts,
    text=st.none() | texts,
    title=st.none() | texts,
    vector=st.none() | vectors,
    first_stage_score=st.none() | st.floats(),
)
e2rank_options = st.builds(
    rerank_pb2.E2RankOptions,
    prompt_documents=counts,
    prompt_order=enums,
    first_stage_scores=st.none() | st.builds(rerank_pb2.FirstStageScoreOptions, scaling=enums),
)
rerank_requests = st.builds(
    rerank_pb2.RerankRequest,
    model=names,
    namespace=texts,
    query=texts,
    instruction=texts,
    documents=st.lists(documents, max_size=12),
    top_n=counts,
    return_documents=st.booleans(),
    max_tokens_per_document=counts,
    priority=st.integers(-(2**31), 2**31 - 1),
    e2rank=st.none() | e2rank_options,
)
embed_requests = st.builds(
    embedding_pb2.EmbedRequest,
    model=names,
    namespace=texts,
    input_type=enums,
    instruction=texts,
    inputs=st.lists(
        st.builds(embedding_pb2.TextInput, text=texts, title=st.none() | texts), max_size=6
    ),
    encoding=enums,
    priority=st.integers(-(2**31), 2**31 - 1),
)


@settings(deadline=None)
@given(data=st.binary(max_size=64), method=st.sampled_from([RERANK, EMBED]))
def test_random_bytes_get_a_precise_status(fuzzed: Fuzzed, data: bytes, method: str) -> None:
    assert fuzzed.code_of(method, data) in EXPECTED


@settings(deadline=None)
@given(request=rerank_requests)
def test_random_rerank_requests_get_a_precise_status(
    fuzzed: Fuzzed, request: rerank_pb2.RerankRequest
) -> None:
    assert fuzzed.code_of(RERANK, request.SerializeToString()) in EXPECTED


@settings(deadline=None)
@given(request=embed_requests)
def test_random_embed_requests_get_a_precise_status(
    fuzzed: Fuzzed, request: embedding_pb2.EmbedRequest
) -> None:
    assert fuzzed.code_of(EMBED, request.SerializeToString()) in EXPECTED


@settings(deadline=None)
@given(request=rerank_requests, position=st.integers(min_value=0), byte=st.integers(0, 255))
def test_requests_with_one_byte_changed_get_a_precise_status(
    fuzzed: Fuzzed, request: rerank_pb2.RerankRequest, position: int, byte: int
) -> None:
    data = bytearray(request.SerializeToString() or b"\x1a\x01q")
    data[position % len(data)] = byte
    assert fuzzed.code_of(RERANK, bytes(data)) in EXPECTED
