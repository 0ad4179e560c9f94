"""vLLM's processes: started bare, and waited for until they are at rest."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psutil

from benchmarks.overhead.processes import family
from e2rank_server.types import TokenIds
from e2rank_server.vllm_process.engine import EngineCounters
from e2rank_server.vllm_process.start import EngineStart, MakeArguments

_SHUTDOWN_SECONDS = 20.0
# The kernel keeps 15 characters.
_ENGINE_NAME = "VLLM::EngineCor"
_PERIOD_SECONDS = 0.5
_BUSY_SHARE = 0.1
_MAX_WAIT_SECONDS = 60.0


class RestlessEngineError(Exception):
    """An engine computes although nobody has asked it to."""


class BareEngine:
    """vLLM's `AsyncLLM`, called without anything of ours and awaited to the end."""

    def __init__(self, engine: Any) -> None:  # noqa: ANN401 - AsyncLLM; vllm has no types
        self._engine = engine
        self._numbers = itertools.count()

    async def encode(self, token_ids: TokenIds) -> None:
        """Embed a prompt."""
        from vllm import PoolingParams
        from vllm.inputs.engine import tokens_input

        pooling = PoolingParams(task="embed")
        name = f"bare-{next(self._numbers)}"
        async for _ in self._engine.encode(tokens_input(token_ids.tolist()), pooling, name):
            pass

    async def encode_all(self, prompts: Sequence[TokenIds]) -> None:
        """Embed prompts, all of them given to the engine at once."""
        async with asyncio.TaskGroup() as group:
            for token_ids in prompts:
                group.create_task(self.encode(token_ids))

    async def generate(self, token_ids: Sequence[int], num_tokens: int) -> None:
        """Continue a prompt by exactly so many tokens, greedily."""
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind

        sampling = SamplingParams(
            temperature=0,
            min_tokens=num_tokens,
            max_tokens=num_tokens,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        name = f"bare-{next(self._numbers)}"
        async for _ in self._engine.generate(tokens_input(list(token_ids)), sampling, name):
            pass


@asynccontextmanager
async def bare_engine(name: str, arguments: MakeArguments) -> AsyncIterator[BareEngine]:
    """Run an engine while the block runs."""
    start = EngineStart(name, arguments, EngineCounters())
    try:
        await asyncio.to_thread(start.run)
    except asyncio.CancelledError:
        start.call_off()
        raise
    engine = start.take_engine()
    try:
        yield BareEngine(engine)
    finally:
        await asyncio.to_thread(engine.shutdown, _SHUTDOWN_SECONDS)


def engines_below(process: psutil.Process) -> list[list[psutil.Process]]:
    """Return the processes of each of vLLM's engines that `process` has started."""
    children = process.children(recursive=True)
    return [family(child) for child in children if child.name().startswith(_ENGINE_NAME)]


def used_cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """Return the processor time that processes have used so far."""
    times = [process.cpu_times() for process in processes]
    return sum(each.user + each.system for each in times)


async def rest(processes: Sequence[psutil.Process]) -> None:
    """Wait until processes use next to no processor time.

    For a second after its last request vLLM's idle worker spins, and would take
    from whoever is measured next on the same cores.

    Raises:
        RestlessEngineError: they go on for a minute.
    """
    if not processes:
        return
    end = time.monotonic() + _MAX_WAIT_SECONDS
    while time.monotonic() < end:
        before = used_cpu_seconds(processes)
        await asyncio.sleep(_PERIOD_SECONDS)
        if used_cpu_seconds(processes) - before < _BUSY_SHARE * _PERIOD_SECONDS:
            return
    names = ", ".join(sorted({process.name() for process in processes}))
    raise RestlessEngineError(f"{names} computed for {_MAX_WAIT_SECONDS:g} s without being asked")
