"""The engine on fakes, for its tests."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from e2rank_server.embedder.fake import FakeEmbedder
from e2rank_server.embedding_cache.memory import MemoryEmbeddingCache
from e2rank_server.embedding_cache.protocol import EmbeddingCache
from e2rank_server.embedding_cache.values import ElementType
from e2rank_server.engine.admission import WorkGate
from e2rank_server.engine.model import ServedModel
from e2rank_server.engine.stored_documents import StoredDocuments
from e2rank_server.profiles.loading import load_profile
from e2rank_server.profiles.profile import Profile
from e2rank_server.types import Document, PromptOrder
from tests.fake_document_store import FakeDocumentStore
from tests.fakes import FakeTokenizer

DIMENSION = 384


def profile(**changes: object) -> Profile:
    """The default profile, but with prompts in first-stage order unless changed."""
    default = load_profile("all-minilm-l6-v2")
    return replace(default, **{"prompt_order": PromptOrder.FIRST_STAGE, **changes})


class EngineRig:
    """A served model whose tokenizer, embedder, cache and gate are at hand."""

    def __init__(self, model_profile: Profile | None = None, *, cache_bytes: int = 4 << 20) -> None:
        self.profile = model_profile or profile()
        self.tokenizer = FakeTokenizer()
        self.embedder = FakeEmbedder(DIMENSION)
        # In float32, so that a cached vector equals the computed one exactly.
        self.cache: EmbeddingCache = MemoryEmbeddingCache(
            DIMENSION, cache_bytes, ElementType.FLOAT32
        )
        self.store = FakeDocumentStore()
        self.epochs: dict[str, int] = {}
        self.gate = WorkGate(1 << 16, 1 << 20)
        self.model = self.another_model()

    def another_model(self, *, secret: bytes = b"s" * 32, fingerprint: str = "f") -> ServedModel:
        """Serve from the same parts, with keys of its own if asked for."""
        return ServedModel(
            self.profile,
            revision="r",
            fingerprint=fingerprint,
            tokenizer=self.tokenizer,
            embedder=self.embedder,
            cache=self.cache,
            secret=secret,
            gate=self.gate,
            stored=StoredDocuments(self.store, 1 << 20),
            epoch_of=lambda namespace: self.epochs.get(namespace, 0),
        )

    def embedded_lengths(self) -> list[int]:
        """Return the token counts of all prompts that the embedder was given."""
        return [len(p.token_ids) for call in self.embedder.calls for p in call.prompts]


def documents(*texts: str) -> list[Document]:
    """Make candidates with ids d0, d1, ..."""
    return [Document(id=f"d{index}", text=text) for index, text in enumerate(texts)]


async def settle() -> None:
    """Let every task run until it waits for something that only the test provides."""
    for _ in range(50):
        await asyncio.sleep(0)
