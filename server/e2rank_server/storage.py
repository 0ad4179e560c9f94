"""The part of the composition root that opens what keeps things: caches and document store."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from e2rank_server.document_store.lmdb import LmdbDocumentStore
from e2rank_server.document_store.protocol import DocumentStore
from e2rank_server.document_store.valkey import ValkeyDocumentStore
from e2rank_server.embedding_cache.keys import load_or_create_secret, namespace_tag
from e2rank_server.embedding_cache.lmdb import LmdbTier
from e2rank_server.embedding_cache.memory import MemoryEmbeddingCache
from e2rank_server.embedding_cache.protocol import EmbeddingCache, SecondTier
from e2rank_server.embedding_cache.tiered import TieredEmbeddingCache
from e2rank_server.embedding_cache.valkey import ValkeyTier
from e2rank_server.embedding_cache.values import ElementType, ValueCodec
from e2rank_server.engine.namespace_epochs import NamespaceEpochs
from e2rank_server.settings import Settings


class Storage:
    """What outlives a request: the caches of all models, their second tier, the documents."""

    def __init__(self, settings: Settings, secret: bytes) -> None:
        self.secret = secret
        self.store: DocumentStore | None = None
        self.epochs: NamespaceEpochs | None = None
        """There if the store is."""
        self._settings = settings
        self._element_type = ElementType(settings.cache_element_type.upper())
        self._second_tier: SecondTier | None = None
        self._caches: list[EmbeddingCache] = []

    @classmethod
    async def open(cls, settings: Settings, stack: AsyncExitStack) -> Storage:
        """Open the second tier and the store, if the settings ask for them.

        Raises:
            ConfigurationError: one of them cannot be used as it is.
        """
        secret = settings.cache_secret or load_or_create_secret(
            settings.data_directory / "cache-secret"
        )
        storage = cls(settings, secret)
        storage._second_tier = await _open_second_tier(settings)
        if storage._second_tier is not None:
            stack.push_async_callback(storage._second_tier.close)
        storage.store = await _open_store(settings)
        if storage.store is not None:
            stack.push_async_callback(storage.store.close)
            storage.epochs = NamespaceEpochs(storage.store, storage._purge)
            await storage.epochs.start()
            stack.push_async_callback(storage.epochs.close)
        return storage

    def open_cache(self, dimension: int, num_models: int, stack: AsyncExitStack) -> EmbeddingCache:
        """Make the cache of one of so many models."""
        memory = MemoryEmbeddingCache(
            dimension, self._settings.cache_bytes // num_models, self._element_type
        )
        cache: EmbeddingCache = memory
        if self._second_tier is not None:
            cache = tiered = TieredEmbeddingCache(
                memory,
                self._second_tier,
                ValueCodec(dimension, self._element_type),
                timeout_seconds=self._settings.second_tier_timeout_seconds,
            )
            stack.push_async_callback(tiered.close)
        self._caches.append(cache)
        return cache

    def epoch_of(self, namespace: str) -> int:
        """Return the epoch that a namespace is in; without a store none is ever deleted."""
        return 0 if self.epochs is None else self.epochs.current(namespace)

    async def _purge(self, namespace: str, epoch: int) -> None:
        tag = namespace_tag(self.secret, namespace, epoch)
        for cache in self._caches:
            await cache.purge(tag)


async def _open_second_tier(settings: Settings) -> SecondTier | None:
    match settings.second_tier:
        case "off":
            return None
        case "disk":
            folder = settings.data_directory / "embedding-cache"
            return await asyncio.to_thread(LmdbTier, folder, settings.second_tier_bytes)
        case url:
            return ValkeyTier(
                url,
                ttl_seconds=settings.second_tier_ttl_seconds,
                is_cluster=settings.second_tier_cluster == "on",
            )


async def _open_store(settings: Settings) -> DocumentStore | None:
    match settings.document_store:
        case "off":
            return None
        case "disk":
            return await LmdbDocumentStore.open(
                settings.data_directory / "document-store",
                max_bytes=settings.document_store_bytes,
                max_namespace_bytes=settings.max_namespace_bytes,
            )
        case url:
            return await ValkeyDocumentStore.open(
                url, max_namespace_bytes=settings.max_namespace_bytes
            )
