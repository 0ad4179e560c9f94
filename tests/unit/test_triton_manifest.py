"""The manifest of profiles, which the gateway writes and Triton's models read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from e2rank_server.errors import ConfigurationError
from e2rank_server.prompting.specification import PromptSpecification
from e2rank_server.tokenizer.triton.manifest import (
    MANIFEST_VARIABLE,
    TritonProfile,
    read_manifest,
    write_manifest,
)

PROMPTS = PromptSpecification(
    special_tokens=("[CLS]", "[SEP]"),
    query_template="[CLS]{query}[SEP]",
    document_template="[CLS]{document}[SEP]",
    title_separator=" ",
    query_instruction="",
    listwise_template="[CLS]{documents}\n{query}[SEP]",
    listwise_document="{document}",
    listwise_score=" ({score})",
    listwise_separator="\n",
    listwise_instruction="",
    max_query_tokens=32,
    max_document_tokens=32,
    max_prompt_tokens=64,
)


@pytest.fixture
def profile(tmp_path: Path) -> TritonProfile:
    tokenizer_json = tmp_path / "tokenizer.json"
    tokenizer_json.write_text("{}")
    return TritonProfile("small", PROMPTS, tokenizer_json)


def test_what_is_written_is_read_again(tmp_path: Path, profile: TritonProfile) -> None:
    path = tmp_path / "manifest.json"
    profiles = [profile, replace(profile, name="naïve/\U0001f680")]

    write_manifest(path, profiles)

    assert read_manifest({MANIFEST_VARIABLE: str(path)}) == profiles


def test_a_relative_tokenizer_path_starts_beside_the_manifest(
    tmp_path: Path, profile: TritonProfile
) -> None:
    entry = {"prompts": json.loads(PROMPTS.to_json()), "tokenizer": "tokenizer.json"}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"small": entry}))

    assert read_manifest({MANIFEST_VARIABLE: str(path)}) == [profile]


def test_without_the_variable_there_is_no_manifest() -> None:
    with pytest.raises(ConfigurationError, match="E2RANK_TRITON_MANIFEST names no manifest"):
        read_manifest({})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"small": {}}',
        '{"small": []}',
        '{"small": {"prompts": {}, "tokenizer": "t"}}',
        '{"small": {"prompts": {"special_tokens": [], "surprise": 1}, "tokenizer": "t"}}',
    ],
)
def test_a_file_that_is_no_manifest_is_refused_by_its_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(content)

    with pytest.raises(ConfigurationError, match=r"manifest\.json: (not a manifest|names no)"):
        read_manifest({MANIFEST_VARIABLE: str(path)})


def test_a_missing_file_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.json: not a manifest"):
        read_manifest({MANIFEST_VARIABLE: str(tmp_path / "absent.json")})


def test_the_key_changes_with_all_that_decides_the_ids(
    tmp_path: Path, profile: TritonProfile
) -> None:
    other_tokenizer = tmp_path / "other.json"
    other_tokenizer.write_text('{"model": 1}')
    variants = [
        profile,
        replace(profile, name="other"),
        replace(profile, prompts=replace(PROMPTS, max_query_tokens=31)),
        replace(profile, tokenizer_json=other_tokenizer),
    ]

    assert len({variant.key for variant in variants}) == len(variants)


def test_the_key_is_the_same_wherever_the_tokenizer_lies(
    tmp_path: Path, profile: TritonProfile
) -> None:
    copy = tmp_path / "copy.json"
    copy.write_bytes(profile.tokenizer_json.read_bytes())

    assert replace(profile, tokenizer_json=copy).key == profile.key
