"""EmbeddingService: decode, embed, encode."""

from __future__ import annotations

from e2rank.v1 import embedding_pb2, embedding_pb2_grpc
from e2rank_server.gateway.codec import decode_embed_request, encode_embed_response
from e2rank_server.gateway.interceptors import Context
from e2rank_server.gateway.limits import GatewayLimits
from e2rank_server.gateway.served_models import ServedModels
from e2rank_server.telemetry import Telemetry


class EmbeddingServicer(embedding_pb2_grpc.EmbeddingServiceServicer):
    """Serves EmbeddingService."""

    def __init__(
        self, models: ServedModels, limits: GatewayLimits, telemetry: Telemetry | None
    ) -> None:
        self._models = models
        self._limits = limits
        self._telemetry = telemetry

    async def Embed(  # noqa: N802 - the contract's name
        self,
        request: embedding_pb2.EmbedRequest,
        context: Context,  # noqa: ARG002 - grpc passes it
    ) -> embedding_pb2.EmbedResponse:
        """Embed a batch of texts."""
        model = self._models.find(request.model)
        outcome = await model.embed(decode_embed_request(request, self._limits))
        if self._telemetry is not None:
            self._telemetry.record_embed(model.description.profile, outcome)
        return encode_embed_response(outcome, model.description, request.encoding)
