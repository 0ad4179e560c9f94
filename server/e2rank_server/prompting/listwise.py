"""Listwise prompts: composed, and their documents cut until the whole fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

from e2rank_server.errors import FieldViolation, InvalidRequestError, PromptTooLongError
from e2rank_server.prompting.budget import (
    Offsets,
    cut_position,
    cut_words,
    overlapping,
    water_level,
)
from e2rank_server.prompting.prompt import ListwisePrompt, ListwiseTexts, Prompt
from e2rank_server.prompting.segments import SegmentTokenizer, TokenizedSegments
from e2rank_server.prompting.specification import PromptSpecification
from e2rank_server.prompting.template import (
    Filling,
    PromptTemplates,
    Segment,
    SegmentWriter,
    TextRange,
)


@dataclass(frozen=True, slots=True)
class Composition:
    """A filled listwise template, and where its texts stand."""

    segments: tuple[Segment, ...]
    query: TextRange
    documents: list[TextRange]


class _Measurement:
    """A tokenized composition: how many tokens each of its parts has."""

    def __init__(self, composition: Composition, tokens: TokenizedSegments) -> None:
        self.tokens = tokens
        self.total = len(tokens.token_ids)
        spans = [tokens.span(document) for document in composition.documents]
        self.documents = [end - start for start, end in spans]
        start, end = tokens.span(composition.query)
        self.query = end - start
        self.template = self.total - self.query - sum(self.documents)


class ListwiseComposer:
    """Fills the listwise templates; `instruction` stands where a request has none."""

    def __init__(self, templates: PromptTemplates, instruction: str) -> None:
        self._templates = templates
        self._instruction = instruction

    def compose(self, texts: ListwiseTexts) -> Composition:
        """Fill the templates with the texts as they are."""
        templates = self._templates
        writer = SegmentWriter()
        documents: list[TextRange] = []

        def write_documents(writer: SegmentWriter) -> None:
            for index, document in enumerate(texts.documents):
                if index:
                    templates.listwise_separator.write(writer, {})
                fillings: dict[str, Filling] = {"index": str(index + 1), "document": document}
                ranges = templates.listwise_document.write(writer, fillings)
                documents.append(ranges["document"])
                if texts.scores is not None:
                    fillings["score"] = texts.scores[index]
                    templates.listwise_score.write(writer, fillings)

        instruction = self._instruction if texts.instruction is None else texts.instruction
        ranges = templates.listwise.write(
            writer,
            {"documents": write_documents, "query": texts.query, "instruction": instruction},
        )
        return Composition(writer.segments(), ranges["query"], documents)


class ListwiseFitter:
    """Cuts documents until their listwise prompt fits, and nothing else ever.

    First each document to its own limits of words and tokens, then the longest
    ones to a common level of tokens.
    """

    def __init__(
        self,
        specification: PromptSpecification,
        composer: ListwiseComposer,
        tokenizer: SegmentTokenizer,
    ) -> None:
        self._specification = specification
        self._composer = composer
        self._tokenizer = tokenizer

    def assemble(self, texts: ListwiseTexts) -> ListwisePrompt:
        """Return the prompt that fits, not even measured if it is surely short enough.

        Raises PromptTooLongError if one token of each document is too much, and
        InvalidRequestError if the query has no tokens at all.
        """
        limited, truncated = self._cut_each(texts)
        composition = self._composer.compose(limited)
        if self._surely_fits(composition):
            [query] = self._tokenizer.encode_texts([texts.query])
            if not query.ids:
                raise _unknown_query()
            return _result(composition, truncated, is_shrunk=False)
        prompt, _ = self._measure_and_shrink(limited, truncated, composition)
        return prompt

    def fit(self, texts: ListwiseTexts) -> tuple[ListwisePrompt, TokenizedSegments]:
        """Do what `assemble` does, and return the tokens, too, which measuring has made."""
        limited, truncated = self._cut_each(texts)
        return self._measure_and_shrink(limited, truncated, self._composer.compose(limited))

    def _measure_and_shrink(
        self, texts: ListwiseTexts, truncated: Sequence[bool], composition: Composition
    ) -> tuple[ListwisePrompt, TokenizedSegments]:
        measurement = self._measure(composition)
        if measurement.query == 0:
            raise _unknown_query()
        if measurement.total <= self._specification.max_prompt_tokens:
            return _result(composition, truncated, is_shrunk=False), measurement.tokens
        shrunk, tokens = self._shrink(texts, composition, measurement)
        lengths = [where.end - where.start for where in shrunk.documents]
        truncated = [
            was_cut or length < len(document)
            for was_cut, length, document in zip(truncated, lengths, texts.documents, strict=True)
        ]
        return _result(shrunk, truncated, is_shrunk=True), tokens

    def _cut_each(self, texts: ListwiseTexts) -> tuple[ListwiseTexts, list[bool]]:
        specification = self._specification
        max_words = _smallest(
            specification.max_document_words, specification.max_prompt_document_words
        )
        max_tokens = _smallest(
            specification.max_prompt_document_tokens, texts.max_tokens_per_document
        )
        cut = [cut_words(document, max_words) for document in texts.documents]
        documents = [document for document, _ in cut]
        truncated = [was_cut for _, was_cut in cut]
        if max_tokens is not None:
            doubtful = [i for i, text in enumerate(documents) if self._may_exceed(text, max_tokens)]
            encodings = self._tokenizer.encode_texts([documents[i] for i in doubtful])
            for index, encoding in zip(doubtful, encodings, strict=True):
                if len(encoding.ids) > max_tokens:
                    documents[index] = _cut_tokens(documents[index], encoding.offsets, max_tokens)
                    truncated[index] = True
        return replace(texts, documents=documents), truncated

    def _may_exceed(self, text: str, max_tokens: int) -> bool:
        bound = self._tokenizer.max_tokens(text)
        return bound is None or bound > max_tokens

    def _surely_fits(self, composition: Composition) -> bool:
        texts = [segment.text for segment in composition.segments if not segment.is_special]
        specials = len(composition.segments) - len(texts)
        return not self._may_exceed(
            "".join(texts), self._specification.max_prompt_tokens - specials
        )

    def _measure(self, composition: Composition) -> _Measurement:
        [tokens] = self._tokenizer.tokenize([composition.segments])
        return _Measurement(composition, tokens)

    def _shrink(
        self, texts: ListwiseTexts, composition: Composition, measurement: _Measurement
    ) -> tuple[Composition, TokenizedSegments]:
        limit = self._specification.max_prompt_tokens
        available = limit - measurement.query - measurement.template
        for attempt in count():
            level = water_level(measurement.documents, available)
            if level < 1:
                raise _too_long(measurement, limit)
            shorter = [
                _cut_in_place(text, where, measurement.tokens, level)
                for text, where in zip(texts.documents, composition.documents, strict=True)
            ]
            shrunk = self._composer.compose(replace(texts, documents=shorter))
            measured = self._measure(shrunk)
            if measured.total <= limit:
                return shrunk, measured.tokens
            # Tokens at a cut may join or part differently. Doubling bounds the
            # number of attempts, each of which tokenizes everything.
            available -= (measured.total - limit) << attempt
        raise AssertionError("count() does not end")


def _cut_in_place(text: str, where: TextRange, tokens: TokenizedSegments, keep: int) -> str:
    offsets = tokens.offsets(where.segment)
    first, last = overlapping(offsets, where.start, where.end)
    if last - first <= keep:
        return text
    own = [(start - where.start, end - where.start) for start, end in offsets[first:last]]
    return _cut_tokens(text, own, keep)


def _cut_tokens(text: str, offsets: Offsets, keep: int) -> str:
    # Never to nothing: a first character of several tokens stays whole.
    return text[: max(cut_position(offsets, keep), 1)]


def _result(
    composition: Composition, truncated: Sequence[bool], *, is_shrunk: bool
) -> ListwisePrompt:
    prompt = Prompt(composition.segments, composition.query, max_tokens=None)
    return ListwisePrompt(prompt, tuple(truncated), is_shrunk)


def _smallest(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _unknown_query() -> InvalidRequestError:
    return InvalidRequestError.of("query", "the model's tokenizer knows no character of it")


def _too_long(measurement: _Measurement, limit: int) -> PromptTooLongError:
    number = len(measurement.documents)
    description = (
        f"the query's {measurement.query} tokens, the template's {measurement.template} and at "
        f"least 1 for each of {number} documents do not fit into the prompt's {limit} tokens"
    )
    return PromptTooLongError([FieldViolation("query", description)])
