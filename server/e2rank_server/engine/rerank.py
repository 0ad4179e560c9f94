"""Rerank: one prompt embedding, many document vectors, a cosine for each.

    first-stage order:  prompt pass ∥ missing documents                        → scores
    cosine order:       (query pass ∥ missing documents) → order → prompt pass → scores

All candidates are scored although only the first few are in the prompt
(E2Rank, arXiv:2510.22733, section 3.2).
"""

from __future__ import annotations

import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from e2rank_server.embedder.protocol import Embedder, EmbedderPrompt
from e2rank_server.engine.admission import WorkGate, estimate_tokens
from e2rank_server.engine.concurrency import run_both
from e2rank_server.engine.document_vectors import DocumentVectors, Found, Sought, num_bytes
from e2rank_server.engine.query import QueryPass, embed_query, instruction_warnings
from e2rank_server.engine.scoring import best_first, cosine_scores, scale_first_stage_scores
from e2rank_server.engine.urgency import Urgency, pass_priority
from e2rank_server.errors import FieldViolation, InvalidRequestError
from e2rank_server.profiles.profile import Pooling, Profile
from e2rank_server.tokenizer.protocol import ListwisePromptInput, Tokenizer
from e2rank_server.types import (
    AnswerWarning,
    CacheTier,
    CosineOptions,
    E2RankOptions,
    FloatArray,
    Method,
    PromptOrder,
    RankedDocument,
    RerankOutcome,
    RerankRequest,
    RerankUsage,
    ScoreScaling,
    TextInput,
    Timings,
    WarningCode,
)

PassResult = TypeVar("PassResult")


@dataclass(frozen=True, slots=True)
class _ListwisePlan:
    """E2RankOptions with the profile's values filled in."""

    num_documents: int
    order: PromptOrder
    scaling: ScoreScaling | None


@dataclass(slots=True)
class _Spent:
    """What the passes of one request have cost so far."""

    prompt_tokens: int = 0
    prompt_documents: int = 0
    prompt_documents_truncated: int = 0
    warnings: list[AnswerWarning] = field(default_factory=list)

    def add_query(self, query: QueryPass, timings: Timings) -> None:
        self.prompt_tokens += query.num_tokens
        self.warnings += query.warnings
        timings.tokenize_seconds += query.tokenize_seconds
        timings.prompt_seconds += query.embed_seconds


