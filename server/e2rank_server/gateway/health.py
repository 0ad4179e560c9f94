"""grpc.health.v1: whether the backends answer, now and as they change.

Each model is a service of its own, `models/<profile>`. The server as a whole
("") and the services of the contract are SERVING while any model is: a model
whose backend is away must not take the others down with it.

The servicer that comes with grpcio-health-checking is not used: when one of
two watchers of a service leaves, it drops the condition on which the other
waits, which then never hears of a change again; and its watchers hold up a
draining server until the grace period ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from e2rank_server.engine.model import ServedModel
from e2rank_server.errors import UnavailableError
from e2rank_server.gateway.interceptors import Context

logger = logging.getLogger(__name__)

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

_CHECK_TIMEOUT_SECONDS = 10.0


def service_of_model(profile: str) -> str:
    """Return the name under which the health of one model is asked for."""
    return f"models/{profile}"


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # has no types
    """Serves Check and Watch; every status is NOT_SERVING at first."""

    def __init__(self, services: Iterable[str], profiles: Iterable[str]) -> None:
        self._shared = frozenset(("", *services))
        self._models = {service_of_model(profile): False for profile in profiles}
        self._is_draining = False
        self._changed = asyncio.Event()

    def is_serving(self, service: str = "") -> bool:
        """Whether the status of a known service is SERVING."""
        return any(self._models.values()) if service in self._shared else self._models[service]

    def set_serving(self, profile: str, *, is_serving: bool) -> None:
        """Set the status of one model; without effect once draining."""
        model = service_of_model(profile)
        if self._is_draining or is_serving == self._models[model]:
            return
        logger.info("health of %s is now %s", profile, "SERVING" if is_serving else "NOT_SERVING")
        self._models[model] = is_serving
        self._announce()

    def drain(self) -> None:
        """Set all NOT_SERVING for good; watchers hear it and their streams end."""
        self._is_draining = True
        self._models = dict.fromkeys(self._models, False)
        self._announce()

    async def Check(  # noqa: N802 - the contract's name
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """Return the status now."""
        if not self._is_known(request.service):
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(  # noqa: N802 - the contract's name
        self,
        request: health_pb2.HealthCheckRequest,
        context: Context,  # noqa: ARG002 - grpc passes it
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Send the status, and again whenever it changes."""
        told = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            if status != told:
                told = status
                yield health_pb2.HealthCheckResponse(status=status)
            elif self._is_draining:
                return
            else:
                await changed.wait()

    def _status(self, service: str) -> int:
        if not self._is_known(service):
            return int(_SERVICE_UNKNOWN)
        return int(_SERVING if self.is_serving(service) else _NOT_SERVING)

    def _is_known(self, service: str) -> bool:
        return service in self._shared or service in self._models

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


async def monitor_health(
    models: Iterable[ServedModel], health: HealthServicer, interval_seconds: float
) -> None:
    """Check each model again and again, until cancelled, none waiting for another."""
    async with asyncio.TaskGroup() as group:
        for model in models:
            group.create_task(_monitor(model, health, interval_seconds))


async def _monitor(model: ServedModel, health: HealthServicer, interval_seconds: float) -> None:
    while True:
        is_serving = await _is_healthy(model)
        health.set_serving(model.description.profile, is_serving=is_serving)
        await asyncio.sleep(interval_seconds)


async def _is_healthy(model: ServedModel) -> bool:
    name = model.description.profile
    try:
        async with asyncio.timeout(_CHECK_TIMEOUT_SECONDS):
            await model.check_health()
    except UnavailableError as error:
        logger.warning("model %s is unhealthy: %s", name, error)
    except TimeoutError:
        logger.warning("model %s did not answer within %.0f s", name, _CHECK_TIMEOUT_SECONDS)
    except Exception:
        # Whatever it is, the monitor must live on to see the recovery.
        logger.exception("checking the health of model %s failed", name)
    else:
        return True
    return False
