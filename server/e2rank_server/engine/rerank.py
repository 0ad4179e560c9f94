"""Rerank: one prompt embedding, many document vectors, a cosine for each.

    first-stage order:  prompt pass ∥ documents                        → scores
    cosine order:       (query pass ∥ documents) → order → prompt pass → scores
    COSINE, VECTOR_PRF: (query pass ∥ documents)                       → scores
    documents:          slower cache → stored texts of the missing → their passes

All candidates are scored although only the first few are in the prompt
(E2Rank, arXiv:2510.22733, section 3.2).
"""

from __future__ import annotations

import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from e2rank_server.embedder.protocol import Embedder, EmbedderPrompt
from e2rank_server.engine.admission import Permit, WorkGate, estimate_tokens
from e2rank_server.engine.concurrency import run_both
from e2rank_server.engine.document_vectors import (
    CACHED,
    DocumentVectors,
    Found,
    Sought,
    num_bytes,
)
from e2rank_server.engine.first_stage import first_stage_scores, first_stage_warnings
from e2rank_server.engine.query import QueryPass, embed_query, instruction_warnings
from e2rank_server.engine.scoring import best_first, cosine_scores, feedback_vector
from e2rank_server.engine.stored_documents import Resolved, StoredDocuments, require_texts
from e2rank_server.engine.urgency import Urgency, pass_priority
from e2rank_server.profiles.profile import Pooling, Profile
from e2rank_server.tokenizer.protocol import ListwisePromptInput, Tokenizer
from e2rank_server.types import (
    AnswerWarning,
    CacheTier,
    CosineOptions,
    Document,
    E2RankOptions,
    FirstStageScores,
    FloatArray,
    LlmListwiseOptions,
    Method,
    MethodOptions,
    PromptOrder,
    RankedDocument,
    RerankOutcome,
    RerankRequest,
    RerankUsage,
    ScoreSource,
    TextInput,
    Timings,
    VectorPrfOptions,
    WarningCode,
)

PassResult = TypeVar("PassResult")

_READER = "the listwise prompt shows"

_DEFAULT_OPTIONS: Mapping[Method, MethodOptions] = {
    Method.E2RANK: E2RankOptions(),
    Method.COSINE: CosineOptions(),
    Method.VECTOR_PRF: VectorPrfOptions(),
}


@dataclass(frozen=True, slots=True)
class _ListwisePlan:
    """E2RankOptions with the profile's values filled in."""

    num_documents: int
    order: PromptOrder
    scores: FirstStageScores | None


@dataclass(slots=True)
class _Run:
    """One request in the course of being served: what it asks, and what that has cost so far."""

    request: RerankRequest
    resolved: Resolved
    plan: _ListwisePlan | VectorPrfOptions | CosineOptions
    timings: Timings = field(default_factory=Timings)
    prompt_tokens: int = 0
    prompt_documents: int = 0
    prompt_documents_truncated: int = 0
    warnings: list[AnswerWarning] = field(default_factory=list)

    @property
    def method(self) -> Method:
        match self.plan:
            case _ListwisePlan():
                return Method.E2RANK
            case VectorPrfOptions():
                return Method.VECTOR_PRF
            case CosineOptions():
                return Method.COSINE

    @property
    def documents(self) -> list[Document]:
        """The candidates: those of the request that exist."""
        return self.resolved.documents

    def add_query(self, query: QueryPass) -> None:
        self.prompt_tokens += query.num_tokens
        self.warnings += query.warnings
        self.timings.tokenize_seconds += query.tokenize_seconds
        self.timings.prompt_seconds += query.embed_seconds


