"""One real server for most end-to-end tests: starting engines is what takes the time."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.e2e.server_process import ServerProcess


@pytest.fixture(scope="session")
def models_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared models of the tests that start engines themselves."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Triton, and vLLM with all-MiniLM-L6-v2 (the default model) and SmolLM2-135M."""
    process = ServerProcess(
        tmp_path_factory.mktemp("server"),
        "--profile=all-minilm-l6-v2,smollm2-135m",
        "--tokenizer=triton",
    )
    try:
        process.wait_until_serving()
        yield process
        process.stop()
    finally:
        process.kill()


@pytest.fixture(scope="session")
def server_address(server: ServerProcess) -> str:
    return server.address


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a skipped end-to-end test fail in CI: what is not tested must not look tested."""
    report = yield
    if report.skipped and os.environ.get("CI") and item.get_closest_marker("e2e"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    return report
