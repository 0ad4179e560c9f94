"""RerankService: decode, rerank, encode."""

from __future__ import annotations

from e2rank.v1 import rerank_pb2, rerank_pb2_grpc
from e2rank_server.gateway.codec import decode_rerank_request, encode_rerank_response
from e2rank_server.gateway.interceptors import Context
from e2rank_server.gateway.limits import GatewayLimits
from e2rank_server.gateway.served_models import ServedModels
from e2rank_server.telemetry import Telemetry


class RerankServicer(rerank_pb2_grpc.RerankServiceServicer):
    """Serves RerankService."""

    def __init__(
        self, models: ServedModels, limits: GatewayLimits, telemetry: Telemetry | None
    ) -> None:
        self._models = models
        self._limits = limits
        self._telemetry = telemetry

    async def Rerank(  # noqa: N802 - the contract's name
        self,
        request: rerank_pb2.RerankRequest,
        context: Context,  # noqa: ARG002 - grpc passes it
    ) -> rerank_pb2.RerankResponse:
        """Order candidates by relevance."""
        model = self._models.find(request.model)
        rerank_request = decode_rerank_request(request, model.description, self._limits)
        outcome = await model.rerank(rerank_request)
        if self._telemetry is not None:
            self._telemetry.record_rerank(model.description.profile, outcome)
        return encode_rerank_response(
            outcome, model.description, return_documents=request.return_documents
        )
