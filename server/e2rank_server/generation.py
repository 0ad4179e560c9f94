"""The part of the composition root that starts what generates for LLM_LISTWISE."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

from e2rank_server.engine.admission import WorkGate
from e2rank_server.engine.llm_rerank import LlmRerankEngine
from e2rank_server.engine.stored_documents import StoredDocuments
from e2rank_server.errors import ConfigurationError
from e2rank_server.generator.openai_endpoint import OpenAiEndpointGenerator
from e2rank_server.generator.protocol import Generator
from e2rank_server.generator.vllm_in_process import VllmInProcessGenerator
from e2rank_server.llm_listwise.loading import load_templates
from e2rank_server.model_folder import prepare_generator_folder
from e2rank_server.settings import Settings

logger = logging.getLogger(__name__)


async def open_llm(
    settings: Settings, stored: StoredDocuments, stack: AsyncExitStack
) -> LlmRerankEngine | None:
    """Start or connect to the LLM, if the settings name one.

    Raises:
        ConfigurationError: it cannot be used as it is, or a default template does not exist.
    """
    if settings.generator_model is None:
        if settings.generator_url is not None:
            raise ConfigurationError(["--generator-url needs --generator-model: its name there"])
        return None
    templates = load_templates()
    problems = [
        f"{flag}: there is no template {name!r}; there are {', '.join(sorted(templates))}"
        for flag, name in (
            ("--generator-template", settings.generator_template),
            ("--generator-score-template", settings.generator_score_template),
        )
        if name not in templates
    ]
    score_template = templates.get(settings.generator_score_template)
    if score_template is not None and not score_template.has_scores:
        problems.append(
            f"--generator-score-template: template {score_template.name} has no place for scores"
        )
    if problems:
        raise ConfigurationError(problems)
    generator = await _open_generator(settings, settings.generator_model)
    stack.push_async_callback(generator.close)
    return LlmRerankEngine(
        generator,
        templates,
        default_template=settings.generator_template,
        default_score_template=settings.generator_score_template,
        gate=WorkGate(settings.max_running_tokens, settings.max_waiting_tokens),
        stored=stored,
        timeout_seconds=settings.generator_timeout_seconds,
    )


async def _open_generator(settings: Settings, model: str) -> Generator:
    if settings.generator_url is not None:
        return await OpenAiEndpointGenerator.start(
            model,
            settings.generator_url,
            api_key=settings.generator_api_key,
            api=settings.generator_api,
            timeout_seconds=settings.generator_timeout_seconds,
            max_model_tokens=settings.generator_max_tokens,
        )
    folder = await asyncio.to_thread(
        prepare_generator_folder, model, settings.data_directory / "models"
    )
    logger.info("starting vLLM for the generator %s", model)
    return await VllmInProcessGenerator.start(
        model,
        folder,
        dtype=settings.dtype,
        max_model_tokens=settings.generator_max_tokens,
        prefix_caching=settings.prefix_caching == "on",
    )
