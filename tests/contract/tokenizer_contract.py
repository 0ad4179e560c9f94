"""What every Tokenizer promises.

Subclass TokenizerContract and give it a fixture `case`; whatever implements the
protocol must then agree, token for token, with the tokenizer.json applied to
whole strings, and with the in-process tokenizer on every text.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from e2rank_server.errors import InvalidRequestError, PromptTooLongError
from e2rank_server.prompting.specification import PromptSpecification
from e2rank_server.tokenizer.in_process import InProcessTokenizer
from e2rank_server.tokenizer.protocol import (
    ListwisePromptInput,
    TokenizedPrompt,
    TokenizedText,
    Tokenizer,
)
from e2rank_server.types import InputType, TextInput

ODD_TEXTS = [
    "",
    " ",
    "\n",
    "plain words",
    "  leading and trailing  ",
    "tab\tand\r\nCRLF\r\n\r\n",
    "e\u0301 \u0301 lone combining mark",
    "\U0001f9d1\u200d\U0001f680 \U0001f1e9\U0001f1ea emoji \U0001f469\U0001f3fd",
    "東京都 ひらがな 한국어 עברית العربية",
    "ﬁ ligature, ① circled, Ⅷ roman, \u212b angstrom",
    "\u0958\ufb1d composition exclusions",
    "zero\u200bwidth \ufeff no-break\u00a0space \u3000 ideographic",
    "{query} {document} {braces} {{}}",
    "[1] brackets [2] > [3]",
    "\x00 \x04 control \x7f",
    "\U0001d518\U0001d52b beyond the BMP \U00050000 \U0010ffff",
    "a" * 300,
    "x" + " " * 50 + "y",
]
WORDS = [
    *("the", "fox", "a", "panda", "query", "12", ",", ".", "\n", "é", "東京", "\U0001f600"),
    *("<", ">", "|", "im_end", "think", "[", "]", "SEP", "/"),
]


@dataclass(frozen=True)
class TokenizerCase:
    """An implementation under test, and what it was made from."""

    tokenizer: Tokenizer
    specification: PromptSpecification
    tokenizer_json: Path

    @cached_property
    def whole(self) -> tokenizers.Tokenizer:
        """The untouched tokenizer, for whole strings."""
        whole = tokenizers.Tokenizer.from_file(str(self.tokenizer_json))
        whole.no_truncation()
        whole.no_padding()
        return whole

    def ids_of_whole(self, text: str) -> list[int]:
        ids: list[int] = self.whole.encode(text, add_special_tokens=False).ids
        return ids

    def document(self, text: str) -> str:
        """The document's prompt as one string, made the plain way."""
        return self.specification.document_template.replace("{document}", self.collapsed(text))

    def query(self, text: str, instruction: str) -> str:
        template = self.specification.query_template.replace("{instruction}", instruction)
        return template.replace("{query}", text)

    def collapsed(self, text: str, *, in_prompt: bool = False) -> str:
        specification = self.specification
        limits = [specification.max_document_words]
        if in_prompt:
            limits.append(specification.max_prompt_document_words)
        words = [limit for limit in limits if limit is not None]
        return " ".join(text.split()[: min(words)]) if words else text

    def listwise(
        self, query: str, documents: Sequence[str], scores: Sequence[str] | None = None
    ) -> str:
        specification = self.specification
        shown = []
        for number, document in enumerate(documents, 1):
            line = specification.listwise_document.replace("{index}", str(number))
            line = line.replace("{document}", self.collapsed(document, in_prompt=True))
            if scores is not None:
                score = specification.listwise_score.replace("{index}", str(number))
                line += score.replace("{score}", scores[number - 1])
            shown.append(line)
        text = specification.listwise_template.replace(
            "{instruction}", specification.listwise_instruction
        )
        text = text.replace("{query}", query)
        # Last, for the documents have braces of their own.
        return text.replace("{documents}", specification.listwise_separator.join(shown))

    def is_known(self, text: str) -> bool:
        """Whether the vocabulary has every character of the text.

        For others, a tokenizer may write a special token, which is not what we want.
        """
        return not self.special_ids(self.ids_of_whole(text))

    def special_ids(self, ids: Sequence[int] | np.ndarray) -> list[int]:
        specials = {self.whole.token_to_id(t) for t in self.specification.special_tokens}
        return [int(token_id) for token_id in ids if int(token_id) in specials]

    def hostile_texts(self) -> list[str]:
        """Texts that contain every added token of the tokenizer, special or not."""
        added = [token.content for token in self.whole.get_added_tokens_decoder().values()]
        return [form for token in added for form in (token, f"a{token}b", f"x {token}\n{token} y")]


