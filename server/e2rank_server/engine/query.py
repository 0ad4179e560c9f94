"""The short pass: one plain query embedding."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from e2rank_server.embedder.protocol import Embedder, EmbedderPrompt
from e2rank_server.engine.urgency import Urgency, pass_priority
from e2rank_server.profiles.profile import Profile
from e2rank_server.tokenizer.protocol import Tokenizer
from e2rank_server.types import AnswerWarning, FloatArray, InputType, TextInput, WarningCode


@dataclass(frozen=True, slots=True)
class QueryPass:
    """A query's vector (float32 [dimension], L2-normalised) and what it took."""

    vector: FloatArray
    num_tokens: int
    tokenize_seconds: float
    embed_seconds: float
    warnings: Sequence[AnswerWarning]


async def embed_query(
    profile: Profile,
    tokenizer: Tokenizer,
    embedder: Embedder,
    query: str,
    instruction: str | None,
    priority: int,
) -> QueryPass:
    """Embed a query in the profile's query template."""
    started = time.monotonic()
    [text] = await tokenizer.tokenize_texts(InputType.QUERY, [TextInput(query)], instruction)
    tokenized = time.monotonic()
    vectors = await embedder.embed(
        [EmbedderPrompt(text.token_ids)], priority=pass_priority(priority, Urgency.PROMPT)
    )
    warnings = instruction_warnings(profile, profile.prompts.query_template, instruction)
    if text.is_truncated:
        warnings.append(query_truncated_warning(profile))
    return QueryPass(
        vector=vectors[0],
        num_tokens=len(text.token_ids),
        tokenize_seconds=tokenized - started,
        embed_seconds=time.monotonic() - tokenized,
        warnings=warnings,
    )


def instruction_warnings(
    profile: Profile, template: str, instruction: str | None
) -> list[AnswerWarning]:
    """Warn of an instruction for which the template has no place."""
    if instruction is None or "{instruction}" in template:
        return []
    message = f"{profile.name} takes no instruction"
    return [AnswerWarning(WarningCode.INSTRUCTION_IGNORED, message)]


def query_truncated_warning(profile: Profile) -> AnswerWarning:
    """Say that a query was cut at the model's limit."""
    limit = profile.prompts.max_query_tokens
    return AnswerWarning(
        WarningCode.QUERY_TRUNCATED,
        f"the query was cut to {profile.name}'s limit of {limit} tokens",
    )
