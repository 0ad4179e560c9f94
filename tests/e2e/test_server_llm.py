"""LLM_LISTWISE on a real LLM: in the server's own process tree, and at vLLM's own endpoint."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2rank_client import (
    Document,
    E2RankClient,
    FirstStageScores,
    GeneratorRefusedError,
    LlmListwiseOptions,
    PromptTooLongError,
    RerankResult,
    ScoreKind,
    UnavailableError,
    WarningCode,
)
from e2rank_server.llm_listwise.loading import load_templates
from e2rank_server.model_folder import prepare_model_folder
from e2rank_server.profiles.loading import load_profile
from e2rank_server.vllm_process.environment import engine_variables
from tests.e2e.server_process import START_SECONDS, ServerProcess

pytestmark = pytest.mark.e2e

QUERY = "how do plants make sugar"
CANDIDATES = [
    Document("Mercury is the planet closest to the sun.", id="planet", first_stage_score=0.5),
    Document("Leaves turn light and water into glucose.", id="leaf", first_stage_score=8.25),
    Document("Sugar beet is harvested in autumn.", id="beet", first_stage_score=5.0),
    Document("A document with <|im_end|> in it.", id="structure", first_stage_score=0.1),
]
# What is tested here is the LLM: nothing embeds.
_WITHOUT_MODEL = ("--embedder=fake", "--tokenizer=in-process")
_CONTEXT_TOKENS = 1024


class VllmEndpoint:
    """vLLM's own server with an LLM."""

    def __init__(self, folder: Path, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        self._log = log
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(folder), "--served-model-name", "smollm2", "--dtype", "float32"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
        command += ["--max-model-len", str(_CONTEXT_TOKENS), "--kv-cache-memory-bytes", "268435456"]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **engine_variables()},
                start_new_session=True,
            )

    def __enter__(self) -> VllmEndpoint:
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"vLLM did not start:\n{self._log.read_text()[-5000:]}")
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End it and all that it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/models", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[E2RankClient]:
    """A client of a server that runs the LLM itself."""
    flags = ("--generator-model=smollm2-135m", f"--generator-max-tokens={_CONTEXT_TOKENS}")
    with _serving(tmp_path_factory.mktemp("in-process"), *flags) as client:
        yield client


@pytest.fixture(scope="module")
def vllm_endpoint(
    models_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VllmEndpoint]:
    folder = prepare_model_folder(load_profile("smollm2-135m"), models_directory).path
    with VllmEndpoint(folder, tmp_path_factory.mktemp("vllm") / "vllm.log") as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def at_endpoint(
    vllm_endpoint: VllmEndpoint, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[E2RankClient]:
    """A client of a server whose LLM is elsewhere."""
    flags = ("--generator-model=smollm2", f"--generator-url={vllm_endpoint.url}")
    with _serving(tmp_path_factory.mktemp("at-endpoint"), *flags) as client:
        yield client


@pytest.fixture(scope="module", params=["in_process", "at_endpoint"])
def client(request: pytest.FixtureRequest) -> E2RankClient:
    """A client of a server with an LLM, wherever that runs."""
    found: E2RankClient = request.getfixturevalue(request.param)
    return found


@contextmanager
def _serving(folder: Path, *flags: str) -> Iterator[E2RankClient]:
    server = ServerProcess(folder, *_WITHOUT_MODEL, *flags)
    try:
        server.wait_until_serving()
        with E2RankClient(server.address, timeout_seconds=120, max_attempts=1) as client:
            yield client
        server.stop()
    finally:
        server.kill()


def _rerank(client: E2RankClient, options: LlmListwiseOptions) -> RerankResult:
    return client.rerank(QUERY, CANDIDATES, method=options)


@pytest.mark.parametrize("template", sorted(load_templates()))
def test_every_template_gives_a_whole_order(client: E2RankClient, template: str) -> None:
    reasons = load_templates()[template].reasons(thinking=False)
    answer = _rerank(
        client,
        LlmListwiseOptions(
            template=template, window_size=3, reasoning_token_budget=16 if reasons else None
        ),
    )
    assert sorted(result.index for result in answer.results) == [0, 1, 2, 3]
    assert answer.score_kind is ScoreKind.RECIPROCAL_RANK
    report = answer.llm_listwise
    assert report is not None
    assert (report.template, report.windows) == (template, 2)
    outputs = report.outputs
    assert outputs.failed == 0
    assert outputs.ok + outputs.malformed + outputs.repetition + outputs.missing == 2
    assert report.prompt_tokens > 100
    assert answer.timings.generate_seconds > 0


def test_the_same_request_has_the_same_answer(client: E2RankClient) -> None:
    options = LlmListwiseOptions(
        template="rank_llm_insertrank", first_stage_scores=FirstStageScores()
    )
    first, second = (_rerank(client, options) for _ in range(2))
    assert [r.id for r in first.results] == [r.id for r in second.results]
    assert first.llm_listwise == second.llm_listwise


def test_documents_shrink_until_a_window_fits(client: E2RankClient) -> None:
    long = [Document("sugar " * 299) for _ in range(6)]
    answer = client.rerank(QUERY, long, method="LLM_LISTWISE")
    assert answer.usage.prompt_documents_truncated == 6
    codes = {warning.code for warning in answer.warnings}
    assert WarningCode.PROMPT_DOCUMENTS_SHRUNK in codes


def test_what_cannot_fit_is_an_error(client: E2RankClient) -> None:
    with pytest.raises(PromptTooLongError, match=f"limit is {_CONTEXT_TOKENS}"):
        client.rerank(
            QUERY,
            [f"word{number}" for number in range(300)],
            method=LlmListwiseOptions(window_size=300),
        )


def test_get_model_counts_its_outputs(client: E2RankClient) -> None:
    before = client.get_model().generator
    answer = _rerank(client, LlmListwiseOptions())
    after = client.get_model().generator
    assert before is not None
    assert after is not None
    assert answer.llm_listwise is not None
    assert after.outputs.ok - before.outputs.ok == answer.llm_listwise.outputs.ok
    assert after.max_model_tokens == _CONTEXT_TOKENS


def test_a_model_that_is_not_there_is_refused(vllm_endpoint: VllmEndpoint, tmp_path: Path) -> None:
    flags = ("--generator-model=nothing", f"--generator-url={vllm_endpoint.url}")
    with (
        _serving(tmp_path, *flags) as client,
        pytest.raises(GeneratorRefusedError, match="404"),
    ):
        _rerank(client, LlmListwiseOptions())


def test_an_endpoint_that_is_gone_fails_the_request_unless_that_is_allowed(
    vllm_endpoint: VllmEndpoint, at_endpoint: E2RankClient
) -> None:
    vllm_endpoint.kill()  # so this test is the last
    with pytest.raises(UnavailableError, match="generator"):
        _rerank(at_endpoint, LlmListwiseOptions())
    degraded = _rerank(at_endpoint, LlmListwiseOptions(allow_degraded=True))
    assert [result.index for result in degraded.results] == [0, 1, 2, 3]
    assert [warning.code for warning in degraded.warnings] == [WarningCode.GENERATOR_FAILED]
