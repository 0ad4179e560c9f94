"""The embedder that runs vLLM as a child of the gateway and talks to it by token ids."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np

from e2rank_server.embedder.protocol import EmbedderPrompt
from e2rank_server.embedder.validation import check_prompts, scale_to_unit
from e2rank_server.embedder.vllm_engine import (
    DtypeChoice,
    Engine,
    EngineCounters,
    EngineStart,
    choose_dtype,
)
from e2rank_server.errors import ConfigurationError, UnavailableError
from e2rank_server.profiles.profile import Profile
from e2rank_server.types import EmbedderBackend, FloatArray

logger = logging.getLogger(__name__)

_FIRST_RESTART_DELAY_SECONDS = 1.0
_MAX_RESTART_DELAY_SECONDS = 60.0
# For an engine to end by itself, before it is killed.
_SHUTDOWN_SECONDS = 20.0


class VllmInProcessEmbedder:
    """See `Embedder`. Make it with `start`; `close` ends vLLM's processes.

    One vLLM request a prompt; vLLM batches whatever is there. When its engine
    dies, calls in flight raise UnavailableError and it is started again in the
    background, until that works.
    """

    backend = EmbedderBackend.VLLM_IN_PROCESS

    def __init__(
        self,
        profile: Profile,
        folder: Path,
        dtype: Literal["bfloat16", "float32"],
        *,
        prefix_caching: bool,
    ) -> None:
        self.dimension = profile.dimension
        self.compute_dtype: str = dtype
        self.counters = EngineCounters()
        """What the engine itself reports; goes on counting when it is restarted."""
        self._profile = profile
        self._folder = folder
        self._dtype = dtype
        self._prefix_caching = prefix_caching
        self._request_numbers = itertools.count()
        self._engine: Engine | None = None
        self._supervision: asyncio.Task[None] | None = None
        self._aborts: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(
        cls,
        profile: Profile,
        folder: Path,
        *,
        dtype: DtypeChoice = "auto",
        prefix_caching: bool = False,
    ) -> Self:
        """Load the model in `folder` (see model_folder.py) and wait until it answers.

        `prefix_caching` is vLLM's reuse of the key-value cache between prompts
        that begin alike; it is left out where the model's pooling forbids it.
        Cancelling ends the processes that were started.

        Raises:
            ConfigurationError: vLLM cannot load the model, or its vectors are
                not of the profile's dimension.
        """
        resolved = await asyncio.to_thread(choose_dtype, dtype)
        embedder = cls(profile, folder, resolved, prefix_caching=prefix_caching)
        try:
            await embedder._open()
        except Exception as error:
            raise ConfigurationError(
                [f"profile {profile.name}: vLLM cannot serve {folder}: {error}"]
            ) from error
        embedder._supervision = asyncio.create_task(embedder._supervise())
        return embedder

    @property
    def num_unfinished_requests(self) -> int:
        """Prompts that were given to vLLM and are neither answered nor aborted."""
        return 0 if self._engine is None else self._engine.get_num_unfinished_requests()

    async def embed(self, prompts: Sequence[EmbedderPrompt], *, priority: int = 0) -> FloatArray:
        """See `Embedder.embed`."""
        check_prompts(prompts, self._profile.max_model_tokens)
        return await self._embed(self._running_engine(), prompts, priority)

    async def check_health(self) -> None:
        """See `Embedder.check_health`."""
        self._running_engine()

    async def close(self) -> None:
        """End vLLM's processes; takes seconds. Calls in flight raise UnavailableError."""
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.wait({self._supervision})
        engine, self._engine = self._engine, None
        if engine is not None:
            await asyncio.to_thread(engine.shutdown, _SHUTDOWN_SECONDS)

    async def _embed(
        self, engine: Engine, prompts: Sequence[EmbedderPrompt], priority: int
    ) -> FloatArray:
        request_ids: list[str] = []
        try:
            vectors = await self._compute(engine, prompts, priority, request_ids)
        except BaseException as error:
            await self._abort(engine, request_ids, error)
            if isinstance(error, Exception) and engine.errored:
                raise self._unavailable() from error
            raise
        try:
            # vLLM's own rows are of length 1 only nearly.
            scale_to_unit(vectors)
        except ArithmeticError as error:
            raise ArithmeticError(f"{self._profile.name} returned {error}") from error
        return vectors

    async def _compute(
        self,
        engine: Engine,
        prompts: Sequence[EmbedderPrompt],
        priority: int,
        request_ids: list[str],
    ) -> FloatArray:
        """Give all prompts to the engine, then collect: float32 [prompts, dimension].

        `request_ids` grows by each request before it is given to the engine.
        """
        from vllm import PoolingParams
        from vllm.inputs.engine import tokens_input

        queues = []
        for prompt in prompts:
            request_ids.append(f"{self._profile.name}-{next(self._request_numbers)}")
            if prompt.pooling_span is None:
                pooling = PoolingParams(task="embed")
            else:
                # Without activation: each token's own hidden state, not normalised yet.
                pooling = PoolingParams(task="token_embed", use_activation=False)
            queues.append(
                await engine.add_request(
                    request_ids[-1],
                    tokens_input(prompt.token_ids.tolist()),
                    pooling,
                    priority=priority,
                )
            )
        vectors = np.empty((len(prompts), self.dimension), np.float32)
        for row, (prompt, queue) in enumerate(zip(prompts, queues, strict=True)):
            output = queue.get_nowait() or await queue.get()
            data = output.outputs.data.float().numpy()
            if prompt.pooling_span is not None:
                start, stop = prompt.pooling_span
                data = data[start:stop].mean(axis=0)
            if len(data) != self.dimension:
                raise ValueError(
                    f"its vectors have {len(data)} elements; the profile says {self.dimension}"
                )
            vectors[row] = data
        return vectors

    async def _abort(
        self, engine: Engine, request_ids: Sequence[str], error: BaseException
    ) -> None:
        """Free the engine of the requests; those that are finished are unknown to it by now.

        vLLM's own `encode` aborts on some ways of leaving only (vllm#54430).
        """
        if not request_ids or engine.errored:
            return
        task = asyncio.create_task(_free(engine, request_ids))
        self._aborts.add(task)
        task.add_done_callback(self._aborts.discard)
        if not isinstance(error, GeneratorExit):  # which allows no waiting
            # A second cancellation leaves the wait, not the abort.
            await asyncio.wait({task})

    def _running_engine(self) -> Engine:
        if self._engine is None or self._engine.errored:
            raise self._unavailable()
        return self._engine

    def _unavailable(self) -> UnavailableError:
        return UnavailableError("embedder", f"vLLM for {self._profile.name} is not running")

    async def _open(self) -> None:
        """Start an engine and let it embed once, which attaches it to this event loop."""
        start = EngineStart(
            self._profile,
            self._folder,
            dtype=self._dtype,
            prefix_caching=self._prefix_caching,
            counters=self.counters,
        )
        running = asyncio.get_running_loop().run_in_executor(None, start.run)
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            while not running.done():
                start.call_off()
                await asyncio.wait({running}, timeout=0.1)
            running.exception()  # was seen
            raise
        engine = start.take_engine()
        try:
            await self._embed(engine, [EmbedderPrompt(np.zeros(1, np.int32))], priority=0)
        except BaseException:
            await asyncio.to_thread(engine.shutdown, _SHUTDOWN_SECONDS)
            raise
        self._engine = engine

    async def _supervise(self) -> None:
        """Start the engine again whenever it has died."""
        while self._engine is not None:
            # vLLM ends this task when the engine's process is gone.
            await asyncio.wait({self._engine.output_handler})
            logger.error("vLLM for %s died", self._profile.name)
            dead, self._engine = self._engine, None
            await asyncio.to_thread(dead.shutdown, _SHUTDOWN_SECONDS)
            await self._reopen()

    async def _reopen(self) -> None:
        delay_seconds = _FIRST_RESTART_DELAY_SECONDS
        while True:
            started = time.monotonic()
            try:
                await self._open()
            except Exception:
                logger.exception(
                    "vLLM for %s did not start; next attempt in %g s",
                    self._profile.name,
                    delay_seconds,
                )
            else:
                seconds = time.monotonic() - started
                logger.info("vLLM for %s is back after %.0f s", self._profile.name, seconds)
                return
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(2 * delay_seconds, _MAX_RESTART_DELAY_SECONDS)


async def _free(engine: Engine, request_ids: Sequence[str]) -> None:
    try:
        await engine.abort(request_ids)
    except Exception:
        if not engine.errored:  # a dead engine computes nothing any more
            logger.exception("could not abort %s", ", ".join(request_ids))
