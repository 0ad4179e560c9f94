"""The embedder that reaches vLLM over HTTP, on one or more servers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Self

import numpy as np

from e2rank_server.embedder.protocol import EmbedderPrompt
from e2rank_server.embedder.validation import check_prompts
from e2rank_server.embedder.vllm_remote.address import parse_address
from e2rank_server.embedder.vllm_remote.dispatch import Dispatcher
from e2rank_server.embedder.vllm_remote.lane import Expectation
from e2rank_server.embedder.vllm_remote.limits import RemoteLimits
from e2rank_server.embedder.vllm_remote.queue import WaitingPrompt
from e2rank_server.embedder.vllm_remote.replica import Replica
from e2rank_server.errors import ConfigurationError
from e2rank_server.profiles.profile import Profile
from e2rank_server.types import EmbedderBackend, FloatArray


class VllmRemoteEmbedder:
    """See `Embedder`. Make it with `start`; `close` ends its connections.

    Prompts of calls that run at once share small requests. A request in flight
    is ended when the last caller with a prompt in it has left, never before;
    what had not been sent by then never computes.
    """

    backend = EmbedderBackend.VLLM_REMOTE
    compute_dtype = "unknown"
    """vLLM does not tell."""

    def __init__(self, profile: Profile, dispatcher: Dispatcher) -> None:
        self.dimension = profile.dimension
        self._max_tokens = profile.max_model_tokens
        self._dispatcher = dispatcher
        self._supervision: list[asyncio.Task[None]] = []
        self._usable = asyncio.Event()

    @classmethod
    async def start(
        cls,
        expectation: Expectation,
        urls: Sequence[str],
        *,
        api_key: str | None = None,
        limits: RemoteLimits | None = None,
    ) -> Self:
        """Begin to connect, and return at once: the servers may be loading for minutes yet.

        URLs are `http://host:port`, `https://host:port` or `unix:/path`. Until a
        server is there and has passed the check, all calls raise UnavailableError;
        `wait_until_ready` waits for one.

        Raises:
            ConfigurationError: a URL is none, or there is none.
        """
        if not urls:
            raise ConfigurationError([f"profile {expectation.profile.name}: no vLLM URL is given"])
        limits = limits or RemoteLimits()
        dispatcher = Dispatcher(limits)
        embedder = cls(expectation.profile, dispatcher)
        dispatcher.replicas = [
            Replica(parse_address(url), api_key, expectation, limits, embedder._react)
            for url in dict.fromkeys(urls)
        ]
        embedder._supervision = [
            asyncio.create_task(replica.supervise()) for replica in dispatcher.replicas
        ]
        return embedder

    async def embed(self, prompts: Sequence[EmbedderPrompt], *, priority: int = 0) -> FloatArray:
        """See `Embedder.embed`."""
        check_prompts(prompts, self._max_tokens)
        await self.check_health()
        if not prompts:
            return np.empty((0, self.dimension), np.float32)
        loop = asyncio.get_running_loop()
        waiting = [WaitingPrompt(prompt, priority, loop.create_future()) for prompt in prompts]
        self._dispatcher.submit(waiting)
        try:
            vectors = await asyncio.gather(*(each.vector for each in waiting))
        except BaseException as error:
            ending = self._dispatcher.abandon(waiting)
            if ending and not isinstance(error, GeneratorExit):  # which allows no waiting
                # A second cancellation leaves the wait, not the end of the requests.
                await asyncio.wait(ending)
            raise
        return np.stack(vectors)

    async def check_health(self) -> None:
        """See `Embedder.check_health`: one server that can be used is enough."""
        if not self._usable.is_set():
            raise self._dispatcher.unavailable()

    async def wait_until_ready(self) -> None:
        """Wait, for as long as it takes, until a server can be used."""
        await self._usable.wait()

    async def close(self) -> None:
        """End all requests, which then raise UnavailableError, and all connections."""
        for task in self._supervision:
            task.cancel()
        if self._supervision:
            await asyncio.wait(self._supervision)
        self._usable.clear()
        await self._dispatcher.close()
        for replica in self._dispatcher.replicas:
            await replica.close()

    def _react(self) -> None:
        """Take note that a replica has come or gone."""
        if any(replica.is_usable for replica in self._dispatcher.replicas):
            self._usable.set()
        else:
            self._usable.clear()
        self._dispatcher.schedule()
