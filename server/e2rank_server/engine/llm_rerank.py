"""Rerank by an LLM that writes out the order of one window of candidates after another.

    candidates in their initial order → windows, back to front → for each: prompt, generate,
    parse, reorder in place → again for each pass → ranks

What moves is rows: a candidate's text and its first-stage score are looked up by its row in
every window, so that a score never stands beside another's text (InsertRank, arXiv:2506.14086).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from e2rank_server.engine.admission import WorkGate, estimate_tokens
from e2rank_server.engine.first_stage import first_stage_scores, first_stage_warnings
from e2rank_server.engine.llm_plan import LlmPlan, make_plan
from e2rank_server.engine.stored_documents import Resolved, StoredDocuments, require_texts
from e2rank_server.engine.urgency import Urgency, pass_priority
from e2rank_server.errors import (
    E2RankError,
    GeneratorRefusedError,
    OverloadedError,
    PromptTooLongError,
    UnavailableError,
)
from e2rank_server.generator.protocol import Generator, GeneratorPrompt
from e2rank_server.llm_listwise.parsing import Defect
from e2rank_server.llm_listwise.template import LlmTemplate
from e2rank_server.llm_listwise.windows import windows
from e2rank_server.types import (
    AnswerWarning,
    Document,
    GeneratorDescription,
    InitialOrder,
    LlmListwiseReport,
    LlmOutputCounts,
    Method,
    RankedDocument,
    RerankOutcome,
    RerankRequest,
    RerankUsage,
    ScoreKind,
    TextInput,
    Timings,
    WarningCode,
)

_FAILED = "failed"
_READER = "an LLM reads"
# What a request may forgive; anything else is its own fault, or a defect.
_FORGIVABLE = (UnavailableError, OverloadedError, GeneratorRefusedError)


@dataclass(slots=True)
class _Run:
    """One request in the course of being served: what it asks, and what that has cost so far."""

    request: RerankRequest
    plan: LlmPlan
    resolved: Resolved
    texts: Sequence[TextInput] = ()
    scores: Sequence[str] | None = None
    max_words: int = 0
    """Of a passage; shrinks when a window does not fit the LLM's context."""
    cut_rows: set[int] = field(default_factory=set)
    timings: Timings = field(default_factory=Timings)
    outputs: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    generated_tokens: int = 0
    identifiers_absent: int = 0
    failure: E2RankError | None = None

    @property
    def documents(self) -> list[Document]:
        """The candidates: those of the request that exist."""
        return self.resolved.documents

    @property
    def priority(self) -> int:
        return pass_priority(self.request.priority, Urgency.PROMPT)


