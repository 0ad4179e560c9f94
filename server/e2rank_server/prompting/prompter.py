"""The prompter: one specification's prompts, from texts to token ids.

In two steps, because Triton's ensembles run them as two models: render (or
assemble) texts into a Prompt, then tokenize it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from e2rank_server.errors import ConfigurationError, InvalidRequestError
from e2rank_server.prompting.budget import cut_position, cut_words, overlapping
from e2rank_server.prompting.listwise import ListwiseComposer, ListwiseFitter
from e2rank_server.prompting.prompt import ListwisePrompt, ListwiseTexts, Prompt, PromptTokens
from e2rank_server.prompting.segments import (
    SegmentTokenizer,
    TokenizedSegments,
    load_tokenizer,
    probe_texts,
)
from e2rank_server.prompting.specification import PromptSpecification
from e2rank_server.prompting.template import PromptTemplates, Segment, SegmentWriter


class Prompter:
    """Renders, fits and tokenizes the prompts of one specification.

    Its methods may run in several threads at once. Raises ConfigurationError
    when the templates are wrong, do not suit the tokenizer, or leave no room
    for a text.
    """

    def __init__(self, specification: PromptSpecification, tokenizer_json: Path) -> None:
        self._specification = specification
        self._templates = PromptTemplates.parse(specification)
        try:
            content = tokenizer_json.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError([f"{tokenizer_json} cannot be read: {error}"]) from error
        whole = load_tokenizer(content)
        self._tokenizer = SegmentTokenizer(whole, specification.special_tokens)
        self._composer = ListwiseComposer(self._templates, specification.listwise_instruction)
        self._fitter = ListwiseFitter(specification, self._composer, self._tokenizer)
        self._tokenizer.check_agrees(whole, self._probes())
        self._check_room()

    def render_queries(
        self, queries: Sequence[str], instruction: str | None = None
    ) -> list[Prompt]:
        """Fill the query template; `instruction` None means the profile's own.

        Raises InvalidRequestError if the instruction leaves no room for a query.
        """
        if instruction is None or "instruction" not in self._templates.query.placeholders:
            instruction = self._specification.query_instruction
        else:
            self._check_instruction(instruction)
        return [self._render_query(query, instruction) for query in queries]

    def render_documents(self, documents: Sequence[str]) -> list[Prompt]:
        """Fill the document template; titles are joined already (`with_title`)."""
        max_words = self._specification.max_document_words
        max_tokens = self._specification.max_document_tokens
        prompts = []
        for document in documents:
            text, is_truncated = cut_words(document, max_words)
            writer = SegmentWriter()
            ranges = self._templates.document.write(writer, {"document": text})
            prompts.append(Prompt(writer.segments(), ranges["document"], max_tokens, is_truncated))
        return prompts

    def assemble_listwise(self, texts: ListwiseTexts) -> ListwisePrompt:
        """Fill the listwise templates and cut documents until the whole fits.

        Raises PromptTooLongError if it cannot, and InvalidRequestError if the
        query has no tokens.
        """
        return self._fitter.assemble(texts)

    def tokenize(self, prompts: Sequence[Prompt]) -> list[PromptTokens]:
        """Tokenize prompts, in order, cutting the own text of those over their limit."""
        tokenized = self._tokenizer.tokenize([prompt.segments for prompt in prompts])
        results: dict[int, PromptTokens] = {}
        pending = dict(enumerate(zip(prompts, tokenized, strict=True)))
        attempt = 0
        while True:
            shorter: dict[int, Prompt] = {}
            for index, (prompt, tokens) in pending.items():
                excess = len(tokens.token_ids) - (prompt.max_tokens or len(tokens.token_ids))
                if excess <= 0:
                    results[index] = _prompt_tokens(prompt, tokens)
                else:
                    shorter[index] = _shorten(prompt, tokens, excess << attempt)
            if not shorter:
                break
            tokenized = self._tokenizer.tokenize([prompt.segments for prompt in shorter.values()])
            pending = dict(zip(shorter, zip(shorter.values(), tokenized, strict=True), strict=True))
            attempt += 1
        return [results[index] for index in range(len(prompts))]

    def tokenize_listwise(self, texts: ListwiseTexts) -> tuple[ListwisePrompt, PromptTokens]:
        """Assemble and tokenize in one go: `tokenize` of `assemble_listwise`, but cheaper."""
        prompt, tokens = self._fitter.fit(texts)
        return prompt, _prompt_tokens(prompt.prompt, tokens)

    def _render_query(self, query: str, instruction: str) -> Prompt:
        writer = SegmentWriter()
        ranges = self._templates.query.write(writer, {"query": query, "instruction": instruction})
        return Prompt(writer.segments(), ranges["query"], self._specification.max_query_tokens)

    def _count(self, prompt: Prompt) -> int:
        [tokens] = self._tokenizer.tokenize([prompt.segments])
        return len(tokens.token_ids)

    def _check_instruction(self, instruction: str) -> None:
        limit = self._specification.max_query_tokens
        if (number := self._count(self._render_query("", instruction))) >= limit:
            raise InvalidRequestError.of(
                "instruction",
                f"with its template it has {number} tokens, which leaves no room for a query "
                f"within {limit}",
            )

    def _probes(self) -> list[tuple[Segment, ...]]:
        texts = probe_texts()
        listwise = ListwiseTexts(texts[0], texts, scores=[str(len(text)) for text in texts])
        prompts = [*self.render_queries(texts), *self.render_documents(texts)]
        return [
            *(prompt.segments for prompt in prompts),
            self._composer.compose(listwise).segments,
        ]

    def _check_room(self) -> None:
        [query] = self.render_queries([""])
        [document] = self.render_documents([""])
        problems = [
            f"{name}_template alone has {number} tokens; max_{name}_tokens is {prompt.max_tokens}"
            for name, prompt in (("query", query), ("document", document))
            if (number := self._count(prompt)) >= (prompt.max_tokens or 0)
        ]
        if problems:
            raise ConfigurationError(problems)


def _prompt_tokens(prompt: Prompt, tokens: TokenizedSegments) -> PromptTokens:
    return PromptTokens(tokens.token_ids, tokens.span(prompt.own_text), prompt.is_truncated)


def _shorten(prompt: Prompt, tokens: TokenizedSegments, excess: int) -> Prompt:
    """Cut so many tokens off the end of a prompt's own text."""
    where = prompt.own_text
    if where.start == where.end:
        raise ValueError("a prompt without its own text is longer than its max_tokens")
    offsets = tokens.offsets(where.segment)
    first, last = overlapping(offsets, where.start, where.end)
    keep = last - first - excess
    end = max(cut_position(offsets, first + keep), where.start) if keep > 0 else where.start
    text = prompt.segments[where.segment].text
    segments = list(prompt.segments)
    segments[where.segment] = Segment(text[:end] + text[where.end :], is_special=False)
    return replace(
        prompt,
        segments=tuple(segments),
        own_text=replace(where, end=end),
        is_truncated=True,
    )
