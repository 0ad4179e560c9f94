"""The options of LLM_LISTWISE with the template's values filled in, once they suit each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from e2rank_server.errors import FieldViolation, InvalidRequestError
from e2rank_server.generator.protocol import OutputBudget
from e2rank_server.llm_listwise.template import LlmTemplate
from e2rank_server.types import (
    FirstStageScores,
    GeneratorDescription,
    InitialOrder,
    LlmListwiseOptions,
    RerankRequest,
)


@dataclass(frozen=True, slots=True)
class LlmPlan:
    """How one request is to be reranked."""

    template: LlmTemplate
    window_size: int
    stride: int
    num_passes: int
    initial_order: InitialOrder
    shuffle_seed: int
    max_words: int
    thinking: bool
    reasoning_token_budget: int | None
    scores: FirstStageScores | None
    allow_degraded: bool

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of an output beyond the bare order."""
        return self.budget(1).reasoning_tokens

    def budget(self, num_passages: int) -> OutputBudget:
        """Return how long the output for a window may be."""
        return self.template.budget(
            num_passages,
            thinking=self.thinking,
            reasoning_token_budget=self.reasoning_token_budget,
        )


def make_plan(
    request: RerankRequest, templates: Mapping[str, LlmTemplate], generator: GeneratorDescription
) -> LlmPlan:
    """Fill in and check a request's options.

    Raises:
        InvalidRequestError: with every option that does not suit the template.
    """
    options = request.options
    assert isinstance(options, LlmListwiseOptions)
    template = _find(options, templates, generator)
    window_size = options.window_size or template.window_size
    if violations := _violations(request, options, template, window_size):
        raise InvalidRequestError(violations)
    scores = options.first_stage_scores
    return LlmPlan(
        template=template,
        window_size=window_size,
        stride=options.stride or max(window_size // 2, 1),
        num_passes=options.num_passes,
        initial_order=options.initial_order,
        shuffle_seed=options.shuffle_seed,
        max_words=options.max_words_per_document or template.max_words,
        thinking=options.thinking,
        reasoning_token_budget=options.reasoning_token_budget,
        scores=scores or FirstStageScores() if template.has_scores else None,
        allow_degraded=options.allow_degraded,
    )


def _find(
    options: LlmListwiseOptions,
    templates: Mapping[str, LlmTemplate],
    generator: GeneratorDescription,
) -> LlmTemplate:
    name = options.template
    if name is None:
        has_scores = options.first_stage_scores is not None
        name = generator.default_score_template if has_scores else generator.default_template
    if name not in templates:
        raise InvalidRequestError.of(
            "llm_listwise.template",
            f"there is no template {name!r}; there are {', '.join(generator.templates)}",
        )
    return templates[name]


def _violations(
    request: RerankRequest, options: LlmListwiseOptions, template: LlmTemplate, window_size: int
) -> list[FieldViolation]:
    found: dict[str, str] = {}
    if window_size > template.max_window_size:
        found["window_size"] = (
            f"is {window_size}; template {template.name} has identifiers for "
            f"{template.max_window_size}"
        )
    if options.stride is not None and options.stride > window_size:
        found["stride"] = (
            f"is {options.stride}, more than the window of {window_size}: documents between two "
            "windows would never be read"
        )
    if options.first_stage_scores is not None and not template.has_scores:
        found["first_stage_scores"] = f"template {template.name} has no place for scores"
    if options.thinking and not template.can_think:
        found["thinking"] = f"template {template.name} knows no thinking"
    reasons = template.reasons(thinking=options.thinking)
    if options.reasoning_token_budget is not None and not reasons:
        found["reasoning_token_budget"] = f"template {template.name} leaves no room for reasoning"
    violations = [FieldViolation(f"llm_listwise.{name}", text) for name, text in found.items()]
    if request.max_tokens_per_document is not None:
        violations.append(
            FieldViolation(
                "max_tokens_per_document",
                "is for the listwise prompt of E2RANK; see llm_listwise.max_words_per_document",
            )
        )
    return violations
