"""One engine for a whole module: starting one is what takes the time."""

from __future__ import annotations

import multiprocessing
from collections.abc import AsyncIterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import pytest_asyncio

from e2rank_server.generator.vllm_in_process import VllmInProcessGenerator
from e2rank_server.model_folder import prepare_model_folder
from e2rank_server.profiles.loading import load_profile


@dataclass(frozen=True, slots=True)
class RunningLlm:
    """A generator that computes in bfloat16, its model's files and its engine's process."""

    folder: Path
    generator: VllmInProcessGenerator
    process: BaseProcess


@pytest.fixture(scope="session")
def llm_folder(models_directory: Path) -> Path:
    """Prepare SmolLM2-135M-Instruct."""
    return prepare_model_folder(load_profile("smollm2-135m"), models_directory).path


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def smollm2_llm(llm_folder: Path) -> AsyncIterator[RunningLlm]:
    """Start the engine; check at the end that no process of it is left."""
    others = set(multiprocessing.active_children())
    generator = await VllmInProcessGenerator.start(
        "smollm2", llm_folder, dtype="bfloat16", max_model_tokens=640
    )
    try:
        (process,) = set(multiprocessing.active_children()) - others
        yield RunningLlm(llm_folder, generator, process)
    finally:
        await generator.close()
    assert set(multiprocessing.active_children()) <= others
