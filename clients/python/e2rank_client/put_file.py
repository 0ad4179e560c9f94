"""Putting a file of documents of any size: batches, several at a time, in bounded memory.

Lines take effect in the file's order: of those with one id the last counts. So
a batch is not sent while another that has an id of it is on the way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from e2rank_client.client import AsyncE2RankClient
from e2rank_client.document_file import DocumentFileError
from e2rank_client.errors import E2RankError, InvalidRequestError, OverloadedError, UnavailableError
from e2rank_client.file_lines import FileLines
from e2rank_client.put_batches import Batch, Batches
from e2rank_client.put_resume import Acknowledged, CannotResumeError, ResumeFile
from e2rank_client.types import NamespaceStats, PutResult

_FIRST_PAUSE_SECONDS = 0.1
_MAX_PAUSE_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class PutSettings:
    """How a file is put; the first four are `put_documents`'.

    `max_wait_seconds` is how long each batch waits, in all, for a server that
    is overloaded or away. With `skip_blank`, documents without a text are left
    out; else they are errors.
    """

    namespace: str = ""
    models: tuple[str, ...] = ()
    store_only: bool = False
    priority: int = 1
    batch_size: int = 64
    concurrency: int = 4
    max_wait_seconds: float = 60.0
    skip_blank: bool = False


@dataclass(slots=True)
class PutTotals:
    """What became of a file, so far.

    `first_line` is where this put began. The counts of embedding are sums over
    the models. `lines_superseded` had an id that one close behind had, too.
    `stats` is the namespace at the end, None if it could not be asked.
    """

    first_line: int = 1
    documents_new: int = 0
    documents_unchanged: int = 0
    documents_replaced: int = 0
    documents_cached: int = 0
    documents_embedded: int = 0
    documents_not_embedded: int = 0
    documents_truncated: int = 0
    tokens: int = 0
    lines_superseded: int = 0
    lines_blank: int = 0
    stats: NamespaceStats | None = None

    @property
    def documents(self) -> int:
        """How many are stored."""
        return self.documents_new + self.documents_unchanged + self.documents_replaced

    def add(self, batch: Batch, result: PutResult) -> None:
        """Add what became of a batch."""
        self.documents_new += result.documents_new
        self.documents_unchanged += result.documents_unchanged
        self.documents_replaced += result.documents_replaced
        for ahead in result.embedded:
            self.documents_cached += ahead.documents_cached
            self.documents_embedded += ahead.documents_embedded
            self.documents_not_embedded += ahead.documents_not_embedded
            self.documents_truncated += ahead.documents_truncated
            self.tokens += ahead.tokens
        self.lines_superseded += batch.num_superseded


class PutWatcher(Protocol):
    """Is told how a put goes."""

    def progressed(self, totals: PutTotals, position_bytes: int) -> None:
        """All documents before a place of the file on the disk are stored."""
        ...

    def waits(self, error: OverloadedError | UnavailableError, seconds: float) -> None:
        """A batch is sent again after a pause."""
        ...

    def noticed(self, message: str) -> None:
        """Something happened that whoever started the put should know."""
        ...


class FilePut:
    """Puts one file, once.

    `acknowledged` is how far everything is stored, also after `run` failed or
    was cancelled.
    """

    def __init__(
        self,
        client: AsyncE2RankClient,
        lines: FileLines,
        settings: PutSettings,
        resume: ResumeFile | None,
        watcher: PutWatcher,
    ) -> None:
        self.acknowledged: Acknowledged | None = None
        self.resume = resume
        """None once it turned out that it cannot be written."""
        self._client = client
        self._lines = lines
        self._settings = settings
        self._watcher = watcher
        self._totals = PutTotals()
        self._running: dict[asyncio.Task[PutResult], Batch] = {}
        self._sent: deque[Batch] = deque()
        """In the file's order, those that are running or have one before them that is."""

    async def run(self) -> PutTotals:
        """Put what is left of the file.

        Raises:
            DocumentFileError: A line is no document; all before it are stored.
            InvalidRequestError: The server refuses a document; the violations name lines.
            E2RankError: see `e2rank_client.errors` for the tree.
        """
        models = self._settings.models
        model = await self._client.get_model(models[0] if models else "")
        await self._go_on()
        batches = Batches(
            self._lines,
            model.limits,
            batch_size=self._settings.batch_size,
            skip_blank=self._settings.skip_blank,
        )
        try:
            await self._put_all(batches)
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
        if self.resume:
            self.resume.remove()
        self._totals.lines_blank = batches.num_blank
        # Answers come in any order, so those of the batches do not say how it ended.
        with contextlib.suppress(E2RankError):  # everything is stored all the same
            self._totals.stats = await self._client.get_namespace_stats(self._settings.namespace)
        return self._totals

    async def _go_on(self) -> None:
        """Skip what an earlier put has stored."""
        try:
            earlier = self.resume.load() if self.resume else None
            if earlier is None:
                return
            if not self._lines.skip_to(earlier.mark):
                raise CannotResumeError(f"the file has changed before line {earlier.mark.line}")
            (is_there,) = await self._client.documents_exist(
                [earlier.last_id], namespace=self._settings.namespace
            )
            if not is_there:
                self._lines.rewind()
                raise CannotResumeError(f"document {earlier.last_id!r} is not stored any more")
        except CannotResumeError as error:
            self._watcher.noticed(f"starting over: {error}")
            return
        self.acknowledged = earlier
        self._totals.first_line = earlier.mark.line + 1
        self._watcher.noticed(f"going on at line {earlier.mark.line + 1}")

    async def _put_all(self, batches: Batches) -> None:
        try:
            for batch in batches:
                await self._make_room(batch)
                task = asyncio.create_task(self._put(batch))
                self._running[task] = batch
                self._sent.append(batch)
        except DocumentFileError:
            await self._finish_all()
            raise
        await self._finish_all()
        if self.acknowledged is None:
            raise DocumentFileError("there are no documents")

    async def _make_room(self, batch: Batch) -> None:
        ids = batch.documents.keys()
        while (
            len(self._running) >= self._settings.concurrency
            # A batch that waits long must not let those behind it pile up.
            or len(self._sent) >= 2 * self._settings.concurrency
            or any(not ids.isdisjoint(other.documents) for other in self._running.values())
        ):
            await self._finish_some()

    async def _finish_all(self) -> None:
        while self._running:
            await self._finish_some()

    async def _finish_some(self) -> None:
        ended, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            batch = self._running.pop(task)
            self._totals.add(batch, task.result())
            batch.is_stored = True
        self._acknowledge()

    def _acknowledge(self) -> None:
        """Move on over the batches that are stored and have none before them that is not."""
        last: Batch | None = None
        while self._sent and self._sent[0].is_stored:
            last = self._sent.popleft()
        if last is None or last.end is None:
            return
        self.acknowledged = last.end
        if self.resume:
            try:
                self.resume.save(last.end)
            except OSError as error:
                problem = f"cannot write {self.resume.path} ({error.strerror})"
                self._watcher.noticed(f"{problem}: a put that is stopped will begin anew")
                self.resume = None
        self._watcher.progressed(self._totals, last.position_bytes)

    async def _put(self, batch: Batch) -> PutResult:
        settings = self._settings
        left = settings.max_wait_seconds
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._client.put_documents(
                    list(batch.documents.values()),
                    namespace=settings.namespace,
                    models=settings.models,
                    store_only=settings.store_only,
                    priority=settings.priority,
                )
            except InvalidRequestError as error:
                raise batch.place(error) from error
            except (OverloadedError, UnavailableError) as error:
                seconds = max(pause, error.call.retry_after_seconds or 0.0)
                if seconds > left:
                    raise
                self._watcher.waits(error, seconds)
            await asyncio.sleep(seconds)
            left -= seconds
            pause = min(2 * pause, _MAX_PAUSE_SECONDS)
