"""Gives waiting prompts to replicas: a few at a time, to the least loaded, again if one fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from e2rank_server.embedder.vllm_remote.failure import RefusedError, ReplicaError
from e2rank_server.embedder.vllm_remote.limits import RemoteLimits
from e2rank_server.embedder.vllm_remote.queue import PromptQueue, WaitingPrompt
from e2rank_server.embedder.vllm_remote.replica import Replica, ReplicaState
from e2rank_server.errors import UnavailableError

MAX_ATTEMPTS = 3
"""Replicas that one prompt is sent to, one after the other, before it fails."""


class Dispatcher:
    """Owns the queue and the requests in flight.

    It never waits for a request to fill: as soon as a replica has room it gets
    what is there, in the order of the queue. With several idle replicas, what is
    there is spread over them.
    """

    def __init__(self, limits: RemoteLimits) -> None:
        self.replicas: Sequence[Replica] = ()
        self._limits = limits
        self._queue = PromptQueue()
        self._requests: dict[asyncio.Task[None], list[WaitingPrompt]] = {}
        self._is_scheduled = False

    @property
    def num_waiting(self) -> int:
        """Count the prompts that no replica has."""
        return len(self._queue)

    def unavailable(self) -> UnavailableError:
        """Make the error for when no replica can be used: it says how each one is."""
        states = "; ".join(replica.describe() for replica in self.replicas)
        return UnavailableError("embedder", f"no vLLM server is ready: {states}")

    def submit(self, prompts: Iterable[WaitingPrompt]) -> None:
        """Queue prompts; their `vector`s will be set."""
        for prompt in prompts:
            self._queue.push(prompt)
        self.schedule()

    def schedule(self) -> None:
        """Look at the queue soon: calls made in this turn of the event loop may share a request."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def abandon(self, prompts: Iterable[WaitingPrompt]) -> set[asyncio.Task[None]]:
        """Forget prompts whose caller has left: cancel their vectors, if that is not done.

        Ends the requests in which nobody waits any more and returns them; each is
        done when its connection is closed.
        """
        left = {each for each in prompts if each.vector.cancel() or each.vector.cancelled()}
        ending = set()
        num_sent = 0
        for task, batch in self._requests.items():
            num_sent += len(ours := left.intersection(batch))
            if ours and all(prompt.vector.done() for prompt in batch):
                task.cancel()
                ending.add(task)
        self._queue.note_left(len(left) - num_sent)
        return ending

    async def close(self) -> None:
        """End all requests; those who wait, now or later, get UnavailableError."""
        for replica in self.replicas:
            replica.state = ReplicaState.CLOSED
        requests = dict(self._requests)
        for task in requests:
            task.cancel()
        if requests:
            await asyncio.wait(requests)
        for batch in requests.values():
            self._fail(batch, self.unavailable())
        self._fail_all()

    def _dispatch(self) -> None:
        self._is_scheduled = False
        share = self._share()
        while (head := self._queue.head()) is not None:
            usable = [replica for replica in self.replicas if replica.is_usable]
            if not usable:
                self._fail_all()
                return
            untried = [replica for replica in usable if replica not in head.tried] or usable
            roomy = [replica for replica in untried if replica.room_tokens(head.num_tokens)]
            if not roomy:
                return
            replica = min(roomy, key=lambda each: (each.outstanding_tokens, each.num_requests))
            batch = self._queue.take(
                min(self._limits.max_request_prompts, share),
                min(self._limits.max_request_tokens, replica.room_tokens(head.num_tokens)),
            )
            self._send(batch, replica)

    def _share(self) -> int:
        """Spread what waits evenly over the replicas that have room."""
        num_roomy = sum(replica.room_tokens(1) > 0 for replica in self.replicas)
        return max(1, -(-len(self._queue) // max(1, num_roomy)))

    def _send(self, batch: list[WaitingPrompt], replica: Replica) -> None:
        num_tokens = sum(prompt.num_tokens for prompt in batch)
        replica.reserve(num_tokens)
        task = asyncio.create_task(self._request(batch, replica))
        self._requests[task] = batch

        def end(_: asyncio.Task[None]) -> None:
            del self._requests[task]
            replica.release(num_tokens)
            self.schedule()

        task.add_done_callback(end)

    async def _request(self, batch: list[WaitingPrompt], replica: Replica) -> None:
        try:
            vectors = await replica.embed([each.prompt for each in batch], batch[0].priority)
        except ReplicaError as error:
            self._try_elsewhere(batch, replica, error)
        except RefusedError as error:
            self._refuse(batch, error)
        except Exception as error:  # noqa: BLE001 - a defect goes to those who wait
            self._fail(batch, error)
        else:
            for prompt, vector in zip(batch, vectors, strict=True):
                if not prompt.vector.done():
                    prompt.vector.set_result(vector)

    def _try_elsewhere(
        self, batch: list[WaitingPrompt], replica: Replica, error: ReplicaError
    ) -> None:
        for prompt in batch:
            prompt.tried |= {replica}
            prompt.num_attempts += 1
            if prompt.num_attempts < MAX_ATTEMPTS:
                self._queue.push(prompt)
            else:
                self._fail(
                    [prompt],
                    UnavailableError(
                        "embedder", f"{MAX_ATTEMPTS} attempts failed, the last with {error}"
                    ),
                )

    def _refuse(self, batch: list[WaitingPrompt], error: RefusedError) -> None:
        """Find the one that is to blame by sending each alone."""
        if len(batch) == 1:
            self._fail(batch, error)
            return
        for prompt in batch:
            prompt.is_alone = True
            self._queue.push(prompt)

    def _fail_all(self) -> None:
        error = self.unavailable()
        while self._queue.head() is not None:
            self._fail(self._queue.take(1, 0), error)

    def _fail(self, prompts: Iterable[WaitingPrompt], error: Exception) -> None:
        for prompt in prompts:
            if not prompt.vector.done():
                prompt.vector.set_exception(error)
