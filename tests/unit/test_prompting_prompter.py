"""What the tokenizer contract does not reach: configuration, and the two steps apart."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2rank_server.errors import ConfigurationError, PromptTooLongError
from e2rank_server.profiles.loading import load_profile
from e2rank_server.prompting.prompt import ListwiseTexts, Prompt, with_title
from e2rank_server.prompting.prompter import Prompter
from e2rank_server.prompting.specification import PromptSpecification
from tests.contract.small_tokenizers import minilm_like, qwen_like

E2RANK = load_profile("e2rank-0.6b").prompts
MINILM = load_profile("all-minilm-l6-v2").prompts


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen_like(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return minilm_like(tmp_path_factory.mktemp("minilm"))


def text_of(prompt: Prompt) -> str:
    return "".join(segment.text for segment in prompt.segments)


def own_text(prompt: Prompt) -> str:
    where = prompt.own_text
    return prompt.segments[where.segment].text[where.start : where.end]


def test_the_own_text_of_a_listwise_prompt_is_its_query(qwen: Path) -> None:
    prompter = Prompter(E2RANK, qwen)
    texts = ListwiseTexts("Search Query: fox", ["Search Query: fox", "b"])
    assert own_text(prompter.assemble_listwise(texts).prompt) == "Search Query: fox"


@pytest.mark.parametrize("limit", [120, 400, 32767])
def test_both_steps_apart_give_what_both_in_one_give(qwen: Path, limit: int) -> None:
    prompter = Prompter(replace(E2RANK, max_prompt_tokens=limit), qwen)
    texts = ListwiseTexts("fox", ["a dog sleeps " * 9, "панда \U0001f43c" * 5, "b"])
    listwise = prompter.assemble_listwise(texts)
    together, tokens = prompter.tokenize_listwise(texts)
    assert together == listwise
    assert listwise.is_shrunk == (limit < 200)
    assert prompter.tokenize([listwise.prompt]) == [tokens]


@settings(max_examples=60, deadline=None)
@given(
    documents=st.lists(st.text(max_size=60), min_size=1, max_size=6),
    limit=st.integers(40, 160),
    is_qwen=st.booleans(),
)
def test_whatever_the_documents_a_prompt_fits_or_is_refused(
    qwen: Path, minilm: Path, documents: list[str], limit: int, is_qwen: bool
) -> None:
    specification, path = (E2RANK, qwen) if is_qwen else (MINILM, minilm)
    prompter = Prompter(replace(specification, max_prompt_tokens=limit), path)
    try:
        listwise, tokens = prompter.tokenize_listwise(ListwiseTexts("fox", documents))
    except PromptTooLongError:
        assert is_qwen  # its template alone is long
        return
    assert len(tokens.token_ids) <= limit
    assert len(listwise.truncated) == len(documents)
    assert listwise.is_shrunk <= any(listwise.truncated)
    # Cutting never leaves half a character.
    assert text_of(listwise.prompt).encode().decode() == text_of(listwise.prompt)


def test_a_documents_copy_is_cut_to_the_tighter_word_limit(minilm: Path) -> None:
    specification = replace(MINILM, max_document_words=5, max_prompt_document_words=3)
    prompter = Prompter(specification, minilm)
    [document] = prompter.render_documents(["a b  c d e f"])
    assert (own_text(document), document.is_truncated) == ("a b c d e", True)
    listwise = prompter.assemble_listwise(ListwiseTexts("fox", ["a b  c d"]))
    assert "fox\na b c[SEP]" in text_of(listwise.prompt)
    assert listwise.truncated == (True,)


def test_the_profiles_own_token_limit_of_a_copy_holds_without_a_request(minilm: Path) -> None:
    prompter = Prompter(replace(MINILM, max_prompt_document_tokens=2), minilm)
    listwise = prompter.assemble_listwise(ListwiseTexts("fox", ["a b a b", "a"]))
    assert text_of(listwise.prompt) == "[CLS]fox\na b\na[SEP]"
    assert listwise.truncated == (True, False)


def test_a_cut_character_is_dropped_whole(qwen: Path) -> None:
    prompter = Prompter(E2RANK, qwen)
    texts = ListwiseTexts("fox", ["ab\U0001f43c\U0001f43c"], max_tokens_per_document=7)
    listwise = prompter.assemble_listwise(texts)
    assert "[1] ab\U0001f43c\nSearch" in text_of(listwise.prompt)


def test_a_title_is_optional() -> None:
    assert with_title("t", "x", ": ") == "t: x"
    assert with_title("", "x", ": ") == "x"
    assert with_title(None, "x", ": ") == "x"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"max_query_tokens": 3}, "query_template alone has"),
        ({"max_document_tokens": 1}, "document_template alone has 1 tokens"),
        ({"query_template": "{nothing}"}, "unknown placeholder"),
        ({"special_tokens": ("<|nonsense|>",)}, "is not one token"),
        # The tokenizer knows <think> although the profile does not say so.
        ({"special_tokens": ("<|endoftext|>",)}, "an added token that special_tokens"),
    ],
)
def test_prompts_that_do_not_suit_are_configuration_errors(
    qwen: Path, change: dict[str, object], problem: str
) -> None:
    specification: PromptSpecification = replace(E2RANK, **change)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=problem):
        Prompter(specification, qwen)


def test_a_missing_tokenizer_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Prompter(E2RANK, tmp_path / "tokenizer.json")
