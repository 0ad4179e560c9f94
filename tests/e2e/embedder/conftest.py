"""One engine a model for all tests of this folder: starting one is what takes the time."""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import aiohttp
import psutil
import pytest
import pytest_asyncio

from e2rank_server.embedder.identity import PROBE_TEXTS, ProbeReferences
from e2rank_server.embedder.protocol import EmbedderPrompt
from e2rank_server.embedder.vllm_in_process import VllmInProcessEmbedder
from e2rank_server.embedder.vllm_remote.embedder import VllmRemoteEmbedder
from e2rank_server.embedder.vllm_remote.lane import Expectation
from e2rank_server.embedder.vllm_remote.limits import RemoteLimits
from e2rank_server.model_folder import ModelFolder, prepare_model_folder
from e2rank_server.profiles.fingerprint import document_fingerprint
from e2rank_server.profiles.loading import load_profile
from e2rank_server.profiles.profile import Profile
from e2rank_server.tokenizer.in_process import InProcessTokenizer
from e2rank_server.types import InputType, TextInput


@dataclass(frozen=True, slots=True)
class RunningModel:
    """An embedder that computes in bfloat16, the files that it serves and its engine's process."""

    profile: Profile
    folder: ModelFolder
    embedder: VllmInProcessEmbedder
    process: BaseProcess


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


class VllmServerProcess:
    """`python -m e2rank_server.vllm_server` on a Unix socket, as the child of a small parent.

    The parent waits to be killed, upon which the server is to end, too.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.socket = folder / "vllm.sock"
        self.key = "open-sesame"
        self.log = folder / "vllm.log"
        self._command = [sys.executable, "-m", "e2rank_server.vllm_server", "--end-with-parent"]
        self._command += [f"--uds={self.socket}", f"--api-key-file={folder / 'key'}", *arguments]
        (folder / "key").write_text(self.key)
        self.start()

    @property
    def url(self) -> str:
        return f"unix:{self.socket}"

    def start(self) -> None:
        """Begin to load; takes half a minute to answer."""
        parent = "import subprocess, sys; subprocess.run(sys.argv[1:])"
        with self.log.open("ab") as log:
            self.parent = subprocess.Popen(
                [sys.executable, "-c", parent, *self._command],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def processes(self) -> list[psutil.Process]:
        """Return the server's processes, without the parent."""
        return psutil.Process(self.parent.pid).children(recursive=True)

    def kill_parent(self) -> list[psutil.Process]:
        """Kill the parent alone; return what was below it."""
        below = self.processes()
        self.parent.kill()
        self.parent.wait()
        return below

    async def metric(self, name: str) -> float:
        """Sum a metric of vLLM's over its labels."""
        connector = aiohttp.UnixConnector(str(self.socket))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get("http://localhost/metrics") as response,
        ):
            text = await response.text()
        found = re.findall(rf"^{re.escape(name)}{{.*?}} (\S+)$", text, re.MULTILINE)
        assert found, f"no metric {name}"
        return sum(float(value) for value in found)


@pytest.fixture(scope="session")
def vllm_server(
    models_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmServerProcess]:
    """All-MiniLM-L6-v2 in the dtype of its choice."""
    data = models_directory.parent
    server = VllmServerProcess(
        tmp_path_factory.mktemp("vllm"),
        "--profile=all-minilm-l6-v2",
        f"--data-directory={data}",
    )
    try:
        yield server
    finally:
        _, alive = psutil.wait_procs(server.kill_parent(), timeout=30)
    assert not alive


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def remote_minilm(
    vllm_server: VllmServerProcess, models_directory: Path
) -> AsyncIterator[VllmRemoteEmbedder]:
    """Reach the server with the references that ship with the package."""
    profile = load_profile("all-minilm-l6-v2")
    folder = prepare_model_folder(profile, models_directory)
    fingerprint = document_fingerprint(profile, folder.revision, folder.tokenizer_json.read_bytes())
    async with InProcessTokenizer(profile.prompts, folder.tokenizer_json) as tokenizer:
        texts = [TextInput(text) for text in PROBE_TEXTS]
        tokenized = await tokenizer.tokenize_texts(InputType.DOCUMENT, texts)
    recorded = vllm_server.log.parent / "probes"
    expectation = Expectation(
        profile,
        [EmbedderPrompt(text.token_ids) for text in tokenized],
        ProbeReferences(fingerprint, recorded),
    )
    embedder = await VllmRemoteEmbedder.start(
        expectation,
        [vllm_server.url],
        api_key=vllm_server.key,
        limits=RemoteLimits(max_rest_seconds=1),
    )
    async with asyncio.timeout(180):
        await embedder.wait_until_ready()
    yield embedder
    await embedder.close()
    assert not recorded.exists()  # the references that ship were found, and matched
