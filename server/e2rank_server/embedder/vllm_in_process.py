"""The embedder that runs vLLM as a child of the gateway and talks to it by token ids."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np

from e2rank_server.embedder.protocol import EmbedderPrompt
from e2rank_server.embedder.validation import check_prompts, scale_to_unit
from e2rank_server.embedder.vllm_arguments import engine_arguments
from e2rank_server.errors import ConfigurationError
from e2rank_server.profiles.profile import Profile
from e2rank_server.types import EmbedderBackend, FloatArray
from e2rank_server.vllm_process.engine import EngineCounters
from e2rank_server.vllm_process.hardware import Dtype, DtypeChoice, choose_dtype
from e2rank_server.vllm_process.requests import EngineRequests
from e2rank_server.vllm_process.supervised import EngineSpecification, SupervisedEngine


class VllmInProcessEmbedder:
    """See `Embedder`. Make it with `start`; `close` ends vLLM's processes.

    One vLLM request a prompt; vLLM batches whatever is there. When its engine
    dies, calls in flight raise UnavailableError and it is started again in the
    background, until that works.
    """

    backend = EmbedderBackend.VLLM_IN_PROCESS

    def __init__(
        self, profile: Profile, folder: Path, dtype: Dtype, *, prefix_caching: bool
    ) -> None:
        self.dimension = profile.dimension
        self.compute_dtype: str = dtype
        self._profile = profile
        arguments = partial(
            engine_arguments, profile, folder, dtype=dtype, prefix_caching=prefix_caching
        )
        self._engine = SupervisedEngine(
            EngineSpecification("embedder", profile.name, arguments, self._warm_up)
        )

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
            await embedder._engine.open()
        except Exception as error:
            raise ConfigurationError(
                [f"profile {profile.name}: vLLM cannot serve {folder}: {error}"]
            ) from error
        return embedder

    @property
    def counters(self) -> EngineCounters:
        """What the engine itself reports; goes on counting when it is restarted."""
        return self._engine.counters

    @property
    def num_unfinished_requests(self) -> int:
        """Prompts that were given to vLLM and are neither answered nor aborted."""
        return self._engine.num_unfinished_requests

    async def embed(self, prompts: Sequence[EmbedderPrompt], *, priority: int = 0) -> FloatArray:
        """See `Embedder.embed`."""
        check_prompts(prompts, self._profile.max_model_tokens)
        async with self._engine.requests() as requests:
            vectors = await self._compute(requests, prompts, priority)
        try:
            # vLLM's own rows are of length 1 only nearly.
            scale_to_unit(vectors)
        except ArithmeticError as error:
            raise ArithmeticError(f"{self._profile.name} returned {error}") from error
        return vectors

    async def check_health(self) -> None:
        """See `Embedder.check_health`."""
        self._engine.check_running()

    async def close(self) -> None:
        """End vLLM's processes; takes seconds. Calls in flight raise UnavailableError."""
        await self._engine.close()

    async def _warm_up(self, requests: EngineRequests) -> None:
        await self._compute(requests, [EmbedderPrompt(np.zeros(1, np.int32))], priority=0)

    async def _compute(
        self, requests: EngineRequests, prompts: Sequence[EmbedderPrompt], priority: int
    ) -> FloatArray:
        """Give all prompts to the engine, then collect: float32 [prompts, dimension]."""
        from vllm import PoolingParams

        queues = []
        for prompt in prompts:
            if prompt.pooling_span is None:
                pooling = PoolingParams(task="embed")
            else:
                # Without activation: each token's own hidden state, not normalised yet.
                pooling = PoolingParams(task="token_embed", use_activation=False)
            ids = prompt.token_ids.tolist()
            queues.append(await requests.add(ids, pooling, priority=priority))
        vectors = np.empty((len(prompts), self.dimension), np.float32)
        for row, (prompt, queue) in enumerate(zip(prompts, queues, strict=True)):
            data = (await requests.result(queue)).outputs.data.float().numpy()
            if prompt.pooling_span is not None:
                start, stop = prompt.pooling_span
                data = data[start:stop].mean(axis=0)
            if len(data) != self.dimension:
                raise ValueError(
                    f"its vectors have {len(data)} elements; the profile says {self.dimension}"
                )
            vectors[row] = data
        return vectors
