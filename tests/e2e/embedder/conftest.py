"""One engine a model for all tests of this folder: starting one is what takes the time."""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import pytest_asyncio

from e2rank_server.embedder.vllm_in_process import VllmInProcessEmbedder
from e2rank_server.model_folder import ModelFolder, prepare_model_folder
from e2rank_server.profiles.loading import load_profile
from e2rank_server.profiles.profile import Profile


@dataclass(frozen=True, slots=True)
class RunningModel:
    """An embedder that computes in bfloat16, the files that it serves and its engine's process."""

    profile: Profile
    folder: ModelFolder
    embedder: VllmInProcessEmbedder
    process: BaseProcess


@pytest.fixture(scope="session")
def models_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def minilm(models_directory: Path) -> AsyncIterator[RunningModel]:
    async with running(load_profile("all-minilm-l6-v2"), models_directory) as model:
        yield model


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def smollm2(models_directory: Path) -> AsyncIterator[RunningModel]:
    # Shorter than the model's 8192 positions, so that a full prompt takes seconds, and longer
    # than one step, so that it is computed in parts.
    profile = dataclasses.replace(load_profile("smollm2-135m"), max_model_tokens=640)
    async with running(profile, models_directory) as model:
        yield model


@asynccontextmanager
async def running(profile: Profile, models_directory: Path) -> AsyncIterator[RunningModel]:
    """Prepare and serve a model; check at the end that no process is left."""
    folder = prepare_model_folder(profile, models_directory)
    others = set(multiprocessing.active_children())
    embedder = await VllmInProcessEmbedder.start(profile, folder.path, dtype="bfloat16")
    try:
        (process,) = set(multiprocessing.active_children()) - others
        yield RunningModel(profile, folder, embedder, process)
    finally:
        running_before = set(multiprocessing.active_children())
        await embedder.close()
    # Not the process of the beginning, if a test has killed that.
    (ended,) = running_before - set(multiprocessing.active_children())
    assert ended.name == process.name
