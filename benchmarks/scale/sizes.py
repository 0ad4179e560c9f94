"""Messages up to the server's limit, and one byte beyond it."""

from __future__ import annotations

import time
from collections.abc import Awaitable

import grpc
import numpy as np

from benchmarks.overhead.messages import raw_rerank
from benchmarks.scale.messages import VectorSpace, request_of_size
from e2rank.v1 import model_pb2, model_pb2_grpc

NUM_DOCUMENTS = 1000
SIZES_MIB = (4, 8, 16, 32)
_REPETITIONS = 5
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)


async def measure_sizes(address: str) -> tuple[dict[int, float], str]:
    """Return the median milliseconds by MiB, and what the server says to one byte too many."""
    async with grpc.aio.insecure_channel(address, _OPTIONS) as channel:
        models = model_pb2_grpc.ModelServiceStub(channel)  # type: ignore[no-untyped-call]
        model = (await models.GetModel(model_pb2.GetModelRequest())).model
        space = VectorSpace(model.dimension, model.identity.fingerprint)
        limit = model.limits.max_request_bytes
        rerank = raw_rerank(channel)
        milliseconds = {}
        for size in SIZES_MIB:
            request = request_of_size(min(size << 20, limit), NUM_DOCUMENTS, space)
            milliseconds[size] = 1e3 * float(
                np.median([await _seconds(rerank(request)) for _ in range(_REPETITIONS)])
            )
        return milliseconds, await _refusal(
            rerank(request_of_size(limit + 1, NUM_DOCUMENTS, space))
        )


async def _seconds(call: Awaitable[bytes]) -> float:
    started = time.perf_counter()
    await call
    return time.perf_counter() - started


async def _refusal(call: Awaitable[bytes]) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    return "none: it was accepted"