class LlmRerankEngine:
    """Reranks with one generator; the same for all profiles, whose vectors it does not need."""

    def __init__(
        self,
        generator: Generator,
        templates: Mapping[str, LlmTemplate],
        *,
        default_template: str,
        default_score_template: str,
        gate: WorkGate,
        stored: StoredDocuments,
        timeout_seconds: float,
    ) -> None:
        """`timeout_seconds` is how long the generator may take for one window."""
        self._generator = generator
        self._timeout_seconds = timeout_seconds
        self._templates = templates
        self._gate = gate
        self._stored = stored
        self._outputs: Counter[str] = Counter()
        self._default_template = default_template
        self._default_score_template = default_score_template

    @property
    def description(self) -> GeneratorDescription:
        """What generates; an endpoint may tell its limit only once it has been called."""
        return GeneratorDescription(
            model=self._generator.model,
            backend=self._generator.backend,
            max_model_tokens=self._generator.max_model_tokens,
            templates=sorted(self._templates),
            default_template=self._default_template,
            default_score_template=self._default_score_template,
        )

    @property
    def outputs(self) -> LlmOutputCounts:
        """How the LLM's outputs were since this process began."""
        return LlmOutputCounts(**self._outputs)

    async def rerank(self, request: RerankRequest) -> RerankOutcome:
        """Let the LLM order all documents and return the best `top_n`.

        Raises:
            InvalidRequestError: the options do not suit the template, or a document has no
                text; PromptTooLongError if a window does not fit however it is cut.
            UnknownDocumentsError: documents named by id are not stored.
            OverloadedError, UnavailableError, GeneratorRefusedError: the generator fails, and
                the request does not allow that.
        """
        started = time.monotonic()
        plan = make_plan(request, self._templates, self.description)
        resolved = await self._stored.resolve(
            request.namespace, request.documents, drop_unknown=request.drop_unknown, at_once=True
        )
        run = _Run(request, plan, resolved, max_words=plan.max_words)
        run.timings.store_seconds = resolved.seconds
        order = await self._order(run)
        run.timings.total_seconds = time.monotonic() - started
        return self._outcome(run, order)

    async def _order(self, run: _Run) -> Sequence[int]:
        """Return the candidates' rows, best first."""
        documents, positions = run.documents, run.resolved.positions
        require_texts(documents, positions, range(len(documents)), _READER)
        run.texts = [TextInput(document.text or "", document.title) for document in documents]
        order = _initial_order(run.plan, len(documents))
        if len(order) < 2:
            return order
        if run.plan.scores is not None:
            query = run.request.query
            run.scores = await first_stage_scores(run.plan.scores, query, documents, positions)
        async with self._gate.admit(_cost(run), run.priority) as permit:
            run.timings.queue_seconds = permit.waited_seconds
            await self._slide(run, order)
        return order

    async def _slide(self, run: _Run, order: list[int]) -> None:
        """Reorder window by window, in place; when the generator fails, leave the rest."""
        schedule = windows(len(order), run.plan.window_size, run.plan.stride)
        # The last one can be a single document, of which there is one order.
        schedule = [window for window in schedule if len(window) > 1] * run.plan.num_passes
        for number, window in enumerate(schedule):
            rows = [order[position] for position in window]
            try:
                reordered, defect = await self._order_window(run, rows)
            except _FORGIVABLE as error:
                if not run.plan.allow_degraded:
                    raise
                run.failure = error
                # It would not be back for the next window, and the caller waits.
                self._count(run, _FAILED, len(schedule) - number)
                return
            self._count(run, defect.lower())
            order[window.start : window.stop] = [rows[place] for place in reordered]

    async def _order_window(self, run: _Run, rows: Sequence[int]) -> tuple[Sequence[int], Defect]:
        """Ask for the order of one window; return places in it, best first."""
        prompt = await self._fit(run, rows)
        started = time.monotonic()
        ask = self._ask_first_token if run.plan.template.reads_first_token else self._ask
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await ask(run, prompt, len(rows))
        except TimeoutError:
            seconds = self._timeout_seconds
            raise UnavailableError("generator", f"no output within {seconds:g} seconds") from None
        finally:
            run.timings.generate_seconds += time.monotonic() - started

    async def _ask(
        self, run: _Run, prompt: GeneratorPrompt, num_passages: int
    ) -> tuple[Sequence[int], Defect]:
        """Let the LLM write the order, and read it."""
        output = await self._generator.generate(
            prompt, run.plan.budget(num_passages), priority=run.priority
        )
        run.prompt_tokens += output.prompt_tokens
        run.generated_tokens += output.generated_tokens
        if output.is_refusal:
            return range(num_passages), Defect.REFUSED
        # An output is as long and as strange as an LLM makes it.
        parsed = await asyncio.to_thread(run.plan.template.parse, output.text, num_passages)
        return parsed.order, parsed.defect

    async def _ask_first_token(
        self, run: _Run, prompt: GeneratorPrompt, num_passages: int
    ) -> tuple[Sequence[int], Defect]:
        """Let the LLM begin, and read the order from what it might have begun with."""
        template = run.plan.template
        first = await self._generator.first_token(
            prompt, template.identifiers(num_passages), priority=run.priority
        )
        run.prompt_tokens += first.prompt_tokens
        run.generated_tokens += first.generated_tokens
        places, absent = template.rank_first_token(first.logprobs, num_passages)
        run.identifiers_absent += absent
        return places, Defect.REFUSED if absent == num_passages else Defect.OK

    async def _fit(self, run: _Run, rows: Sequence[int]) -> GeneratorPrompt:
        """Make a window's prompt, its passages cut evenly until it fits the LLM's context."""
        budget = run.plan.budget(len(rows))
        started = time.monotonic()
        while True:
            prompt, cut = await asyncio.to_thread(self._prompt, run, rows)
            needed = await self._generator.count_tokens(prompt, budget)
            limit = self._generator.max_model_tokens
            if limit is None or needed is None or needed <= limit:
                break
            if run.max_words == 1:
                raise PromptTooLongError.of(
                    "llm_listwise.window_size",
                    f"a window of {len(rows)} documents of one word each has {needed} tokens with "
                    f"its output; the generator's limit is {limit}",
                )
            run.max_words = min(run.max_words - 1, int(run.max_words * limit / needed)) or 1
        run.timings.tokenize_seconds += time.monotonic() - started
        run.cut_rows.update(row for row, is_cut in zip(rows, cut, strict=True) if is_cut)
        return prompt

    def _prompt(self, run: _Run, rows: Sequence[int]) -> tuple[GeneratorPrompt, Sequence[bool]]:
        return run.plan.template.prompt(
            run.request.query,
            [run.texts[row] for row in rows],
            None if run.scores is None else [run.scores[row] for row in rows],
            max_words=run.max_words,
            thinking=run.plan.thinking,
        )

    def _count(self, run: _Run, outcome: str, number: int = 1) -> None:
        run.outputs[outcome] += number
        self._outputs[outcome] += number

    def _outcome(self, run: _Run, order: Sequence[int]) -> RerankOutcome:
        template = run.plan.template
        positions, documents = run.resolved.positions, run.documents
        results = [
            RankedDocument(positions[row], 1.0 / rank, None, documents[row])
            for rank, row in enumerate(order[: run.request.top_n], start=1)
        ]
        return RerankOutcome(
            results=results,
            method=Method.LLM_LISTWISE,
            score_kind=ScoreKind.RECIPROCAL_RANK,
            usage=RerankUsage(
                prompt_documents=len(documents),
                prompt_documents_truncated=len(run.cut_rows),
                documents_stored=run.resolved.num_stored,
            ),
            timings=run.timings,
            warnings=_warnings(run),
            unknown=run.resolved.unknown,
            llm_listwise=LlmListwiseReport(
                generator_model=self._generator.model,
                template=template.name,
                template_version=template.version,
                windows=run.outputs.total(),
                outputs=LlmOutputCounts(**run.outputs),
                prompt_tokens=run.prompt_tokens,
                generated_tokens=run.generated_tokens,
                identifiers_absent=run.identifiers_absent,
            ),
        )


