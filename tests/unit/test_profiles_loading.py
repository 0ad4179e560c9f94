from importlib import resources
from pathlib import Path

import pytest

from e2rank_server.errors import ConfigurationError
from e2rank_server.profiles.loading import load_profile, shipped_profiles
from e2rank_server.profiles.profile import ModelSource, Pooling, SourceKind
from e2rank_server.types import Method, PromptOrder

MINILM = (resources.files("e2rank_server.profiles") / "all-minilm-l6-v2.toml").read_text()


def problems_of(text: str, tmp_path: Path, template: str | None = None) -> list[str]:
    """Load a profile and return what is wrong, without the path that stands before it."""
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        load_profile(str(path), template)
    prefix = f"profile {path}: "
    assert all(problem.startswith(prefix) for problem in raised.value.problems)
    return [problem.removeprefix(prefix) for problem in raised.value.problems]


def test_six_profiles_are_shipped_under_their_own_names() -> None:
    assert shipped_profiles() == [
        "all-minilm-l6-v2",
        "e2rank-0.6b",
        "e2rank-4b",
        "e2rank-8b",
        "qwen3-embedding-0.6b",
        "smollm2-135m",
    ]
    assert [load_profile(name).name for name in shipped_profiles()] == shipped_profiles()


@pytest.mark.parametrize(("size", "dimension"), [("0.6B", 1024), ("4B", 2560), ("8B", 4096)])
def test_e2rank_profiles_hold_what_the_paper_says(size: str, dimension: int) -> None:
    profile = load_profile(f"e2rank-{size.lower()}")
    location = f"Alibaba-NLP/E2Rank-{size}"
    assert profile.source == ModelSource(SourceKind.HUB, location, revision="main")
    assert profile.dimension == dimension
    assert profile.pooling is profile.listwise_pooling is Pooling.LAST
    assert profile.trained_for_listwise
    assert profile.default_method is Method.E2RANK
    assert profile.prompt_order is PromptOrder.FIRST_STAGE
    assert profile.prompt_documents == 20
    assert profile.prompts.max_document_words == 1024


def test_a_profile_not_trained_for_listwise_prompts_ranks_by_cosine() -> None:
    for name in ("all-minilm-l6-v2", "qwen3-embedding-0.6b", "smollm2-135m"):
        profile = load_profile(name)
        assert not profile.trained_for_listwise
        assert profile.default_method is Method.COSINE


def test_another_listwise_template_can_be_chosen() -> None:
    default = load_profile("e2rank-0.6b")
    readme = load_profile("e2rank-0.6b", "readme")
    assert (default.template_version, readme.template_version) == ("eval/1", "readme/1")
    assert readme.prompts.listwise_document == "[{index}] {document}<|endoftext|>"
    assert readme.prompts.document_template == default.prompts.document_template


def test_a_copy_with_one_line_changed_pools_all_tokens(tmp_path: Path) -> None:
    path = tmp_path / "mean.toml"
    path.write_text(MINILM.replace('pooling = "QUERY_TOKENS"', 'pooling = "MEAN"'))
    assert load_profile(str(path)).listwise_pooling is Pooling.MEAN


@pytest.mark.parametrize("name", ["nonsense", "../profiles/e2rank-4b", "", "E2RANK-4B"])
def test_an_unknown_name_lists_the_shipped_ones(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"all-minilm-l6-v2, e2rank-0\.6b"):
        load_profile(name)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        load_profile(str(tmp_path / "none.toml"))


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe"])
def test_a_file_that_is_not_toml_is_reported(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="is not TOML"):
        load_profile(str(path))


def test_everything_wrong_is_reported_together(tmp_path: Path) -> None:
    text = (
        MINILM.replace('name = "all-minilm-l6-v2"', "nmae = 3")
        .replace("dimension = 384", "dimension = true")
        .replace("max_model_tokens = 512", "max_model_tokens = 0")
        .replace('default_method = "COSINE"', 'default_method = "cosine"')
        .replace('special_tokens = ["[CLS]", "[SEP]"]', "special_tokens = [1]")
        .replace('kind = "package"', 'kind = "package"\ncommit = "1"')
        .replace('separator = "\\n"\n', "")
    )
    assert sorted(problems_of(text, tmp_path)) == [
        "default_method: 'cosine' is none of E2RANK, COSINE, VECTOR_PRF",
        "dimension: True is not a positive integer",
        "listwise.templates.query-first.separator: missing; expected a string",
        "max_model_tokens: 0 is not a positive integer",
        "name: missing; expected a string",
        "nmae: unknown key",
        "source.commit: unknown key",
        "special_tokens: must be a list of non-empty strings",
    ]


def test_an_empty_file_misses_everything_required(tmp_path: Path) -> None:
    problems = problems_of("", tmp_path)
    for key in ("name", "version", "source", "query", "document", "listwise", "special_tokens"):
        assert any(problem.startswith(f"{key}: missing") for problem in problems)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            'pooling = "MEAN"',
            'pooling = "LAST"',
            "listwise.pooling: QUERY_TOKENS is for encoders, whose pooling is MEAN, not LAST",
        ),
        (
            'pooling = "MEAN"',
            'pooling = "QUERY_TOKENS"',
            "pooling: QUERY_TOKENS is for listwise prompts only",
        ),
        (
            'pooling = "QUERY_TOKENS"',
            'pooling = "LAST"',
            "listwise.pooling: LAST differs from the model's own pooling, MEAN; "
            "only QUERY_TOKENS may",
        ),
        (
            "max_tokens = 512",
            "max_tokens = 513",
            "listwise.max_tokens: 513 is more than max_model_tokens, 512",
        ),
        (
            "prompt_documents = 5",
            "prompt_documents = 21",
            "listwise.prompt_documents: 21 is more than max_prompt_documents, 20",
        ),
        ('file = "model"\n', "", "source.file: missing; a package source needs it"),
        (
            'template = "query-first"',
            'template = "fancy"',
            "listwise.template: 'fancy' is no template of it; it has query-first",
        ),
        (
            "[CLS]{query}[SEP]",
            "[CLS]{text}[SEP]",
            "query_template: unknown placeholder {text}",
        ),
    ],
)
def test_the_impossible_is_refused(old: str, new: str, problem: str, tmp_path: Path) -> None:
    assert MINILM.count(old) == 1
    assert problem in problems_of(MINILM.replace(old, new), tmp_path)


def test_an_unknown_listwise_template_names_those_there_are(tmp_path: Path) -> None:
    [problem] = problems_of(MINILM, tmp_path, template="eval")
    assert problem == "listwise.template: 'eval' is no template of it; it has query-first"
