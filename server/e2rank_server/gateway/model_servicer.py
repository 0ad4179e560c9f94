"""ModelService: what is served here."""

from __future__ import annotations

from e2rank.v1 import model_pb2, model_pb2_grpc
from e2rank_server.engine.model import ServedModel
from e2rank_server.gateway.health import HealthServicer, service_of_model
from e2rank_server.gateway.interceptors import Context
from e2rank_server.gateway.limits import GatewayLimits
from e2rank_server.gateway.model_codec import (
    encode_cache,
    encode_generator,
    encode_load,
    encode_model,
)
from e2rank_server.gateway.served_models import ServedModels


class ModelServicer(model_pb2_grpc.ModelServiceServicer):
    """Serves ModelService."""

    def __init__(self, models: ServedModels, limits: GatewayLimits, health: HealthServicer) -> None:
        self._models = models
        self._limits = limits
        self._health = health

    async def GetModel(  # noqa: N802 - the contract's name
        self,
        request: model_pb2.GetModelRequest,
        context: Context,  # noqa: ARG002 - grpc passes it
    ) -> model_pb2.GetModelResponse:
        """Describe one model."""
        return model_pb2.GetModelResponse(model=self._encode(self._models.find(request.model)))

    async def ListModels(  # noqa: N802 - the contract's name
        self,
        request: model_pb2.ListModelsRequest,  # noqa: ARG002 - grpc passes it
        context: Context,  # noqa: ARG002 - grpc passes it
    ) -> model_pb2.ListModelsResponse:
        """Describe all models, the default first."""
        return model_pb2.ListModelsResponse(models=[self._encode(model) for model in self._models])

    def _encode(self, model: ServedModel) -> model_pb2.Model:
        name, llm = model.description.profile, model.llm
        return encode_model(
            model.description,
            self._limits,
            load=encode_load(
                model.load, is_serving=self._health.is_serving(service_of_model(name))
            ),
            cache=encode_cache(model.cache_statistics, model.second_tier_statistics),
            generator=encode_generator(llm.description, llm.outputs) if llm else None,
        )