class RerankEngine:
    """Reranks with one model."""

    def __init__(
        self,
        profile: Profile,
        tokenizer: Tokenizer,
        embedder: Embedder,
        documents: DocumentVectors,
        stored: StoredDocuments,
        gate: WorkGate,
    ) -> None:
        self._profile = profile
        self._tokenizer = tokenizer
        self._embedder = embedder
        self._documents = documents
        self._stored = stored
        self._gate = gate

    async def rerank(self, request: RerankRequest) -> RerankOutcome:
        """Score all documents and return the best `top_n`, equal scores in request order.

        Raises:
            InvalidRequestError: a document for the prompt has no text, or the
                prompt cannot fit the model (PromptTooLongError).
            UnknownDocumentsError: documents named by id are not stored.
            OverloadedError, UnavailableError: see errors.py.
        """
        started = time.monotonic()
        outcome = await self._stored.steadily(partial(self._rerank, request))
        outcome.timings.total_seconds = time.monotonic() - started
        return outcome

    async def _rerank(self, request: RerankRequest, at_once: bool) -> RerankOutcome:
        resolved = await self._stored.resolve(
            request.namespace,
            request.documents,
            drop_unknown=request.drop_unknown,
            at_once=at_once,
        )
        run = _Run(request, resolved, self._plan(request, len(resolved.documents)))
        run.timings.store_seconds = resolved.seconds
        if not run.documents:
            return _outcome(run, [], None)
        if isinstance(run.plan, _ListwisePlan):
            # What is known to fail must not cost any work first.
            await self._require_texts(run, run.plan)
        sought = await self._documents.look_up(request.namespace, run.documents)
        priority = pass_priority(request.priority, Urgency.PROMPT)
        async with self._gate.admit(self._cost(run, sought), priority) as permit:
            run.timings.queue_seconds = permit.waited_seconds
            vector, found = await self._embed(run, sought, permit)
        run.timings.lookup_seconds = sought.lookup_seconds
        run.timings.documents_seconds = found.seconds
        return await self._score(run, vector, found)

    def _plan(
        self, request: RerankRequest, num_documents: int
    ) -> _ListwisePlan | VectorPrfOptions | CosineOptions:
        """Resolve the method."""
        options = request.options
        if options is None:
            options = _DEFAULT_OPTIONS[self._profile.default_method]
        if isinstance(options, LlmListwiseOptions):
            raise TypeError("LLM_LISTWISE compares no vectors")
        if not isinstance(options, E2RankOptions):
            return options
        wanted = options.prompt_documents or self._profile.prompt_documents
        return _ListwisePlan(
            num_documents=min(wanted, num_documents),
            order=options.prompt_order or self._profile.prompt_order,
            scores=options.first_stage_scores,
        )

    async def _require_texts(self, run: _Run, plan: _ListwisePlan) -> None:
        """Read the texts that the prompt is known to need, and see that they are there."""
        by_bm25 = plan.scores is not None and plan.scores.source is ScoreSource.CANDIDATE_BM25
        if by_bm25:
            rows = range(len(run.documents))
        elif plan.order is PromptOrder.FIRST_STAGE:
            rows = range(plan.num_documents)
        else:
            return
        await self._read(run, rows)
        require_texts(run.documents, run.resolved.positions, rows, _READER)

    def _cost(self, run: _Run, sought: Sought) -> int:
        """Estimate the tokens that the request's passes take together."""
        prompts = self._profile.prompts
        query_bytes = len(run.request.query.encode())
        cost = sought.estimated_tokens(prompts.max_document_tokens)
        listwise = run.plan if isinstance(run.plan, _ListwisePlan) else None
        if listwise is None or listwise.order is PromptOrder.COSINE:
            cost += estimate_tokens(query_bytes, prompts.max_query_tokens)
        if listwise is not None:
            # In cosine order others may be shown; they are about as long.
            shown = run.documents[: listwise.num_documents]
            prompt_bytes = query_bytes + sum(num_bytes(document) for document in shown)
            cost += estimate_tokens(prompt_bytes, prompts.max_prompt_tokens)
        return cost

    async def _read(self, run: _Run, rows: Sequence[int]) -> None:
        """Read the texts of stored documents among `rows`."""
        run.timings.store_seconds += await self._stored.read(
            run.request.namespace, run.documents, rows
        )

    async def _embed(self, run: _Run, sought: Sought, permit: Permit) -> tuple[FloatArray, Found]:
        """Return the vector to compare with, and the documents' vectors."""
        plan = run.plan
        documents = self._complete(run, sought, permit)
        if isinstance(plan, _ListwisePlan) and plan.order is PromptOrder.FIRST_STAGE:
            prompt_pass = self._embed_prompt(run, plan, range(plan.num_documents))
            return await _run_beside(prompt_pass, documents, is_needed=bool(sought.missing))
        query_pass = embed_query(
            self._profile,
            self._tokenizer,
            self._embedder,
            run.request.query,
            run.request.instruction,
            run.request.priority,
        )
        query, found = await _run_beside(query_pass, documents, is_needed=bool(sought.missing))
        run.add_query(query)
        if isinstance(plan, CosineOptions):
            return query.vector, found
        if isinstance(plan, VectorPrfOptions):
            return feedback_vector(query.vector, found.vectors, plan), found
        order = best_first(cosine_scores(found.vectors, query.vector))
        shown_rows = order[: plan.num_documents].tolist()
        await self._read(run, shown_rows)
        require_texts(run.documents, run.resolved.positions, shown_rows, _READER)
        return await self._embed_prompt(run, plan, shown_rows), found

    async def _complete(self, run: _Run, sought: Sought, permit: Permit) -> Found:
        """Find or make the vectors that were not in memory."""
        if sought.missing:
            await self._documents.look_further(sought)
            await self._read(run, sought.rows_to_embed())
            permit.reduce_to(self._cost(run, sought))
        priority = pass_priority(run.request.priority, Urgency.CANDIDATES)
        return await self._documents.complete(sought, priority)

    async def _embed_prompt(
        self, run: _Run, plan: _ListwisePlan, rows: Sequence[int]
    ) -> FloatArray:
        """Embed the listwise prompt that shows the documents of `rows`, in that order."""
        started = time.monotonic()
        request = run.request
        shown = [run.documents[row] for row in rows]
        scores = await _prompt_scores(run, plan, rows)
        prompt = await self._tokenizer.tokenize_listwise_prompt(
            ListwisePromptInput(
                query=request.query,
                documents=[TextInput(each.text or "", each.title) for each in shown],
                instruction=request.instruction,
                scores=scores,
                max_tokens_per_document=request.max_tokens_per_document,
            )
        )
        tokenized = time.monotonic()
        is_by_query = self._profile.listwise_pooling is Pooling.QUERY_TOKENS
        span = prompt.query_span if is_by_query else None
        vectors = await self._embedder.embed(
            [EmbedderPrompt(prompt.token_ids, span)],
            priority=pass_priority(request.priority, Urgency.PROMPT),
        )
        run.timings.tokenize_seconds += tokenized - started
        run.timings.prompt_seconds += time.monotonic() - tokenized
        run.prompt_tokens += len(prompt.token_ids)
        run.prompt_documents = len(rows)
        run.prompt_documents_truncated = sum(prompt.truncated)
        run.warnings += self._listwise_warnings(run, plan, is_shrunk=prompt.is_shrunk)
        vector: FloatArray = vectors[0]
        return vector

    def _listwise_warnings(
        self, run: _Run, plan: _ListwisePlan, *, is_shrunk: bool
    ) -> list[AnswerWarning]:
        warnings = []
        if not self._profile.trained_for_listwise:
            warnings.append(
                AnswerWarning(
                    WarningCode.PROFILE_NOT_TRAINED_FOR_LISTWISE,
                    f"{self._profile.name} was not trained for listwise prompts; "
                    "E2RANK can rank worse than COSINE",
                )
            )
        if is_shrunk:
            warnings.append(
                AnswerWarning(
                    WarningCode.PROMPT_DOCUMENTS_SHRUNK,
                    f"the prompt's documents were cut further to fit "
                    f"{self._profile.prompts.max_prompt_tokens} tokens",
                )
            )
        if plan.scores is not None:
            warnings.append(
                AnswerWarning(
                    WarningCode.FIRST_STAGE_SCORES_EXPERIMENTAL,
                    "no E2Rank model was trained with first-stage scores in its prompt",
                )
            )
        warnings += first_stage_warnings(plan.scores)
        if plan.order is PromptOrder.FIRST_STAGE:  # else the query pass has said it
            template = self._profile.prompts.listwise_template
            warnings += instruction_warnings(self._profile, template, run.request.instruction)
        return warnings

    async def _score(self, run: _Run, vector: FloatArray, found: Found) -> RerankOutcome:
        started = time.monotonic()
        scores = cosine_scores(found.vectors, vector)
        best = best_first(scores)[: run.request.top_n]
        rows = best.tolist()
        run.timings.score_seconds = time.monotonic() - started
        if run.request.return_documents:
            await self._read(run, rows)
        positions, documents = run.resolved.positions, run.documents
        results = [
            RankedDocument(positions[row], score, found.tiers[row], documents[row])
            for row, score in zip(rows, scores[best].tolist(), strict=True)
        ]
        return _outcome(run, results, found)