def _initial_order(plan: LlmPlan, num_documents: int) -> list[int]:
    order = list(range(num_documents))
    match plan.initial_order:
        case InitialOrder.FIRST_STAGE:
            pass
        case InitialOrder.REVERSED:
            order.reverse()
        case InitialOrder.SHUFFLED:
            random.Random(plan.shuffle_seed).shuffle(order)  # noqa: S311 - to be repeatable
    return order


def _cost(run: _Run) -> int:
    """Estimate the tokens of the largest window: one runs at a time."""
    max_tokens = 2 * run.max_words  # of a passage; more is rare
    sizes = sorted(
        (estimate_tokens(len(text.text.encode()), max_tokens) for text in run.texts), reverse=True
    )
    return sum(sizes[: run.plan.window_size]) + run.plan.reasoning_tokens


def _warnings(run: _Run) -> list[AnswerWarning]:
    outputs, total = run.outputs, run.outputs.total()
    warnings = []
    if run.request.instruction is not None:
        warnings.append(
            AnswerWarning(WarningCode.INSTRUCTION_IGNORED, "LLM_LISTWISE takes no instruction")
        )
    if run.max_words < run.plan.max_words:
        warnings.append(
            AnswerWarning(
                WarningCode.PROMPT_DOCUMENTS_SHRUNK,
                f"the prompts' documents were cut to {run.max_words} words to fit the generator",
            )
        )
    warnings += first_stage_warnings(run.plan.scores)
    if run.failure is not None:
        warnings.append(
            AnswerWarning(
                WarningCode.GENERATOR_FAILED,
                f"{outputs[_FAILED]} of {total} windows kept their order: {run.failure}",
            )
        )
    if repaired := total - outputs[_FAILED] - outputs[Defect.OK.lower()]:
        kinds = [f"{outputs[d.lower()]} {d.lower()}" for d in Defect if outputs[d.lower()]]
        warnings.append(
            AnswerWarning(
                WarningCode.LLM_OUTPUT_REPAIRED,
                f"the LLM answered {repaired} of {total} windows otherwise than it was told to: "
                f"{', '.join(kinds)}",
            )
        )
    return warnings
