"""The three published prompt forms, byte by byte, and what stands beside them."""

import json
from pathlib import Path
from typing import Any

import pytest

from e2rank_server.profiles.loading import load_profile
from e2rank_server.prompting.prompt import ListwiseTexts, Prompt
from e2rank_server.prompting.prompter import Prompter
from tests.contract.small_tokenizers import qwen_like

GOLDEN = Path(__file__).parent.parent / "golden" / "prompts" / "e2rank.json"
PROFILES = ["e2rank-0.6b", "e2rank-4b", "e2rank-8b"]


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen_like(tmp_path_factory.mktemp("qwen"))


def text_of(prompt: Prompt) -> str:
    return "".join(segment.text for segment in prompt.segments)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("form", ["eval", "readme", "train"])
def test_the_listwise_prompt_is_the_published_one(
    profile: str, form: str, golden: dict[str, Any], tokenizer_json: Path
) -> None:
    prompter = Prompter(load_profile(profile, form).prompts, tokenizer_json)
    texts = ListwiseTexts(golden["query"], golden["documents"])
    listwise = prompter.assemble_listwise(texts)
    assert text_of(listwise.prompt).encode() == golden["listwise"][form].encode()
    specials = [segment for segment in listwise.prompt.segments if segment.is_special]
    assert len(specials) == golden["special_tokens"][form]


@pytest.mark.parametrize("profile", [*PROFILES, "qwen3-embedding-0.6b", "smollm2-135m"])
def test_queries_and_documents_stand_as_published(
    profile: str, golden: dict[str, Any], tokenizer_json: Path
) -> None:
    prompter = Prompter(load_profile(profile).prompts, tokenizer_json)
    [query] = prompter.render_queries([golden["query"]])
    documents = prompter.render_documents(golden["documents"])
    assert text_of(query) == golden["embedding"]["query"]
    assert [text_of(document) for document in documents] == golden["embedding"]["documents"]


def test_the_evaluation_form_is_the_default_and_ends_without_an_end_token(
    golden: dict[str, Any], tokenizer_json: Path
) -> None:
    profile = load_profile("e2rank-0.6b")
    assert profile.template_version == "eval/1"
    prompter = Prompter(profile.prompts, tokenizer_json)
    prompt = prompter.assemble_listwise(ListwiseTexts(golden["query"], golden["documents"]))
    assert prompt.prompt.segments[-1].text == "\n\n"


def test_documents_are_cut_to_1024_words_with_single_spaces(tokenizer_json: Path) -> None:
    prompter = Prompter(load_profile("e2rank-0.6b").prompts, tokenizer_json)
    words = [f"w{number}" for number in range(1025)]
    exact, long = prompter.render_documents([" \n".join(words[:1024]), "\t".join(words)])
    expected = " ".join(words[:1024]) + "<|endoftext|>"
    assert (text_of(exact), exact.is_truncated) == (expected, False)
    assert (text_of(long), long.is_truncated) == (expected, True)
    listwise = prompter.assemble_listwise(ListwiseTexts("fox", ["a  b", "\t".join(words)]))
    assert listwise.truncated == (False, True)
    assert not listwise.is_shrunk
    assert "[1] a b\n[2] w0 w1" in text_of(listwise.prompt)
