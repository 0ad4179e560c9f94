"""How channels behave: load balancing, health, retries, keepalive.

All of it is done by gRPC's core, which both kinds of channel share.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeAlias

ChannelOptions: TypeAlias = Sequence[tuple[str, Any]]

MAX_MESSAGE_BYTES = 256 << 20
"""Both ways. The server has the tighter limit, and says so with a proper error."""

MAX_ATTEMPTS = 5
"""gRPC's core makes no more of one call."""

_RETRY = {
    "initialBackoff": "0.1s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
# A failure costs a token, a success earns a tenth; below half there are no retries. So a client
# of servers that are all ill adds a tenth to their load, not threefold.
_RETRY_THROTTLING = {"maxTokens": 100, "tokenRatio": 0.1}


def channel_options(
    max_attempts: int, health_service: str | None, own: ChannelOptions
) -> list[tuple[str, Any]]:
    """Return the options of a channel; those in `own` win.

    Raises:
        ValueError: `max_attempts` is not within 1..5.
    """
    if not 1 <= max_attempts <= MAX_ATTEMPTS:
        raise ValueError(f"max_attempts is {max_attempts}, not within 1..{MAX_ATTEMPTS}")
    options: dict[str, Any] = {
        "grpc.service_config": _service_config(max_attempts, health_service),
        "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
        "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
        # A request that exceeds this is never retried; the default of 256 KiB is 100 documents.
        "grpc.per_rpc_retry_buffer_size": MAX_MESSAGE_BYTES,
        # A peer that vanished without a word is noticed within 40 s; the server allows a ping
        # every 10 s.
        "grpc.keepalive_time_ms": 30_000,
        "grpc.keepalive_timeout_ms": 10_000,
        "grpc.http2.max_pings_without_data": 0,
        # The default, two minutes, is long to wait for a server that is back.
        "grpc.max_reconnect_backoff_ms": 5_000,
    }
    # Not merely added: of two options of one name gRPC takes the first.
    options.update(own)
    return list(options.items())


def _service_config(max_attempts: int, health_service: str | None) -> str:
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if max_attempts > 1:
        policy = {"maxAttempts": max_attempts, **_RETRY}
        config["methodConfig"] = [{"name": [{}], "retryPolicy": policy}]
        config["retryThrottling"] = _RETRY_THROTTLING
    if health_service is not None:
        config["healthCheckConfig"] = {"serviceName": health_service}
    return json.dumps(config)
