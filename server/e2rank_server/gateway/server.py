"""The gRPC server: services, health and reflection on one address."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from e2rank.v1 import (
    document_pb2,
    document_pb2_grpc,
    embedding_pb2,
    embedding_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    rerank_pb2,
    rerank_pb2_grpc,
)
from e2rank_server.engine.documents import DocumentsEngine
from e2rank_server.engine.model import ServedModel
from e2rank_server.errors import ConfigurationError
from e2rank_server.gateway.document_servicer import DocumentServicer
from e2rank_server.gateway.embedding_servicer import EmbeddingServicer
from e2rank_server.gateway.health import HealthServicer, monitor_health
from e2rank_server.gateway.interceptors import GateInterceptor, gateway_interceptors
from e2rank_server.gateway.limits import GatewayLimits
from e2rank_server.gateway.model_metrics import ModelMetrics
from e2rank_server.gateway.model_servicer import ModelServicer
from e2rank_server.gateway.rerank_servicer import RerankServicer
from e2rank_server.gateway.served_models import ServedModels
from e2rank_server.telemetry import Telemetry

SERVICES = tuple(
    service.full_name
    for module in (rerank_pb2, embedding_pb2, model_pb2, document_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
)
DOCUMENT_SERVICE = document_pb2.DESCRIPTOR.services_by_name["DocumentService"].full_name

_CANCELLED_CALLS_SECONDS = 5.0
# Without it 7 of 16 calls on open connections failed; with .2 s none of 592 (measured).
_LEAVE_SECONDS = 0.3


class GatewayServer:
    """Serves models at one address, from `start` to `stop`; `telemetry` None records nothing."""

    def __init__(
        self,
        models: Sequence[ServedModel],
        limits: GatewayLimits,
        *,
        address: str,
        max_concurrent_requests: int,
        health_interval_seconds: float,
        documents: DocumentsEngine | None = None,
        reuse_port: bool = False,
        max_connection_age_seconds: float = 0.0,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._models = ServedModels(models, limits.max_name_bytes)
        self._documents = documents
        self._limits = limits
        self._address = address
        self._reuse_port = reuse_port
        self._max_connection_age_seconds = max_connection_age_seconds
        self._gate = GateInterceptor(max_concurrent_requests)
        self._health_interval_seconds = health_interval_seconds
        names = [model.description.profile for model in self._models]
        self._services = [name for name in SERVICES if documents or name != DOCUMENT_SERVICE]
        self._health = HealthServicer(self._services, names)
        self._telemetry = telemetry
        if telemetry is not None:
            telemetry.registry.register(ModelMetrics(models, self._health, self._gate))
        self._server: grpc.aio.Server | None = None
        self._monitor: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Listen, and begin to check the models' health.

        Health is NOT_SERVING until the first check has passed.

        Returns:
            The bound address, with the port that was chosen if it was 0.

        Raises:
            ConfigurationError: the address cannot be listened on.
        """
        server = self._make_server()
        try:
            port = server.add_insecure_port(self._address)
        except RuntimeError:
            raise ConfigurationError(
                [f"cannot listen on {self._address}: it is in use, or not an address of this host"]
            ) from None
        await server.start()
        self._server = server
        self._monitor = asyncio.create_task(
            monitor_health(list(self._models), self._health, self._health_interval_seconds)
        )
        return f"{self._address.rpartition(':')[0]}:{port}"

    async def stop(self, drain_seconds: float) -> None:
        """Say NOT_SERVING, let calls in progress finish for `drain_seconds`, cancel the rest.

        On return no call uses the models any more.
        """
        if self._monitor is not None:
            self._monitor.cancel()
            await asyncio.wait([self._monitor])
        self._health.drain()
        if self._server is not None:
            # Calls that arrive after grpc has begun to stop fail, and clients need a moment to
            # hear that they should go elsewhere.
            await asyncio.sleep(min(drain_seconds, _LEAVE_SECONDS))
            await self._server.stop(drain_seconds)
            # grpc does not await the calls that it cancelled, but they still use the backends,
            # which close next.
            with suppress(TimeoutError):
                async with asyncio.timeout(_CANCELLED_CALLS_SECONDS):
                    await self._gate.wait_until_idle()

    def _make_server(self) -> grpc.aio.Server:
        server = grpc.aio.server(
            interceptors=gateway_interceptors(self._gate, self._telemetry),
            options=self._channel_options(),
        )
        # The generated functions have no annotations.
        rerank_pb2_grpc.add_RerankServiceServicer_to_server(  # type: ignore[no-untyped-call]
            RerankServicer(self._models, self._limits, self._telemetry), server
        )
        embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(  # type: ignore[no-untyped-call]
            EmbeddingServicer(self._models, self._limits, self._telemetry), server
        )
        model_pb2_grpc.add_ModelServiceServicer_to_server(  # type: ignore[no-untyped-call]
            ModelServicer(self._models, self._limits, self._health), server
        )
        if self._documents is not None:
            document_pb2_grpc.add_DocumentServiceServicer_to_server(  # type: ignore[no-untyped-call]
                DocumentServicer(self._documents, self._models, self._limits), server
            )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        health_service = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        reflection.enable_server_reflection(
            (*self._services, health_service, reflection.SERVICE_NAME), server
        )
        return server

    def _channel_options(self) -> list[tuple[str, int]]:
        options = [
            ("grpc.max_receive_message_length", self._limits.max_request_bytes),
            ("grpc.max_send_message_length", -1),  # bounded by what requests may ask for
            # Unless it is wanted, a port in use must be an error, not a silent share of traffic.
            ("grpc.so_reuseport", int(self._reuse_port)),
            # Let clients keep idle connections alive without being taken for a flood.
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
        if self._max_connection_age_seconds:
            milliseconds = int(self._max_connection_age_seconds * 1000)
            options.append(("grpc.max_connection_age_ms", milliseconds))
        return options
