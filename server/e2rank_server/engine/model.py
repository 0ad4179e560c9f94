"""A model that is being served: a profile joined to what tokenizes, embeds and caches for it."""

from __future__ import annotations

from e2rank_server.embedder.protocol import Embedder
from e2rank_server.embedding_cache.protocol import (
    CacheStatistics,
    EmbeddingCache,
    SecondTierStatistics,
)
from e2rank_server.engine.admission import WorkGate
from e2rank_server.engine.document_vectors import DocumentVectors, EpochOf
from e2rank_server.engine.embedding import EmbeddingEngine
from e2rank_server.engine.llm_rerank import LlmRerankEngine
from e2rank_server.engine.rerank import RerankEngine
from e2rank_server.engine.stored_documents import StoredDocuments
from e2rank_server.errors import GeneratorMissingError, UnavailableError
from e2rank_server.profiles.profile import Profile
from e2rank_server.tokenizer.protocol import Tokenizer
from e2rank_server.types import (
    Document,
    E2RankOptions,
    EmbedOutcome,
    EmbedRequest,
    LlmListwiseOptions,
    ModelDescription,
    ModelLoad,
    RerankOutcome,
    RerankRequest,
)

_WARM_UP = RerankRequest(
    query="which planet is the largest",
    documents=[
        Document(text="Jupiter is the largest planet of the solar system."),
        Document(text="Bread dough rises because yeast makes gas."),
    ],
    namespace="e2rank.warm-up",
    options=E2RankOptions(),
)


class ServedModel:
    """Answers requests for one profile."""

    def __init__(
        self,
        profile: Profile,
        *,
        revision: str,
        fingerprint: str,
        tokenizer: Tokenizer,
        embedder: Embedder,
        cache: EmbeddingCache,
        secret: bytes,
        gate: WorkGate,
        stored: StoredDocuments,
        epoch_of: EpochOf,
        llm: LlmRerankEngine | None = None,
    ) -> None:
        """`llm` serves LLM_LISTWISE; all models share it."""
        self.description = _describe(profile, revision, fingerprint, tokenizer, embedder)
        self._tokenizer = tokenizer
        self._embedder = embedder
        self._cache = cache
        self._gate = gate
        self._is_warm = False
        self.llm = llm
        documents = DocumentVectors(
            profile, fingerprint, tokenizer, embedder, cache, secret, epoch_of
        )
        self._reranking = RerankEngine(profile, tokenizer, embedder, documents, stored, gate)
        self._embedding = EmbeddingEngine(profile, tokenizer, embedder, documents, stored, gate)

    @property
    def load(self) -> ModelLoad:
        """How much work the model has now."""
        return ModelLoad(self._gate.running_tokens, self._gate.waiting_tokens)

    @property
    def cache_statistics(self) -> CacheStatistics:
        """How the cache of its document embeddings is doing."""
        return self._cache.statistics()

    @property
    def second_tier_statistics(self) -> SecondTierStatistics | None:
        """How what the cache has behind its memory is doing; None if it has nothing."""
        return self._cache.second_tier_statistics()

    async def rerank(self, request: RerankRequest) -> RerankOutcome:
        """See `RerankEngine.rerank`, and `LlmRerankEngine.rerank` for its method.

        Raises:
            GeneratorMissingError: the method is LLM_LISTWISE, and nothing here generates.
        """
        if isinstance(request.options, LlmListwiseOptions):
            if self.llm is None:
                raise GeneratorMissingError
            return await self.llm.rerank(request)
        return await self._reranking.rerank(request)

    async def embed(self, request: EmbedRequest) -> EmbedOutcome:
        """See `EmbeddingEngine.embed`."""
        return await self._embedding.embed(request)

    async def warm_up(self) -> None:
        """Run one request of each kind of pass, so that the first caller does not pay for it."""
        await self.rerank(_WARM_UP)
        self._is_warm = True

    async def check_health(self) -> None:
        """Raise UnavailableError if a backend is away; warms up if nothing has done so yet."""
        await self._tokenizer.check_health()
        await self._embedder.check_health()
        if not self._is_warm:
            await self.warm_up()


def _describe(
    profile: Profile,
    revision: str,
    fingerprint: str,
    tokenizer: Tokenizer,
    embedder: Embedder,
) -> ModelDescription:
    if embedder.dimension != profile.dimension:
        raise UnavailableError(
            "embedder",
            f"the model gives {embedder.dimension} dimensions, "
            f"profile {profile.name} says {profile.dimension}",
        )
    return ModelDescription(
        profile=profile.name,
        revision=revision,
        fingerprint=fingerprint,
        template_version=profile.template_version,
        tokenizer_backend=tokenizer.backend,
        embedder_backend=embedder.backend,
        dimension=profile.dimension,
        compute_dtype=embedder.compute_dtype,
        trained_for_listwise=profile.trained_for_listwise,
        default_method=profile.default_method,
        default_prompt_order=profile.prompt_order,
        max_query_tokens=profile.prompts.max_query_tokens,
        max_document_tokens=profile.prompts.max_document_tokens,
        max_prompt_tokens=profile.prompts.max_prompt_tokens,
        default_prompt_documents=profile.prompt_documents,
        max_prompt_documents=profile.max_prompt_documents,
    )
