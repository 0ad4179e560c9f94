import string
from dataclasses import replace

import pytest

from e2rank_server.profiles.fingerprint import document_fingerprint
from e2rank_server.profiles.loading import load_profile, shipped_profiles
from e2rank_server.profiles.profile import Pooling, Profile
from e2rank_server.types import Method, PromptOrder

PROFILE = load_profile("e2rank-0.6b")
FINGERPRINT = document_fingerprint(PROFILE, "revision", b"tokenizer")


def with_prompts(**changes: object) -> Profile:
    return replace(PROFILE, prompts=replace(PROFILE.prompts, **changes))  # type: ignore[arg-type]


def test_it_is_128_bits_in_hexadecimal_and_repeatable() -> None:
    assert len(FINGERPRINT) == 32
    assert set(FINGERPRINT) <= set(string.hexdigits.lower())
    assert document_fingerprint(PROFILE, "revision", b"tokenizer") == FINGERPRINT


@pytest.mark.parametrize(
    "changed",
    [
        replace(PROFILE, pooling=Pooling.MEAN),
        replace(PROFILE, dimension=512),
        with_prompts(document_template="{document}"),
        with_prompts(title_separator="\n"),
        with_prompts(special_tokens=PROFILE.prompts.special_tokens[:-1]),
        with_prompts(max_document_tokens=100),
        with_prompts(max_document_words=100),
        with_prompts(max_document_words=None),
    ],
)
def test_it_changes_with_all_that_changes_a_documents_vector(changed: Profile) -> None:
    assert document_fingerprint(changed, "revision", b"tokenizer") != FINGERPRINT


def test_it_changes_with_the_weights_and_with_the_tokenizer() -> None:
    assert document_fingerprint(PROFILE, "revision2", b"tokenizer") != FINGERPRINT
    assert document_fingerprint(PROFILE, "revision", b"tokenizer2") != FINGERPRINT


@pytest.mark.parametrize(
    "changed",
    [
        load_profile("e2rank-0.6b", "readme"),
        replace(PROFILE, name="other"),
        replace(PROFILE, default_method=Method.COSINE),
        replace(PROFILE, prompt_order=PromptOrder.COSINE, prompt_documents=3),
        with_prompts(query_template="{query}", max_query_tokens=5),
        with_prompts(query_instruction="Find it", max_prompt_tokens=99),
        with_prompts(max_prompt_document_words=3, max_prompt_document_tokens=4),
    ],
)
def test_it_stays_when_only_queries_or_listwise_prompts_change(changed: Profile) -> None:
    assert document_fingerprint(changed, "revision", b"tokenizer") == FINGERPRINT


def test_parts_do_not_run_into_one_another() -> None:
    first = with_prompts(title_separator="ab", special_tokens=("c", "d"))
    second = with_prompts(title_separator="a", special_tokens=("bc", "d"))
    third = with_prompts(title_separator="ab", special_tokens=("cd",))
    prints = {document_fingerprint(p, "r", b"") for p in (first, second, third)}
    assert len(prints) == 3


def test_no_two_shipped_profiles_share_one() -> None:
    prints = {document_fingerprint(load_profile(n), n, n.encode()) for n in shipped_profiles()}
    assert len(prints) == len(shipped_profiles())