def text_of_tokens(count_tokens: int) -> str:
    """A text without white space, of one token more for each more that is asked for."""
    return "!a" * (count_tokens // 2) + "!" * (count_tokens % 2)


def random_texts(number: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    joiners = ["", " ", " ", "  "]
    return [
        "".join(
            word + chance.choice(joiners) for word in chance.choices(WORDS, k=chance.randint(0, 30))
        )
        for _ in range(number)
    ]


class TokenizerContract:
    """Tests for a fixture `case`."""

    num_random_texts = 2000

    @pytest.fixture
    def case(self) -> TokenizerCase:
        raise NotImplementedError

    async def test_documents_have_the_ids_of_the_whole_string(self, case: TokenizerCase) -> None:
        texts = [text for text in ODD_TEXTS if case.is_known(text) and len(text) < 100]
        assert len(texts) > len(ODD_TEXTS) / 2
        tokenized = await tokenize_documents(case, texts)
        for text, result in zip(texts, tokenized, strict=True):
            assert result.token_ids.tolist() == case.ids_of_whole(case.document(text))
            assert result.token_ids.dtype == np.int32
            assert not result.is_truncated

    async def test_a_title_stands_before_its_text(self, case: TokenizerCase) -> None:
        [titled] = await case.tokenizer.tokenize_texts(
            InputType.DOCUMENT, [TextInput("the bear", title="giant panda")]
        )
        joined = f"giant panda{case.specification.title_separator}the bear"
        assert titled.token_ids.tolist() == case.ids_of_whole(case.document(joined))

    async def test_queries_take_the_instruction_of_the_request(self, case: TokenizerCase) -> None:
        own = case.specification.query_instruction
        [default] = await case.tokenizer.tokenize_texts(InputType.QUERY, [TextInput("a panda?")])
        [given] = await case.tokenizer.tokenize_texts(
            InputType.QUERY, [TextInput("a panda?")], "answer the query"
        )
        assert default.token_ids.tolist() == case.ids_of_whole(case.query("a panda?", own))
        assert given.token_ids.tolist() == case.ids_of_whole(
            case.query("a panda?", "answer the query")
        )

    async def test_nothing_to_tokenize_is_nothing(self, case: TokenizerCase) -> None:
        assert await case.tokenizer.tokenize_texts(InputType.DOCUMENT, []) == []

    async def test_special_strings_in_texts_are_characters(self, case: TokenizerCase) -> None:
        texts = case.hostile_texts()
        for input_type in InputType:
            inputs = [TextInput(text) for text in ["plain", *texts]]
            plain, *results = await case.tokenizer.tokenize_texts(input_type, inputs, texts[0])
            expected = case.special_ids(plain.token_ids)
            assert [case.special_ids(r.token_ids) for r in results] == [expected] * len(texts)

    async def test_special_strings_in_a_listwise_prompt_are_characters(
        self, case: TokenizerCase
    ) -> None:
        texts = case.hostile_texts()[:8]
        plain = await tokenize_listwise(case, "plain", ["plain" for _ in texts])
        hostile = await tokenize_listwise(case, texts[0], texts, instruction=texts[1], scores=texts)
        assert case.special_ids(hostile.token_ids) == case.special_ids(plain.token_ids)

    async def test_a_document_of_exactly_the_limit_is_whole(self, case: TokenizerCase) -> None:
        limit = case.specification.max_document_tokens
        room = limit - len(case.ids_of_whole(case.document("!"))) + 1
        exact, over = await tokenize_documents(
            case, [text_of_tokens(room), text_of_tokens(room + 1)]
        )
        assert (len(exact.token_ids), exact.is_truncated) == (limit, False)
        assert (len(over.token_ids), over.is_truncated) == (limit, True)
        assert over.token_ids.tolist() == exact.token_ids.tolist()

    async def test_a_query_of_more_than_the_limit_keeps_its_template(
        self, case: TokenizerCase
    ) -> None:
        limit = case.specification.max_query_tokens
        short, long = await case.tokenizer.tokenize_texts(
            InputType.QUERY, [TextInput("!"), TextInput(text_of_tokens(limit))]
        )
        assert (len(long.token_ids), long.is_truncated) == (limit, True)
        assert case.special_ids(long.token_ids) == case.special_ids(short.token_ids)

    async def test_odd_texts_are_cut_within_the_limit(self, case: TokenizerCase) -> None:
        limit = case.specification.max_document_tokens
        texts = [text * (limit // max(len(text), 1) + 1) * 2 for text in ODD_TEXTS]
        for result in await tokenize_documents(case, texts):
            assert len(result.token_ids) <= limit

    async def test_a_listwise_prompt_has_the_ids_of_the_whole_string(
        self, case: TokenizerCase
    ) -> None:
        documents = [text for text in ODD_TEXTS if case.is_known(text) and len(text) < 40]
        scores = [f"{number}.5" for number in range(len(documents))]
        query = "which e\u0301moji \U0001f600?"
        for chosen in (None, scores):
            result = await tokenize_listwise(case, query, documents, scores=chosen)
            whole = case.listwise(query, documents, chosen)
            assert result.token_ids.tolist() == case.ids_of_whole(whole)
            assert result.token_ids.dtype == np.int32
            assert list(result.truncated) == [False] * len(documents)
            assert not result.is_shrunk

    async def test_the_query_span_holds_the_query_alone(self, case: TokenizerCase) -> None:
        result = await tokenize_listwise(case, "a panda?", ["panda", "bear"])
        start, end = result.query_span
        text = case.whole.decode(result.token_ids[start:end].tolist())
        assert text.replace(" ", "") == "apanda?"

    async def test_a_prompt_of_exactly_the_limit_is_whole(self, case: TokenizerCase) -> None:
        limit = case.specification.max_prompt_tokens
        room = limit - len(case.ids_of_whole(case.listwise("fox", ["!", "b"]))) + 1
        exact = await tokenize_listwise(case, "fox", [text_of_tokens(room), "b"])
        assert (len(exact.token_ids), exact.is_shrunk) == (limit, False)
        assert list(exact.truncated) == [False, False]
        over = await tokenize_listwise(case, "fox", [text_of_tokens(room + 1), "b"])
        assert (len(over.token_ids), over.is_shrunk) == (limit, True)
        assert list(over.truncated) == [True, False]
        assert over.token_ids.tolist() == exact.token_ids.tolist()

    async def test_long_documents_shrink_and_the_query_stays(self, case: TokenizerCase) -> None:
        limit = case.specification.max_prompt_tokens
        query = "what is a panda?"
        documents = [text_of_tokens(limit + number) for number in range(6)]
        result = await tokenize_listwise(case, query, ["!a", *documents])
        assert limit - len(documents) <= len(result.token_ids) <= limit
        assert result.is_shrunk
        assert list(result.truncated) == [False] + [True] * len(documents)
        short = await tokenize_listwise(case, query, ["!a"])
        assert query_ids(result) == query_ids(short)
        assert result.token_ids[-1] == short.token_ids[-1]

    async def test_odd_documents_shrink_within_the_limit(self, case: TokenizerCase) -> None:
        limit = case.specification.max_prompt_tokens
        texts = [text for text in ODD_TEXTS if text.strip()]
        documents = [(text + ".") * (limit // len(text) + 1) for text in texts]
        result = await tokenize_listwise(case, "fox", documents)
        assert len(result.token_ids) <= limit

    async def test_a_request_can_tighten_the_limit_of_each_document(
        self, case: TokenizerCase
    ) -> None:
        documents = [text_of_tokens(4), text_of_tokens(5), "\U0001f600" * 9]
        result = await tokenize_listwise(case, "fox", documents, max_tokens_per_document=4)
        assert list(result.truncated)[:2] == [False, True]
        assert not result.is_shrunk
        same = await tokenize_listwise(case, "fox", [text_of_tokens(4)] * 2)
        cut = await tokenize_listwise(case, "fox", documents[:2], max_tokens_per_document=4)
        assert cut.token_ids.tolist() == same.token_ids.tolist()

    async def test_a_prompt_that_cannot_fit_names_its_numbers(self, case: TokenizerCase) -> None:
        limit = case.specification.max_prompt_tokens
        with pytest.raises(PromptTooLongError) as raised:
            await tokenize_listwise(case, text_of_tokens(limit), ["a", "b", "c"])
        [violation] = raised.value.violations
        assert violation.field == "query"
        for number in (f"{limit} tokens", "3 documents"):
            assert number in violation.description

    async def test_an_instruction_that_leaves_no_room_is_refused(self, case: TokenizerCase) -> None:
        instruction = text_of_tokens(case.specification.max_query_tokens)
        query = [TextInput("fox")]
        if "{instruction}" not in case.specification.query_template:
            [ignored] = await case.tokenizer.tokenize_texts(InputType.QUERY, query, instruction)
            [plain] = await case.tokenizer.tokenize_texts(InputType.QUERY, query)
            assert ignored.token_ids.tolist() == plain.token_ids.tolist()
            return
        with pytest.raises(InvalidRequestError, match="instruction"):
            await case.tokenizer.tokenize_texts(InputType.QUERY, query, instruction)

    async def test_a_listwise_query_without_tokens_is_refused(self, case: TokenizerCase) -> None:
        with pytest.raises(InvalidRequestError, match="query"):
            await tokenize_listwise(case, "", ["a"])

    async def test_ids_are_those_of_the_in_process_tokenizer(self, case: TokenizerCase) -> None:
        texts = random_texts(self.num_random_texts, seed=7)
        async with InProcessTokenizer(case.specification, case.tokenizer_json) as reference:
            expected = replace(case, tokenizer=reference)
            for start in range(0, len(texts), 500):
                chunk = texts[start : start + 500]
                for ours, theirs in zip(
                    await tokenize_documents(case, chunk),
                    await tokenize_documents(expected, chunk),
                    strict=True,
                ):
                    assert ours.token_ids.tolist() == theirs.token_ids.tolist()
                    assert ours.is_truncated == theirs.is_truncated
            for start in range(0, len(texts) // 5, 20):
                chunk = texts[start : start + 20]
                prompt_of = (f"panda {texts[-start - 1]}", chunk)
                here = await tokenize_listwise(case, *prompt_of)
                there = await tokenize_listwise(expected, *prompt_of)
                assert here.token_ids.tolist() == there.token_ids.tolist()
                assert tuple(here.query_span) == tuple(there.query_span)
                assert list(here.truncated) == list(there.truncated)
                assert here.is_shrunk == there.is_shrunk

    async def test_calls_may_overlap(self, case: TokenizerCase) -> None:
        texts = random_texts(40, seed=3)
        together = await asyncio.gather(*(tokenize_documents(case, [text]) for text in texts))
        alone = await tokenize_documents(case, texts)
        assert [one[0].token_ids.tolist() for one in together] == [
            one.token_ids.tolist() for one in alone
        ]

    async def test_a_healthy_tokenizer_says_so(self, case: TokenizerCase) -> None:
        assert await case.tokenizer.check_health() is None  # type: ignore[func-returns-value]


async def tokenize_documents(case: TokenizerCase, texts: Sequence[str]) -> list[TokenizedText]:
    inputs = [TextInput(text) for text in texts]
    return await case.tokenizer.tokenize_texts(InputType.DOCUMENT, inputs)


def query_ids(prompt: TokenizedPrompt) -> list[int]:
    """Return the tokens that came from the query."""
    ids: list[int] = prompt.token_ids[slice(*prompt.query_span)].tolist()
    return ids


async def tokenize_listwise(
    case: TokenizerCase,
    query: str,
    documents: Sequence[str],
    instruction: str | None = None,
    scores: Sequence[str] | None = None,
    max_tokens_per_document: int | None = None,
) -> TokenizedPrompt:
    return await case.tokenizer.tokenize_listwise_prompt(
        ListwisePromptInput(
            query,
            [TextInput(document) for document in documents],
            instruction,
            scores,
            max_tokens_per_document,
        )
    )
