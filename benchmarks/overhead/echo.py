"""What a gRPC server costs that does nothing: the measure of the gateway.

    python -m benchmarks.overhead.echo

grpc.aio on uvloop with the generated code, as the gateway's. It parses the
request and returns the same response each time, which is serialised each time.
Prints its address, and serves until it is terminated.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import uvloop

from benchmarks.overhead.messages import MAX_MESSAGE_BYTES
from e2rank.v1 import rerank_pb2, rerank_pb2_grpc, types_pb2

NUM_RESULTS = 100


class EchoServicer(rerank_pb2_grpc.RerankServiceServicer):
    """Answers every request alike."""

    def __init__(self, response: rerank_pb2.RerankResponse) -> None:
        self._response = response

    async def Rerank(  # noqa: N802 - the contract's name
        self,
        request: rerank_pb2.RerankRequest,  # noqa: ARG002 - parsed, which is the point
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002 - grpc passes it
    ) -> rerank_pb2.RerankResponse:
        """Return the response."""
        return self._response


def canned_response(num_results: int) -> rerank_pb2.RerankResponse:
    """Make an answer as the gateway's: ids, scores and tiers of all candidates, and the rest."""
    response = rerank_pb2.RerankResponse(
        usage=rerank_pb2.RerankUsage(prompt_tokens=12, documents_cached=num_results),
        model=types_pb2.ModelIdentity(
            profile="all-minilm-l6-v2",
            revision="0" * 64,
            fingerprint="0" * 64,
            template_version="query-first/1",
            tokenizer_backend="TOKENIZER_BACKEND_IN_PROCESS",
            embedder_backend="EMBEDDER_BACKEND_FAKE",
        ),
        method="RERANK_METHOD_COSINE",
    )
    for index in range(num_results):
        response.results.add(
            index=index,
            id=f"d{index}",
            relevance_score=1 / (index + 3),
            cache_tier="CACHE_TIER_MEMORY",
        )
    timings = response.timings
    for stage in (timings.total, timings.tokenize, timings.prompt, timings.lookup, timings.score):
        stage.nanos = 123_456
    return response


async def serve() -> None:
    """Serve until cancelled."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)])
    rerank_pb2_grpc.add_RerankServiceServicer_to_server(  # type: ignore[no-untyped-call]
        EchoServicer(canned_response(NUM_RESULTS)), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"127.0.0.1:{port}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve())
