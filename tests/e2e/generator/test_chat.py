"""Chat templates as transformers applies them to real files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from e2rank_server.errors import ConfigurationError
from e2rank_server.generator.chat import ChatTokenizer
from e2rank_server.generator.protocol import GeneratorPrompt
from e2rank_server.types import ChatMessage
from tests.contract.small_tokenizers import qwen_like

pytestmark = pytest.mark.e2e

CONVERSATION = [
    ChatMessage("system", "You rank passages by their relevance."),
    ChatMessage("user", "  I will provide you with 2 passages.\n"),
    ChatMessage("assistant", "Okay, please provide the passages."),
    ChatMessage("user", "[1] Naïve café, 東京\n\n[2] x = {query}  \t\nSearch Query: what?"),
]

# Qwen3's switch, in a template of our own.
THINKING = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{{ message.content | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
WITHOUT_SYSTEM = (
    "{% for message in messages %}{% if message.role == 'system' %}"
    "{{ raise_exception('no system role here') }}{% endif %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)


def folder_with(folder: Path, template: str | None) -> Path:
    """Make the files of a model of Qwen's kind, without weights."""
    qwen_like(folder)
    configuration = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    if template is not None:
        configuration["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration))
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    return folder


def expected_ids(folder: Path, messages: list[ChatMessage], **switch: Any) -> list[int]:
    """Return what transformers makes of the conversation."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    turns = [{"role": message.role, "content": message.content} for message in messages]
    text = tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True, **switch
    )
    return list(tokenizer(text, add_special_tokens=False).input_ids)


@pytest.mark.parametrize("first", [0, 1, 3])
def test_smollm2s_ids_are_those_of_transformers(llm_folder: Path, first: int) -> None:
    messages = CONVERSATION[first:]
    found = ChatTokenizer.load(llm_folder).tokenize(GeneratorPrompt(messages))
    assert found.token_ids == expected_ids(llm_folder, messages)
    assert found.tail == "assistant\n"


@pytest.mark.parametrize("thinking", [None, True, False])
def test_ids_of_a_template_that_strips_texts_and_thinks_are_those_of_transformers(
    tmp_path: Path, thinking: bool | None
) -> None:
    folder = folder_with(tmp_path, THINKING)
    prompt = GeneratorPrompt(CONVERSATION, thinking=thinking)
    switch = {} if thinking is None else {"enable_thinking": thinking}
    found = ChatTokenizer.load(folder).tokenize(prompt).token_ids
    assert found == expected_ids(folder, CONVERSATION, **switch)


def test_a_system_text_moves_where_the_template_raises_an_exception_at_it(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, WITHOUT_SYSTEM)
    system, user, *others = CONVERSATION
    folded = ChatMessage("user", f"{system.content}\n\n{user.content}")
    found = ChatTokenizer.load(folder).tokenize(GeneratorPrompt(CONVERSATION)).token_ids
    assert found == expected_ids(folder, [folded, *others])


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (None, "no chat template"),
        ("{{ messages[0].content | upper }}", "cannot be used"),
        ("{% for message in messages %}", "cannot be used: Unexpected end of template"),
        ("{{ messages.nothing.at.all }}", "cannot be used: .* has no attribute"),
    ],
)
def test_a_template_that_cannot_be_used_is_a_configuration_error(
    tmp_path: Path, template: str | None, why: str
) -> None:
    with pytest.raises(ConfigurationError, match=why):
        ChatTokenizer.load(folder_with(tmp_path, template))
