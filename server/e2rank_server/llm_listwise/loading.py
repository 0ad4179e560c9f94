"""Reads templates from TOML, strictly: everything wrong with one is reported together."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources

from e2rank_server.errors import ConfigurationError
from e2rank_server.llm_listwise.identifiers import IdentifierKind
from e2rank_server.llm_listwise.messages import MessageTemplates
from e2rank_server.llm_listwise.parsing import AnswerForm
from e2rank_server.llm_listwise.template import LlmTemplate
from e2rank_server.profiles.toml_table import TomlTable

_SUFFIX = ".toml"


def load_templates() -> Mapping[str, LlmTemplate]:
    """Return the templates that come with the package, by name, sorted.

    Raises ConfigurationError if one of them is wrong.
    """
    files = resources.files(__package__) / "templates"
    texts = {
        file.name.removesuffix(_SUFFIX): file.read_text(encoding="utf-8")
        for file in files.iterdir()
        if file.name.endswith(_SUFFIX)
    }
    return {name: read_template(name, texts[name]) for name in sorted(texts)}


def read_template(name: str, text: str) -> LlmTemplate:
    """Read the TOML text of the template that is to have a name.

    Raises ConfigurationError with everything that is wrong: unknown, missing
    or mistyped keys, unknown placeholders, impossible combinations.
    """
    problems: list[str] = []
    try:
        template = _template(TomlTable(tomllib.loads(text), problems), problems)
        problems += _impossibilities(name, template)
    except tomllib.TOMLDecodeError as error:
        problems.append(f"is not TOML: {error}")
    except ConfigurationError as error:
        problems += error.problems
    if problems:
        raise ConfigurationError([f"template {name}: {problem}" for problem in problems])
    return template


def _template(table: TomlTable, problems: list[str]) -> LlmTemplate:
    system, parts = _message_parts(table.table("messages"))
    kind = table.choice("identifiers", IdentifierKind)
    name, version, source = (table.text(key) for key in ("name", "version", "source"))
    reads_first_token, can_think = table.flag("reads_first_token"), table.flag("can_think")
    reasoning_tokens = table.optional_positive("reasoning_tokens") or 0
    window_size, max_words = table.positive("window_size"), table.positive("max_words")
    answer_form = table.choice("answer_form", AnswerForm)
    answer_prefix = table.text("answer_prefix", default="")
    table.finish()
    if problems:  # a part that is missing would be reported twice
        raise ConfigurationError([])
    messages = MessageTemplates(system, parts)
    return LlmTemplate(
        name=name,
        version=version,
        source=source,
        has_scores=messages.has_scores,
        reads_first_token=reads_first_token,
        can_think=can_think,
        reasoning_tokens=reasoning_tokens,
        window_size=window_size,
        max_window_size=kind.max_passages,
        max_words=max_words,
        messages=messages,
        identifier_kind=kind,
        answer_form=answer_form,
        answer_prefix=answer_prefix,
    )


def _message_parts(table: TomlTable) -> tuple[str, dict[str, str]]:
    system = table.text("system", default="")
    parts = {key: table.text(key) for key in ("prefix", "passage", "suffix")}
    parts |= {key: table.text(key, default="") for key in ("prefix_reply", "passage_reply")}
    table.finish()
    return system, parts


def _impossibilities(name: str, template: LlmTemplate) -> list[str]:
    problems: list[str] = []
    if template.name != name:
        problems.append(f"name: {template.name!r} is not that of its file")
    if not 2 <= template.window_size <= template.max_window_size:
        problems.append(
            f"window_size: {template.window_size} is not within 2 and {template.max_window_size}, "
            f"which is how many passages {template.identifier_kind} name"
        )
    has_letters = template.identifier_kind is IdentifierKind.LETTERS
    if template.reads_first_token and not has_letters:
        problems.append("reads_first_token: only LETTERS are all of one token")
    if template.reads_first_token and template.reasoning_tokens:
        problems.append("reads_first_token: the first token of reasoning is no identifier")
    if has_letters and template.answer_form is AnswerForm.JSON_LIST:
        problems.append("answer_form: a JSON_LIST is of NUMBERS")
    if template.can_think and not template.reasoning_tokens:
        problems.append("can_think: needs reasoning_tokens")
    return problems
