"""Documents that are named by id: stored first, then embedded ahead of their first use.

A document's vector is cached under the digest of its text, never under its id:
whatever the order in which puts, deletions and reranks of one id meet, a text
is only ever paired with its own vector.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from e2rank_server.document_store.protocol import (
    DocumentStore,
    NamespaceStatistics,
    PutOutcome,
    StoredDocument,
)
from e2rank_server.embedding_cache.keys import TextHasher
from e2rank_server.engine.model import ServedModel
from e2rank_server.engine.namespace_epochs import NamespaceEpochs
from e2rank_server.errors import E2RankError, InvalidRequestError, UnavailableError
from e2rank_server.types import (
    AnswerWarning,
    Document,
    EmbedRequest,
    InputType,
    TextInput,
    WarningCode,
)

logger = logging.getLogger(__name__)

# So many are embedded before a failure of the rest is noticed, and so many read
# before an answer that grows too large is.
_DOCUMENTS_PER_EMBED = 128
_DOCUMENTS_PER_GET = 64


@dataclass(frozen=True, slots=True)
class PutRequest:
    """Documents with texts and distinct ids; valid in shape and size."""

    documents: Sequence[Document]
    namespace: str = ""
    priority: int = 0


@dataclass(slots=True)
class EmbeddedAhead:
    """What embedding with one model took; see EmbeddedAhead in protos/e2rank/v1/document.proto."""

    model: str
    documents_cached: int = 0
    documents_embedded: int = 0
    documents_not_embedded: int = 0
    documents_truncated: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class PutReport:
    """The answer to a PutRequest; `statistics` is None if the store could not be asked any more."""

    outcomes: Sequence[PutOutcome]
    statistics: NamespaceStatistics | None
    embedded: Sequence[EmbeddedAhead]
    warnings: Sequence[AnswerWarning] = field(default=())


class DocumentsEngine:
    """Puts, gets and deletes documents. All calls raise UnavailableError if the store is away."""

    def __init__(
        self,
        store: DocumentStore,
        epochs: NamespaceEpochs,
        secret: bytes,
        *,
        max_answer_bytes: int,
    ) -> None:
        self._store = store
        self._epochs = epochs
        self._hasher = TextHasher(secret)
        self._max_answer_bytes = max_answer_bytes

    async def put(self, request: PutRequest, models: Sequence[ServedModel]) -> PutReport:
        """Store documents, then embed them with `models`; a failure to embed is a warning.

        Raises:
            QuotaExceededError: they would exceed the namespace's quota; nothing is stored.
        """
        # Hashing a request of tens of MB takes tens of ms.
        stored = await asyncio.to_thread(self._to_store, request.documents)
        outcomes = await self._store.put(request.namespace, stored)
        warnings: list[AnswerWarning] = []
        embedded = [await self._embed_ahead(request, model, warnings) for model in models]
        return PutReport(outcomes, await self._try_statistics(request), embedded, warnings)

    async def get(self, namespace: str, ids: Sequence[str]) -> Sequence[StoredDocument | None]:
        """Return documents in the order of `ids`, None for unknown ones.

        Raises:
            InvalidRequestError: together they exceed what an answer may hold.
            DataLossError: one of them is damaged.
        """
        documents: list[StoredDocument | None] = []
        num_bytes = 0
        for first in range(0, len(ids), _DOCUMENTS_PER_GET):
            some = await self._store.get(namespace, ids[first : first + _DOCUMENTS_PER_GET])
            num_bytes += sum(document.num_bytes for document in some if document is not None)
            if num_bytes > self._max_answer_bytes:
                raise InvalidRequestError.of(
                    "ids",
                    f"name documents of more than {self._max_answer_bytes} bytes together, the "
                    "limit of an answer; ask for fewer at a time",
                )
            documents += some
        return documents

    async def exist(self, namespace: str, ids: Sequence[str]) -> Sequence[bool]:
        """Say of each id whether there is such a document."""
        return [digest is not None for digest in await self._store.digests(namespace, ids)]

    async def delete(self, namespace: str, ids: Sequence[str]) -> Sequence[bool]:
        """Delete documents; True for those that existed."""
        return await self._store.delete(namespace, ids)

    async def delete_namespace(self, namespace: str) -> NamespaceStatistics:
        """Delete a namespace's documents and what is cached of it; says what it held."""
        epoch = self._epochs.current(namespace)
        held = await self._store.delete_namespace(namespace)
        await self._epochs.see_deletion(namespace, epoch)
        return held

    async def statistics(self, namespace: str) -> NamespaceStatistics:
        """Return how full a namespace is."""
        return await self._store.statistics(namespace)

    def _to_store(self, documents: Sequence[Document]) -> list[StoredDocument]:
        stored = []
        for document in documents:
            text = document.text or ""
            digest = self._hasher.digest(document.title, text)
            stored.append(StoredDocument(document.id, text, document.title, digest))
        return stored

    async def _embed_ahead(
        self, request: PutRequest, model: ServedModel, warnings: list[AnswerWarning]
    ) -> EmbeddedAhead:
        """Fill the cache with the documents' vectors, up to the first failure."""
        inputs = [TextInput(each.text or "", each.title) for each in request.documents]
        ahead = EmbeddedAhead(model.description.profile)
        for first in range(0, len(inputs), _DOCUMENTS_PER_EMBED):
            some = inputs[first : first + _DOCUMENTS_PER_EMBED]
            embed = EmbedRequest(
                InputType.DOCUMENT, some, request.namespace, None, request.priority
            )
            try:
                usage = (await model.embed(embed)).usage
            except Exception as error:  # noqa: BLE001 - the documents are stored, whatever it is
                ahead.documents_not_embedded = len(inputs) - first
                warnings.append(_not_embedded(ahead, len(inputs), error))
                break
            ahead.documents_cached += usage.inputs_cached
            ahead.documents_embedded += usage.inputs_embedded
            ahead.documents_truncated += usage.inputs_truncated
            ahead.tokens += usage.tokens
        return ahead

    async def _try_statistics(self, request: PutRequest) -> NamespaceStatistics | None:
        try:
            return await self._store.statistics(request.namespace)
        except UnavailableError:
            return None


def _not_embedded(ahead: EmbeddedAhead, num_documents: int, error: Exception) -> AnswerWarning:
    cause = str(error)
    if not isinstance(error, E2RankError):
        logger.error("could not embed documents ahead", exc_info=error)
        cause = "internal error"
    return AnswerWarning(
        WarningCode.DOCUMENTS_NOT_EMBEDDED,
        f"{ahead.documents_not_embedded} of {num_documents} documents are stored but not yet "
        f"embedded with {ahead.model}: {cause}",
    )