async def _run_beside(
    work: Coroutine[Any, Any, PassResult],
    documents: Coroutine[Any, Any, Found],
    *,
    is_needed: bool,
) -> tuple[PassResult, Found]:
    """Run a pass beside the work for missing documents, if there are any."""
    if not is_needed:
        # Nothing to wait for: two tasks would cost more than they do.
        found = await documents
        return await work, found
    return await run_both(work, documents)


def _outcome(run: _Run, results: Sequence[RankedDocument], found: Found | None) -> RerankOutcome:
    """Put the answer together; `found` is None if there were no candidates."""
    tiers = found.tiers if found is not None else ()
    return RerankOutcome(
        results=results,
        method=run.method,
        usage=RerankUsage(
            prompt_tokens=run.prompt_tokens,
            document_tokens=found.num_tokens if found is not None else 0,
            documents_from_caller=tiers.count(CacheTier.CALLER),
            documents_cached=sum(map(tiers.count, CACHED)),
            documents_embedded=tiers.count(CacheTier.COMPUTED),
            documents_truncated=found.num_truncated_texts if found is not None else 0,
            prompt_documents=run.prompt_documents,
            prompt_documents_truncated=run.prompt_documents_truncated,
            documents_stored=run.resolved.num_stored,
        ),
        timings=run.timings,
        warnings=run.warnings,
        unknown=run.resolved.unknown,
    )


async def _prompt_scores(run: _Run, plan: _ListwisePlan, rows: Sequence[int]) -> list[str] | None:
    """Return the shown documents' own scores, scaled over all candidates."""
    if plan.scores is None:
        return None
    scaled = await first_stage_scores(
        plan.scores, run.request.query, run.documents, run.resolved.positions
    )
    return [scaled[row] for row in rows]
