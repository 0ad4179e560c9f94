"""A gateway on a real socket with its fake model and a client, and what failed calls say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from e2rank.v1 import embedding_pb2_grpc, model_pb2_grpc, rerank_pb2_grpc
from e2rank_server.gateway.limits import GatewayLimits
from e2rank_server.gateway.server import GatewayServer
from tests.fakes import FakeServedModel

LIMITS = GatewayLimits(
    max_documents=10,
    max_inputs=4,
    max_query_bytes=64,
    max_document_bytes=128,
    max_instruction_bytes=32,
    max_request_bytes=64 * 1024,
)
MAX_CONCURRENT_REQUESTS = 3


@dataclass
class Gateway:
    """The running server, its model, and a client's stubs."""

    server: GatewayServer
    model: FakeServedModel
    address: str
    channel: grpc.aio.Channel

    def __post_init__(self) -> None:
        self.rerank = rerank_pb2_grpc.RerankServiceStub(self.channel).Rerank
        self.embed = embedding_pb2_grpc.EmbeddingServiceStub(self.channel).Embed
        self.models = model_pb2_grpc.ModelServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    async def is_serving(self, service: str = "") -> bool:
        answer = await self.health.Check(health_pb2.HealthCheckRequest(service=service))
        return answer.status == health_pb2.HealthCheckResponse.SERVING


@dataclass(frozen=True)
class Failure:
    """What a client learns of a failed call."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    violations: dict[str, str]
    retry_seconds: float | None
    trailers: dict[str, Any]


async def failure_of(call: Any) -> Failure:
    """Await a call that must fail, and unpack its details."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    details = {}
    status = await rpc_status.aio.from_call(call)
    assert status is not None, f"no google.rpc details: {error.code()} {error.details()}"
    for packed in status.details:
        for kind in (
            error_details_pb2.ErrorInfo,
            error_details_pb2.BadRequest,
            error_details_pb2.RetryInfo,
        ):
            message = kind()
            if packed.Unpack(message):
                details[kind.__name__] = message
    info = details["ErrorInfo"]
    assert info.domain == "e2rank.v1"
    bad_request = details.get("BadRequest", error_details_pb2.BadRequest())
    retry = details.get("RetryInfo")
    return Failure(
        code=error.code(),
        message=error.details() or "",
        reason=info.reason,
        metadata=dict(info.metadata),
        violations={v.field: v.description for v in bad_request.field_violations},
        retry_seconds=retry.retry_delay.ToMilliseconds() / 1000 if retry else None,
        trailers=dict(error.trailing_metadata()),
    )
