"""A connection that is believed: whoever is at its other end has passed the identity check.

A load balancer may put another server behind each connection, and another
server may come up behind the same URL, so the check belongs to the connection:
an answer that came over one that has not passed is held until it has. What
can't be seen is a proxy that spreads the requests of one connection.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from e2rank_server.embedder.identity import IdentityError, ProbeReferences
from e2rank_server.embedder.protocol import EmbedderPrompt
from e2rank_server.embedder.vllm_remote import wire
from e2rank_server.embedder.vllm_remote.connection import Connection
from e2rank_server.embedder.vllm_remote.failure import FailureReason, RefusedError, ReplicaError
from e2rank_server.embedder.vllm_span_route import SPAN_PATH
from e2rank_server.profiles.profile import Pooling, Profile
from e2rank_server.types import FloatArray

_MAX_MODELS_BYTES = 1 << 20
_MAX_HEALTH_BYTES = 1 << 12
# Connections that one request may go through before the replica counts as unsteady.
_MAX_CONNECTIONS = 3
# A connection that was idle for longer may have been closed by the server while we wrote.
_IDLE_SECONDS = 1.0
# Before all else: requests wait for the outcome.
_PROBE_PRIORITY = -1


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a replica must be: serve the profile's model, with the fingerprint's vectors."""

    profile: Profile
    probe_prompts: Sequence[EmbedderPrompt]
    references: ProbeReferences

    @property
    def names(self) -> set[str]:
        """Names under which the model may be served: the profile's, or what vLLM was given."""
        return {self.profile.name, self.profile.source.location}


class Lane:
    """Sends one request at a time over one connection, checking whoever answers."""

    def __init__(self, connection: Connection, expectation: Expectation) -> None:
        self._connection = connection
        self._expectation = expectation
        self._dimension = expectation.profile.dimension
        self._model = ""
        self._takes_priority = True
        self._verified = 0
        self._last_answer = 0.0

    async def embed(self, prompts: Sequence[EmbedderPrompt], priority: int) -> FloatArray:
        """Embed prompts that all have no span, or one that has: see `Embedder.embed`.

        Raises:
            ReplicaError: the replica is not to be believed or cannot answer.
            RefusedError: it refuses the prompts.
        """
        for _ in range(_MAX_CONNECTIONS):
            if not self._is_verified:
                await self.verify()
            was_idle = time.monotonic() - self._last_answer > _IDLE_SECONDS
            try:
                vectors = await self._ask(prompts, priority)
            except ReplicaError as error:
                if was_idle and error.reason is FailureReason.DISCONNECTED:
                    self.forget()
                    continue
                raise
            answered = self._connection.number
            if not self._is_verified:
                await self.verify()
            if answered == self._connection.number:
                return vectors
        raise ReplicaError(
            FailureReason.UNSTEADY, f"{_MAX_CONNECTIONS} connections broke during one request"
        )

    async def check_health(self) -> None:
        """Ask whether the engine lives, which takes no place in its queue."""
        await self._get(wire.HEALTH_PATH, _MAX_HEALTH_BYTES)
        if not self._is_verified:
            await self.verify()

    async def verify(self) -> None:
        """Check the identity of whoever is at the other end.

        Raises:
            ReplicaError: it is not what is expected, or cannot be reached.
        """
        self._verified = 0
        models = await self._get(wire.MODELS_PATH, _MAX_MODELS_BYTES)
        connection = self._connection.number
        profile = self._expectation.profile
        self._model = wire.served_model(models, self._expectation.names, profile.max_model_tokens)
        try:
            await self._verify_vectors()
        except RefusedError as error:
            raise ReplicaError(FailureReason.WRONG_MODEL, str(error)) from error
        except IdentityError as error:
            raise ReplicaError(FailureReason.WRONG_VECTORS, str(error)) from error
        if connection != self._connection.number:
            raise ReplicaError(
                FailureReason.UNSTEADY, "it closed the connection during the identity check"
            )
        self._verified = connection

    def forget(self) -> None:
        """Check the identity again before the next request."""
        self._verified = 0

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    @property
    def _is_verified(self) -> bool:
        return 0 < self._verified == self._connection.number

    async def _verify_vectors(self) -> None:
        expectation = self._expectation
        probes = expectation.probe_prompts
        try:
            vectors = await self._ask(probes, _PROBE_PRIORITY)
        except RefusedError as error:
            if "priority" not in str(error):
                raise
            self._takes_priority = False
            vectors = await self._ask(probes, _PROBE_PRIORITY)
        expectation.references.check(vectors)
        if expectation.profile.listwise_pooling is Pooling.QUERY_TOKENS:
            # A span that pools as the model does must give what the model gives.
            num_tokens = len(probes[0].token_ids)
            is_mean = expectation.profile.pooling is Pooling.MEAN
            span = (0 if is_mean else num_tokens - 1, num_tokens)
            by_span = await self._ask([EmbedderPrompt(probes[0].token_ids, span)], _PROBE_PRIORITY)
            expectation.references.check(_with_first_row(vectors, by_span))

    async def _get(self, path: str, max_bytes: int) -> bytes:
        try:
            return await self._connection.get(path, max_bytes)
        except RefusedError as error:
            raise ReplicaError(FailureReason.NONSENSE, str(error)) from error

    async def _ask(self, prompts: Sequence[EmbedderPrompt], priority: int) -> FloatArray:
        if not self._takes_priority:
            priority = 0
        if prompts[0].pooling_span is None:
            path, body = wire.EMBEDDINGS_PATH, wire.embeddings_body(self._model, prompts, priority)
        else:
            path, body = SPAN_PATH, wire.span_body(prompts[0], priority)
        num_bytes = wire.num_answer_bytes(len(prompts), self._dimension)
        answer = await self._connection.post(path, body, num_bytes)
        self._last_answer = time.monotonic()
        return wire.unit_rows(answer, self._dimension)


def _with_first_row(vectors: FloatArray, first: FloatArray) -> FloatArray:
    changed = vectors.copy()
    changed[0] = first[0]
    return changed
