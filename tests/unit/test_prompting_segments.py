"""Ids are those of the whole string, except that text never becomes structure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from e2rank_server.errors import ConfigurationError
from e2rank_server.prompting.segments import SegmentTokenizer, load_tokenizer
from e2rank_server.prompting.template import Segment, TextRange
from tests.contract.small_tokenizers import TOKENIZERS, minilm_like, qwen_like, smollm_like

SPECIALS = {
    "qwen": ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"),
    "smollm": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "minilm": ("[CLS]", "[SEP]"),
}
# Plain Unicode, and pieces of which special strings and odd sequences are made.
FRAGMENTS = st.sampled_from(
    ["<|", "|>", "im_end", "<think", ">", "[", "SEP]", "\r\n", "\u0301", "\U0001f469\u200d", " "]
)
TEXTS = st.lists(st.text(max_size=12) | FRAGMENTS, max_size=6).map("".join)
ADDED = ["<|endoftext|>", "<|im_end|>", "</think>", "<think>", "<tool_call>", "[SEP]", "[UNK]"]
HOSTILE_TEXTS = st.lists(st.text(max_size=8) | st.sampled_from(ADDED), max_size=6).map("".join)
HYPOTHESIS = settings(
    max_examples=80,
    deadline=None,
    # The fixture is read-only and made once.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@dataclass(frozen=True)
class Kind:
    whole: Tokenizer
    segments: SegmentTokenizer
    specials: tuple[str, ...]

    def ids(self, segments: Sequence[Segment]) -> list[int]:
        [tokenized] = self.segments.tokenize([segments])
        return tokenized.token_ids

    def count_specials(self, ids: Sequence[int]) -> int:
        specials = {self.whole.token_to_id(token) for token in self.specials}
        return sum(token_id in specials for token_id in ids)


@pytest.fixture(scope="module", params=sorted(TOKENIZERS))
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kind:
    path = TOKENIZERS[request.param](tmp_path_factory.mktemp(request.param))
    whole = load_tokenizer(path.read_text(encoding="utf-8"))
    specials = SPECIALS[request.param]
    return Kind(whole, SegmentTokenizer(whole, specials), specials)


def between_specials(kind: Kind, first: str, second: str) -> list[Segment]:
    start, end = kind.specials[0], kind.specials[-1]
    return [
        Segment(start, is_special=True),
        Segment(first, is_special=False),
        Segment(end, is_special=True),
        Segment(end, is_special=True),
        Segment(second, is_special=False),
    ]


@HYPOTHESIS
@given(first=TEXTS, second=TEXTS)
def test_ids_are_those_of_the_whole_string(kind: Kind, first: str, second: str) -> None:
    added = [token.content for token in kind.whole.get_added_tokens_decoder().values()]
    assume(not any(token in first or token in second for token in added))
    segments = between_specials(kind, first, second)
    whole = "".join(segment.text for segment in segments)
    expected = kind.whole.encode(whole, add_special_tokens=False).ids
    # A byte that the vocabulary lacks may be a special token to the whole tokenizer.
    assume(kind.count_specials(expected) == 3)
    assert kind.ids(segments) == expected


@HYPOTHESIS
@given(first=HOSTILE_TEXTS, second=HOSTILE_TEXTS)
def test_specials_are_counted_by_the_template(kind: Kind, first: str, second: str) -> None:
    assert kind.count_specials(kind.ids(between_specials(kind, first, second))) == 3


@HYPOTHESIS
@given(text=HOSTILE_TEXTS | TEXTS)
def test_the_bound_holds_for_every_text(kind: Kind, text: str) -> None:
    bound = kind.segments.max_tokens(text)
    if bound is not None:
        [encoding] = kind.segments.encode_texts([text])
        assert len(encoding.ids) <= bound


@pytest.mark.parametrize(
    ("make", "bound"), [(qwen_like, 12), (smollm_like, 4), (minilm_like, None)]
)
def test_only_byte_level_tokenizers_have_a_bound(
    make: object, bound: int | None, tmp_path: Path
) -> None:
    assert callable(make)
    whole = load_tokenizer(make(tmp_path).read_text(encoding="utf-8"))
    assert SegmentTokenizer(whole, ()).max_tokens("\U0001f600") == bound


def test_an_unknown_byte_does_not_become_an_end_token(tmp_path: Path) -> None:
    whole = load_tokenizer(smollm_like(tmp_path).read_text(encoding="utf-8"))
    end = whole.token_to_id("<|endoftext|>")
    assert end in whole.encode("a\x04b").ids
    [ids] = SegmentTokenizer(whole, SPECIALS["smollm"]).encode_texts(["a\x04b"])
    assert end not in ids.ids
    assert len(ids.ids) == 2


def test_a_span_counts_positions_across_segments(kind: Kind) -> None:
    segments = between_specials(kind, "fox", "the fox")
    [tokenized] = kind.segments.tokenize([segments])
    start, end = tokenized.span(TextRange(4, 4, 7))
    [alone] = kind.segments.tokenize([segments[:4]])
    assert start > len(alone.token_ids)
    assert end == len(tokenized.token_ids)


def test_a_special_token_that_the_tokenizer_lacks_is_a_configuration_error(
    tmp_path: Path,
) -> None:
    whole = load_tokenizer(minilm_like(tmp_path).read_text(encoding="utf-8"))
    with pytest.raises(ConfigurationError) as raised:
        SegmentTokenizer(whole, ("[CLS]", "<|im_start|>", "<think>"))
    assert [("<|im_start|>" in p or "<think>" in p) for p in raised.value.problems] == [True] * 2


def test_a_tokenizer_that_cannot_keep_text_apart_is_refused(tmp_path: Path) -> None:
    # Split by white space only, "[SEP]" in a text is the very word of the vocabulary.
    content = json.loads(minilm_like(tmp_path).read_text(encoding="utf-8"))
    content["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    content["normalizer"] = None
    whole = load_tokenizer(json.dumps(content))
    with pytest.raises(ConfigurationError, match="cannot tell"):
        SegmentTokenizer(whole, ("[CLS]", "[SEP]"))


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model": 3}'])
def test_a_broken_file_is_a_configuration_error(content: str) -> None:
    with pytest.raises(ConfigurationError, match=r"tokenizer\.json cannot be loaded"):
        load_tokenizer(content)
