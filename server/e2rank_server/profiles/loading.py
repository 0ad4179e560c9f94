"""Reads profiles from TOML, strictly: everything wrong with one is reported together."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from e2rank_server.errors import ConfigurationError
from e2rank_server.profiles.profile import ModelSource, Pooling, Profile, SourceKind
from e2rank_server.profiles.toml_table import TomlTable
from e2rank_server.prompting.specification import PromptSpecification
from e2rank_server.prompting.template import PromptTemplates
from e2rank_server.types import Method, PromptOrder

_SUFFIX = ".toml"
# An LLM is the server's, not a profile's.
_DEFAULT_METHODS = (Method.E2RANK, Method.COSINE, Method.VECTOR_PRF)


def shipped_profiles() -> list[str]:
    """Return the names of the profiles that come with the package, sorted."""
    return sorted(
        file.name.removesuffix(_SUFFIX)
        for file in _package_files().iterdir()
        if file.name.endswith(_SUFFIX)
    )


def load_profile(name: str, listwise_template: str | None = None) -> Profile:
    """Load a shipped profile by its name, or any other by the path of its `.toml` file.

    `listwise_template` chooses another of the profile's listwise templates than
    its own `template` key does. Raises ConfigurationError with everything that
    is wrong: unknown, missing or mistyped keys, impossible combinations.
    """
    problems: list[str] = []
    table = TomlTable(_read(name), problems)
    try:
        profile = _profile(table, problems, listwise_template)
    except ConfigurationError as error:
        problems += error.problems
    if problems:
        raise ConfigurationError([f"profile {name}: {problem}" for problem in problems])
    return profile


def _package_files() -> Traversable:
    return resources.files(__package__)


def _read(name: str) -> dict[str, object]:
    file: Traversable = Path(name)
    if not name.endswith(_SUFFIX):
        if name not in shipped_profiles():
            shipped = ", ".join(shipped_profiles())
            raise ConfigurationError(
                [f"profile {name}: neither one of {shipped} nor the path of a .toml file"]
            )
        file = _package_files() / f"{name}{_SUFFIX}"
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError([f"profile {name}: cannot be read: {error.strerror}"]) from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise ConfigurationError([f"profile {name}: is not TOML: {error}"]) from error


@dataclass(frozen=True, slots=True)
class _ListwiseTemplate:
    frame: str
    document: str
    score: str
    separator: str
    instruction: str


def _profile(table: TomlTable, problems: list[str], listwise_template: str | None) -> Profile:
    listwise = table.table("listwise")
    own_template = listwise.text("template")
    chosen = own_template if listwise_template is None else listwise_template
    templates = _listwise_templates(listwise.table("templates"))
    if chosen not in templates:
        names = ", ".join(templates) or "none"
        problems.append(f"listwise.template: {chosen!r} is no template of it; it has {names}")
        templates[chosen] = _ListwiseTemplate("{documents}{query}", "{document}", "{score}", "", "")
    profile = Profile(
        name=table.text("name"),
        source=_source(table.table("source")),
        prompts=_specification(table, listwise, templates[chosen]),
        template_version=f"{chosen}/{table.text('version')}",
        dimension=table.positive("dimension"),
        max_model_tokens=table.positive("max_model_tokens"),
        pooling=table.choice("pooling", Pooling),
        listwise_pooling=listwise.choice("pooling", Pooling),
        trained_for_listwise=table.flag("trained_for_listwise"),
        default_method=table.choice("default_method", _DEFAULT_METHODS),
        prompt_order=listwise.choice("prompt_order", PromptOrder),
        prompt_documents=listwise.positive("prompt_documents"),
        max_prompt_documents=listwise.positive("max_prompt_documents"),
    )
    listwise.finish()
    table.finish()
    if not problems:
        problems += _impossibilities(profile)
        PromptTemplates.parse(profile.prompts)
    return profile


def _source(table: TomlTable) -> ModelSource:
    source = ModelSource(
        kind=table.choice("kind", SourceKind),
        location=table.text("location"),
        revision=table.text("revision", default=""),
        file=table.text("file", default=""),
    )
    table.finish()
    return source


def _listwise_templates(table: TomlTable) -> dict[str, _ListwiseTemplate]:
    templates = {}
    for name, fields in table.tables().items():
        templates[name] = _ListwiseTemplate(
            frame=fields.text("frame"),
            document=fields.text("document"),
            score=fields.text("score"),
            separator=fields.text("separator"),
            instruction=fields.text("instruction"),
        )
        fields.finish()
    return templates


def _specification(
    table: TomlTable, listwise: TomlTable, template: _ListwiseTemplate
) -> PromptSpecification:
    query, document = table.table("query"), table.table("document")
    specification = PromptSpecification(
        special_tokens=table.texts("special_tokens"),
        query_template=query.text("template"),
        document_template=document.text("template"),
        title_separator=document.text("title_separator"),
        query_instruction=query.text("instruction", default=""),
        listwise_template=template.frame,
        listwise_document=template.document,
        listwise_score=template.score,
        listwise_separator=template.separator,
        listwise_instruction=template.instruction,
        max_query_tokens=query.positive("max_tokens"),
        max_document_tokens=document.positive("max_tokens"),
        max_prompt_tokens=listwise.positive("max_tokens"),
        max_document_words=document.optional_positive("max_words"),
        max_prompt_document_words=listwise.optional_positive("max_document_words"),
        max_prompt_document_tokens=listwise.optional_positive("max_document_tokens"),
    )
    query.finish()
    document.finish()
    return specification


def _impossibilities(profile: Profile) -> list[str]:
    problems: list[str] = []
    prompts = profile.prompts
    if profile.pooling is Pooling.QUERY_TOKENS:
        problems.append("pooling: QUERY_TOKENS is for listwise prompts only")
    elif profile.listwise_pooling is Pooling.QUERY_TOKENS:
        if profile.pooling is Pooling.LAST:
            problems.append(
                "listwise.pooling: QUERY_TOKENS is for encoders, whose pooling is MEAN, not LAST"
            )
    elif profile.listwise_pooling is not profile.pooling:
        problems.append(
            f"listwise.pooling: {profile.listwise_pooling} differs from the model's own pooling, "
            f"{profile.pooling}; only QUERY_TOKENS may"
        )
    limits = {
        "query.max_tokens": prompts.max_query_tokens,
        "document.max_tokens": prompts.max_document_tokens,
        "listwise.max_tokens": prompts.max_prompt_tokens,
    }
    problems += [
        f"{key}: {limit} is more than max_model_tokens, {profile.max_model_tokens}"
        for key, limit in limits.items()
        if limit > profile.max_model_tokens
    ]
    if profile.prompt_documents > profile.max_prompt_documents:
        problems.append(
            f"listwise.prompt_documents: {profile.prompt_documents} is more than "
            f"max_prompt_documents, {profile.max_prompt_documents}"
        )
    needs_file = profile.source.kind in {SourceKind.PACKAGE, SourceKind.GGUF_PACKAGE}
    if needs_file and not profile.source.file:
        problems.append(f"source.file: missing; a {profile.source.kind} source needs it")
    return problems
