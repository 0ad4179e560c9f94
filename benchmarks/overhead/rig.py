"""The two sides of a ratio on one machine: the real server, and vLLM alone."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import grpc
import psutil

from benchmarks.overhead.messages import CHANNEL_OPTIONS
from benchmarks.overhead.processes import family, listeners, stopped
from benchmarks.server_flags import MEMORY_ONLY
from benchmarks.serving import what_serves
from e2rank.v1 import embedding_pb2_grpc, rerank_pb2_grpc
from e2rank_client import AsyncE2RankClient
from e2rank_client.local_server import local_server
from e2rank_server.app import Prepared, prepare
from e2rank_server.embedder.vllm_arguments import engine_arguments
from e2rank_server.profiles.profile import Profile
from e2rank_server.settings import read_settings
from e2rank_server.tokenizer.in_process import InProcessTokenizer
from e2rank_server.types import TokenIds
from e2rank_server.vllm_process.engine import EngineCounters
from e2rank_server.vllm_process.hardware import choose_dtype
from e2rank_server.vllm_process.start import EngineStart

_SHUTDOWN_SECONDS = 20.0

T = TypeVar("T")


class BareEngine:
    """vLLM's `AsyncLLM.encode`, awaited to its end."""

    def __init__(self, engine: Any) -> None:  # noqa: ANN401 - AsyncLLM; vllm has no types
        self._engine = engine
        self._numbers = itertools.count()

    async def encode(self, token_ids: TokenIds, *, each_token: bool = False) -> None:
        """Embed a prompt, or each of its tokens, which is what QUERY_TOKENS pooling asks for."""
        from vllm import PoolingParams
        from vllm.inputs.engine import tokens_input

        if each_token:
            pooling = PoolingParams(task="token_embed", use_activation=False)
        else:
            pooling = PoolingParams(task="embed")
        prompt = tokens_input(token_ids.tolist())
        async for _ in self._engine.encode(prompt, pooling, f"bare-{next(self._numbers)}"):
            pass


@dataclass(frozen=True, slots=True)
class Rig:
    """A server of one profile (gRPC stubs), and what its passes are compared with.

    `tokenizer` makes in this process the ids that the server's Triton makes.
    Each side is measured while the other's processes are stopped.
    """

    profile: Profile
    rerank: Any
    embed: Any
    tokenizer: InProcessTokenizer
    bare: BareEngine
    server_processes: Sequence[psutil.Process]
    bare_processes: Sequence[psutil.Process]
    serving: dict[str, str]

    async def time_server(self, work: Awaitable[T]) -> tuple[float, T]:
        """Return the seconds that `work`, calls of the server, takes, and its result."""
        return await _timed(work, self.bare_processes)

    async def time_bare(self, work: Awaitable[object]) -> float:
        """Return the seconds that `work`, calls of the bare engine, takes."""
        seconds, _ = await _timed(work, self.server_processes)
        return seconds


@asynccontextmanager
async def open_rig(profile_name: str) -> AsyncIterator[Rig]:
    """Start both sides at once, with the same engine arguments; stop both at the end."""
    arguments = [
        *("--profile", profile_name, "--tokenizer", "triton", "--prefix-caching", "off"),
        *MEMORY_ONLY,
    ]
    [prepared] = await asyncio.to_thread(prepare, read_settings(arguments, {}))
    async with AsyncExitStack() as stack:
        starting = asyncio.create_task(_start_bare(prepared))
        stack.push_async_callback(_stop_bare, starting)
        await asyncio.sleep(0)  # its thread starts vLLM while this one waits for the server
        address = stack.enter_context(local_server(arguments))
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        )
        bare = BareEngine(await starting)
        server_processes = family(listeners(address)[0])
        tokenizer = InProcessTokenizer(prepared.profile.prompts, prepared.folder.tokenizer_json)
        yield Rig(
            profile=prepared.profile,
            rerank=rerank_pb2_grpc.RerankServiceStub(channel).Rerank,  # type: ignore[no-untyped-call]
            embed=embedding_pb2_grpc.EmbeddingServiceStub(channel).Embed,  # type: ignore[no-untyped-call]
            tokenizer=await stack.enter_async_context(tokenizer),
            bare=bare,
            server_processes=server_processes,
            bare_processes=[
                child
                for child in psutil.Process().children(recursive=True)
                if child not in server_processes
            ],
            serving=await _describe(address),
        )


async def _timed(work: Awaitable[T], others: Sequence[psutil.Process]) -> tuple[float, T]:
    with stopped(others):
        started = time.perf_counter()
        result = await work
        return time.perf_counter() - started, result


async def _start_bare(prepared: Prepared) -> Any:  # noqa: ANN401 - AsyncLLM; vllm has no types
    dtype = await asyncio.to_thread(choose_dtype, "auto")
    profile, folder = prepared.profile, prepared.folder.path
    arguments = partial(engine_arguments, profile, folder, dtype=dtype, prefix_caching=False)
    start = EngineStart(profile.name, arguments, EngineCounters())
    await asyncio.to_thread(start.run)
    return start.take_engine()


async def _stop_bare(starting: asyncio.Task[Any]) -> None:
    engine = await starting
    await asyncio.to_thread(engine.shutdown, _SHUTDOWN_SECONDS)


async def _describe(address: str) -> dict[str, str]:
    """Say what serves, and so what the bare engine was started like."""
    async with AsyncE2RankClient(address) as client:
        model = await client.get_model()
    return what_serves(model)
