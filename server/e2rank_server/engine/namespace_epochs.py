"""Which epoch each namespace is in, without asking the store in a request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from e2rank_server.document_store.protocol import DocumentStore
from e2rank_server.errors import UnavailableError

logger = logging.getLogger(__name__)

Purge: TypeAlias = Callable[[str, int], Awaitable[None]]
"""Forgets what is cached of a namespace in one epoch."""


class NamespaceEpochs:
    """The epochs as they were last read from the store.

    A replica sees its own deletions before they are acknowledged, and those of
    others within `interval_seconds` and the time of one read, which the store
    bounds. While it cannot reach the store, what it last read counts.
    """

    def __init__(
        self, store: DocumentStore, purge: Purge | None = None, *, interval_seconds: float = 1.0
    ) -> None:
        """Know nothing yet. `purge` is called for each epoch that has ended, once that is seen."""
        self._store = store
        self._purge = purge
        self._interval_seconds = interval_seconds
        self._read: Mapping[str, int] | None = None
        self._epochs: dict[str, int] = {}
        self._polling: asyncio.Task[None] | None = None
        self._purging: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Read the epochs, and go on reading them."""
        is_reachable = await self._try_refresh(was_reachable=True)
        self._polling = asyncio.create_task(self._poll(is_reachable=is_reachable))

    async def close(self) -> None:
        """Stop reading and purging."""
        tasks = [*self._purging, *([self._polling] if self._polling else ())]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def current(self, namespace: str) -> int:
        """Return the epoch that a namespace is in, as far as is known."""
        return self._epochs.get(namespace, 0)

    async def refresh(self) -> None:
        """Read the epochs now.

        Raises:
            UnavailableError: the store is away; what was read before still counts.
        """
        read = await self._store.epochs()
        if read is self._read:
            return
        is_first = self._read is None
        self._read = read
        for namespace, epoch in read.items():
            if is_first and namespace not in self._epochs:
                # What ended before this process began is in no cache that it has filled.
                self._epochs[namespace] = epoch
            else:
                self._raise_to(namespace, epoch)

    async def see_deletion(self, namespace: str, epoch_before: int) -> None:
        """Take note that this replica has deleted a namespace, and wait until it is purged.

        `epoch_before` is what `current` said before the deletion.
        """
        try:
            await self.refresh()
        except UnavailableError:
            self._raise_to(namespace, epoch_before + 1)
        if self._purging:
            await asyncio.wait(self._purging)

    def _raise_to(self, namespace: str, epoch: int) -> None:
        """Note an epoch, unless a later one is known, and begin to purge those before it."""
        known = self.current(namespace)
        if epoch <= known:
            return
        self._epochs[namespace] = epoch
        if self._purge is not None:
            task = asyncio.create_task(self._purge_all(self._purge, namespace, range(known, epoch)))
            self._purging.add(task)
            task.add_done_callback(self._purging.discard)

    async def _purge_all(self, purge: Purge, namespace: str, epochs: range) -> None:
        for epoch in epochs:
            await purge(namespace, epoch)

    async def _poll(self, *, is_reachable: bool) -> None:
        while True:
            await asyncio.sleep(self._interval_seconds)
            is_reachable = await self._try_refresh(was_reachable=is_reachable)

    async def _try_refresh(self, *, was_reachable: bool) -> bool:
        try:
            await self.refresh()
        except UnavailableError as error:
            if was_reachable:
                logger.warning("%s; namespaces that others delete are not noticed", error)
            return False
        if not was_reachable:
            logger.info("document_store: is back")
        return True
