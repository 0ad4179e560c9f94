"""The composition root, as far as it goes without an inference stack."""

import asyncio
import logging
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from e2rank_server import app
from e2rank_server.errors import ConfigurationError
from e2rank_server.model_folder import ModelFolder
from e2rank_server.profiles.loading import load_profile
from e2rank_server.settings import Settings, read_settings
from e2rank_server.tokenizer.in_process import InProcessTokenizer
from e2rank_server.types import TokenizerBackend
from tests.contract.small_tokenizers import minilm_like
from tests.fake_vllm_server import FINGERPRINT, PROFILE, FakeVllmServer


def settings(*arguments: str) -> Settings:
    return read_settings(arguments, {})


@pytest.fixture
def prepared(tmp_path: Path) -> app.Prepared:
    profile = load_profile("all-minilm-l6-v2")
    folder = ModelFolder(tmp_path, minilm_like(tmp_path), "revision")
    return app.Prepared(profile, folder, "fingerprint")


async def test_where_triton_cannot_run_one_line_says_why_and_the_tokenizer_is_in_process(
    prepared: app.Prepared, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(app, "obstacle", lambda _: "there is no shared libpython")
    with caplog.at_level(logging.WARNING):
        async with AsyncExitStack() as stack:
            [tokenizer] = await app.start_tokenizers(settings(), [prepared], stack)
            assert tokenizer.backend is TokenizerBackend.IN_PROCESS
            await tokenizer.check_health()
    assert [record.getMessage() for record in caplog.records] == [
        "Triton cannot run here, tokenizing in process: there is no shared libpython"
    ]


async def test_a_wrong_triton_environment_is_an_error_and_no_reason_to_fall_back(
    prepared: app.Prepared, tmp_path: Path
) -> None:
    wrong = settings("--triton-environment", str(tmp_path / "nowhere"))
    async with AsyncExitStack() as stack:
        with pytest.raises(ConfigurationError, match="nowhere"):
            await app.start_tokenizers(wrong, [prepared], stack)


async def test_an_external_triton_is_used_without_a_look_at_this_machine(
    prepared: app.Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "obstacle", lambda _: pytest.fail("it was looked at"))
    async with AsyncExitStack() as stack:
        remote = settings("--triton-url", "127.0.0.1:1")
        [tokenizer] = await app.start_tokenizers(remote, [prepared], stack)
        assert tokenizer.backend is TokenizerBackend.TRITON


def test_an_address_in_use_is_found_before_anything_is_loaded() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match=f"cannot listen on {address}: .*in use"):
            app.check_address(address, reuse_port=False)
    app.check_address(address, reuse_port=False)


def test_an_address_that_is_not_of_this_host_is_found_too() -> None:
    with pytest.raises(ConfigurationError, match=r"cannot listen on 192\.0\.2\.1:1"):
        app.check_address("192.0.2.1:1", reuse_port=False)


def test_a_profile_named_twice_is_refused(
    prepared: app.Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "prepare_model_folder", lambda *_: prepared.folder)
    with pytest.raises(ConfigurationError, match="all-minilm-l6-v2 is named twice"):
        app.prepare(settings("--profile", "all-minilm-l6-v2,all-minilm-l6-v2"))


@pytest.mark.parametrize(
    ("urls", "problem"),
    [
        ("http://a:1", r"http://a:1 needs one of all-minilm-l6-v2, smollm2-135m before it"),
        ("other=http://a:1", r"no profile 'other' is served; served: all-minilm-l6-v2, smollm2"),
    ],
)
def test_every_vllm_server_belongs_to_a_served_profile(urls: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        app.prepare(settings("--profile", "all-minilm-l6-v2,smollm2-135m", "--vllm-urls", urls))


@pytest.mark.parametrize("reuse_port", ["off", "on"])
async def test_a_gateway_that_shares_its_address_waits_for_its_vllm_server_before_it_listens(
    tmp_path: Path, reuse_port: str
) -> None:
    server = FakeVllmServer()
    folder = ModelFolder(tmp_path, minilm_like(tmp_path), "revision")
    remote = app.Prepared(PROFILE, folder, FINGERPRINT, [f"unix:{tmp_path / 'vllm.sock'}"])
    asked = settings("--reuse-port", reuse_port, "--data-directory", str(tmp_path))
    async with AsyncExitStack() as stack:
        tokenizer = await stack.enter_async_context(
            InProcessTokenizer(PROFILE.prompts, folder.tokenizer_json)
        )
        starting = asyncio.create_task(app.start_embedder(asked, remote, tokenizer, stack))
        await asyncio.wait({starting}, timeout=0.2 if reuse_port == "on" else 10)
        assert starting.done() == (reuse_port == "off")
        await server.start(tmp_path / "vllm.sock")
        stack.push_async_callback(server.stop)
        await (await starting).wait_until_ready()
