"""grpc.health.v1: whether the backends answer, now and as they change.

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


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # has no types
    """Serves Check and Watch; all services share one status, NOT_SERVING at first."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(["", *services])
        self._is_serving = False
        self._is_draining = False
        self._changed = asyncio.Event()

    @property
    def is_serving(self) -> bool:
        """Whether the status is SERVING."""
        return self._is_serving

    def set_serving(self, is_serving: bool) -> None:
        """Set the status of all services; without effect once draining."""
        if self._is_draining or is_serving == self._is_serving:
            return
        logger.info("health is now %s", "SERVING" if is_serving else "NOT_SERVING")
        self._is_serving = is_serving
        self._announce()

    def drain(self) -> None:
        """Set NOT_SERVING for good; watchers hear it and their streams end."""
        self._is_draining = True
        self._is_serving = False
        self._announce()

    async def Check(  # noqa: N802 - the contract's name
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """Return the status now."""
        if request.service not in self._services:
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
        if service not in self._services:
            return int(_SERVICE_UNKNOWN)
        return int(_SERVING if self._is_serving else _NOT_SERVING)

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


async def monitor_health(
    models: Iterable[ServedModel], health: HealthServicer, interval_seconds: float
) -> None:
    """Check all models again and again, until cancelled; serving means that all answer."""
    while True:
        health.set_serving(await _all_healthy(models))
        await asyncio.sleep(interval_seconds)


async def _all_healthy(models: Iterable[ServedModel]) -> bool:
    results = await asyncio.gather(*map(_is_healthy, models))
    return all(results)


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