class RerankEngine:
    """Reranks with one model."""

    def __init__(
        self,
        profile: Profile,
        tokenizer: Tokenizer,
        embedder: Embedder,
        documents: DocumentVectors,
        gate: WorkGate,
    ) -> None:
        self._profile = profile
        self._tokenizer = tokenizer
        self._embedder = embedder
        self._documents = documents
        self._gate = gate

    async def rerank(self, request: RerankRequest) -> RerankOutcome:
        """Score all documents and return the best `top_n`, equal scores in request order.

        Raises:
            InvalidRequestError: a document for the prompt has no text, or the
                prompt cannot fit the model (PromptTooLongError).
            OverloadedError, UnavailableError: see errors.py.
        """
        started = time.monotonic()
        timings, spent = Timings(), _Spent()
        plan = self._plan(request)
        if plan is not None and plan.order is PromptOrder.FIRST_STAGE:
            # What is known to fail must not cost any work first.
            _require_texts(request, range(plan.num_documents))
        sought = await self._documents.look_up(request.namespace, request.documents)
        timings.lookup_seconds = sought.lookup_seconds
        cost = self._cost(request, plan, sought)
        priority = pass_priority(request.priority, Urgency.PROMPT)
        async with self._gate.admit(cost, priority) as waited:
            timings.queue_seconds = waited
            vector, found = await self._embed(request, plan, sought, timings, spent)
        timings.documents_seconds = found.seconds
        return self._outcome(request, plan, vector, found, spent, timings, started)

    def _plan(self, request: RerankRequest) -> _ListwisePlan | None:
        """Resolve the method; None stands for COSINE."""
        options = request.options
        if options is None:
            is_listwise = self._profile.default_method is Method.E2RANK
            options = E2RankOptions() if is_listwise else CosineOptions()
        if isinstance(options, CosineOptions):
            return None
        wanted = options.prompt_documents or self._profile.prompt_documents
        return _ListwisePlan(
            num_documents=min(wanted, len(request.documents)),
            order=options.prompt_order or self._profile.prompt_order,
            scaling=options.score_scaling,
        )

    def _cost(self, request: RerankRequest, plan: _ListwisePlan | None, sought: Sought) -> int:
        """Estimate the tokens that the request's passes take together."""
        prompts = self._profile.prompts
        query_bytes = len(request.query.encode())
        cost = sought.estimated_tokens(prompts.max_document_tokens)
        if plan is None or plan.order is PromptOrder.COSINE:
            cost += estimate_tokens(query_bytes, prompts.max_query_tokens)
        if plan is not None:
            # In cosine order others may be shown; they are about as long.
            shown = request.documents[: plan.num_documents]
            prompt_bytes = query_bytes + sum(num_bytes(document) for document in shown)
            cost += estimate_tokens(prompt_bytes, prompts.max_prompt_tokens)
        return cost

    async def _embed(
        self,
        request: RerankRequest,
        plan: _ListwisePlan | None,
        sought: Sought,
        timings: Timings,
        spent: _Spent,
    ) -> tuple[FloatArray, Found]:
        """Return the vector to compare with, and the documents' vectors."""
        priority = pass_priority(request.priority, Urgency.CANDIDATES)
        if plan is not None and plan.order is PromptOrder.FIRST_STAGE:
            shown = range(plan.num_documents)
            prompt_pass = self._embed_prompt(request, plan, shown, timings, spent)
            return await self._run_beside_documents(prompt_pass, sought, priority)
        query_pass = embed_query(
            self._profile,
            self._tokenizer,
            self._embedder,
            request.query,
            request.instruction,
            request.priority,
        )
        query, found = await self._run_beside_documents(query_pass, sought, priority)
        spent.add_query(query, timings)
        if plan is None:
            return query.vector, found
        order = best_first(cosine_scores(found.vectors, query.vector))
        shown_rows = order[: plan.num_documents].tolist()
        _require_texts(request, shown_rows)
        vector = await self._embed_prompt(request, plan, shown_rows, timings, spent)
        return vector, found

    async def _run_beside_documents(
        self, work: Coroutine[Any, Any, PassResult], sought: Sought, priority: int
    ) -> tuple[PassResult, Found]:
        """Run a pass beside those of the missing documents."""
        complete = self._documents.complete(sought, priority)
        if not sought.missing:
            # Nothing to wait for: two tasks would cost more than they do.
            found = await complete
            return await work, found
        return await run_both(work, complete)

    async def _embed_prompt(
        self,
        request: RerankRequest,
        plan: _ListwisePlan,
        rows: Sequence[int],
        timings: Timings,
        spent: _Spent,
    ) -> FloatArray:
        """Embed the listwise prompt that shows the documents of `rows`, in that order."""
        started = time.monotonic()
        shown = [request.documents[row] for row in rows]
        prompt = await self._tokenizer.tokenize_listwise_prompt(
            ListwisePromptInput(
                query=request.query,
                documents=[TextInput(each.text or "", each.title) for each in shown],
                instruction=request.instruction,
                scores=_prompt_scores(request, plan, rows),
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
        timings.tokenize_seconds += tokenized - started
        timings.prompt_seconds += time.monotonic() - tokenized
        spent.prompt_tokens += len(prompt.token_ids)
        spent.prompt_documents = len(rows)
        spent.prompt_documents_truncated = sum(prompt.truncated)
        spent.warnings += self._listwise_warnings(request, plan, is_shrunk=prompt.is_shrunk)
        vector: FloatArray = vectors[0]
        return vector

    def _listwise_warnings(
        self, request: RerankRequest, plan: _ListwisePlan, *, is_shrunk: bool
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
        if plan.scaling is not None:
            warnings.append(
                AnswerWarning(
                    WarningCode.FIRST_STAGE_SCORES_EXPERIMENTAL,
                    "no E2Rank model was trained with first-stage scores in its prompt",
                )
            )
        if plan.order is PromptOrder.FIRST_STAGE:  # else the query pass has said it
            template = self._profile.prompts.listwise_template
            warnings += instruction_warnings(self._profile, template, request.instruction)
        return warnings

    def _outcome(
        self,
        request: RerankRequest,
        plan: _ListwisePlan | None,
        vector: FloatArray,
        found: Found,
        spent: _Spent,
        timings: Timings,
        started: float,
    ) -> RerankOutcome:
        scoring = time.monotonic()
        scores = cosine_scores(found.vectors, vector)
        best = best_first(scores)[: request.top_n]
        results = [
            RankedDocument(row, score, found.tiers[row])
            for row, score in zip(best.tolist(), scores[best].tolist(), strict=True)
        ]
        ended = time.monotonic()
        timings.score_seconds = ended - scoring
        timings.total_seconds = ended - started
        return RerankOutcome(
            results=results,
            method=Method.COSINE if plan is None else Method.E2RANK,
            usage=RerankUsage(
                prompt_tokens=spent.prompt_tokens,
                document_tokens=found.num_tokens,
                documents_from_caller=found.tiers.count(CacheTier.CALLER),
                documents_cached=found.tiers.count(CacheTier.MEMORY),
                documents_embedded=found.tiers.count(CacheTier.COMPUTED),
                documents_truncated=found.num_truncated_texts,
                prompt_documents=spent.prompt_documents,
                prompt_documents_truncated=spent.prompt_documents_truncated,
            ),
            timings=timings,
            warnings=spent.warnings,
        )


def _require_texts(request: RerankRequest, rows: Sequence[int]) -> None:
    violations = [
        FieldViolation(
            f"documents[{row}].text",
            "is needed, since the listwise prompt shows this document; a vector alone will not do",
        )
        for row in sorted(rows)
        if request.documents[row].text is None
    ]
    if violations:
        raise InvalidRequestError(violations)


def _prompt_scores(
    request: RerankRequest, plan: _ListwisePlan, rows: Sequence[int]
) -> list[str] | None:
    """Return the shown documents' own scores, scaled over all candidates."""
    if plan.scaling is None:
        return None
    scores = [document.first_stage_score for document in request.documents]
    given = [score for score in scores if score is not None]
    if len(given) != len(scores):
        raise InvalidRequestError.of(
            f"documents[{scores.index(None)}].first_stage_score",
            "is needed, since the options ask for scores in the prompt",
        )
    scaled = scale_first_stage_scores(given, plan.scaling)
    return [scaled[row] for row in rows]
