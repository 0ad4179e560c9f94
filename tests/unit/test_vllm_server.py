"""The command of a vLLM server, without vLLM."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from e2rank_server import vllm_server
from e2rank_server.embedder.vllm_arguments import engine_arguments
from e2rank_server.errors import ConfigurationError
from e2rank_server.profiles.loading import load_profile
from e2rank_server.profiles.profile import ModelSource, Profile, SourceKind
from e2rank_server.vllm_process.worker import GATEWAY_PID_VARIABLE
from e2rank_server.vllm_server import flags, read_api_key, remove_stale_socket

CONFIGURATION = """{"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 64}"""


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decide what asking vLLM would tell."""
    monkeypatch.setattr(vllm_server, "runs_on_cpu", lambda: True)
    monkeypatch.setattr(vllm_server, "choose_dtype", lambda dtype: "float32")


def profile_in(folder: Path, name: str) -> Profile:
    folder.mkdir(exist_ok=True)
    for file, content in [("config.json", CONFIGURATION), ("tokenizer.json", "{}")]:
        (folder / file).write_text(content)
    (folder / "model.safetensors").write_bytes(b"weights")
    return replace(load_profile(name), source=ModelSource(SourceKind.PATH, str(folder)))


def command(
    tmp_path: Path, *arguments: str, profile: str = "all-minilm-l6-v2"
) -> vllm_server.Command:
    options = vllm_server._parser().parse_args(
        [f"--data-directory={tmp_path / 'data'}", *arguments]
    )
    return vllm_server.server_command(profile_in(tmp_path / "model", profile), options)


def test_it_serves_under_the_profiles_name_with_the_engines_own_arguments(tmp_path: Path) -> None:
    made = command(tmp_path, "--port", "8123")
    engine = engine_arguments(
        profile_in(tmp_path / "model", "all-minilm-l6-v2"),
        tmp_path / "model",
        dtype="float32",
        prefix_caching=True,
        is_cpu=True,
    )
    assert made.arguments[:2] == [sys.executable, "-m"]
    assert made.arguments[3 : 3 + len(flags(engine))] == flags(engine)
    line = shlex.join(made.arguments)
    assert "--served-model-name all-minilm-l6-v2" in line
    assert "--host 127.0.0.1 --port 8123" in line
    assert "--scheduling-policy priority" in line
    assert """--pooler-config '{"pooling_type": "MEAN"}'""" in line
    assert int(made.variables["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"]) >= 3600


def test_only_a_model_whose_prompts_pool_over_a_span_needs_our_route(tmp_path: Path) -> None:
    assert "--middleware" in command(tmp_path).arguments
    assert "--middleware" not in command(tmp_path, profile="smollm2-135m").arguments


@pytest.mark.parametrize(("choice", "flag"), [("on", "--"), ("off", "--no-")])
def test_prefix_caching_is_a_choice_for_decoders(tmp_path: Path, choice: str, flag: str) -> None:
    arguments = command(tmp_path, "--prefix-caching", choice, profile="smollm2-135m").arguments
    assert f"{flag}enable-prefix-caching" in arguments


def test_a_unix_socket_replaces_host_and_port(tmp_path: Path) -> None:
    arguments = command(tmp_path, "--uds", "/run/vllm.sock").arguments
    assert arguments[arguments.index("--uds") + 1] == "/run/vllm.sock"
    assert "--port" not in arguments


def test_it_watches_its_parent_only_if_asked_to(tmp_path: Path) -> None:
    watching = command(tmp_path, "--end-with-parent")
    assert watching.variables[GATEWAY_PID_VARIABLE] == str(os.getppid())
    assert "--worker-extension-cls" in watching.arguments
    alone = command(tmp_path)
    assert GATEWAY_PID_VARIABLE not in alone.variables
    assert "--worker-extension-cls" not in alone.arguments


def test_what_follows_two_dashes_is_vllms(tmp_path: Path) -> None:
    arguments = command(tmp_path, "--", "--max-num-seqs", "7").arguments
    assert arguments[-2:] == ["--max-num-seqs", "7"]


def test_printed_it_is_a_shell_line_that_does_not_have_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = profile_in(tmp_path / "a model", "all-minilm-l6-v2")
    monkeypatch.setattr(vllm_server, "load_profile", lambda name: profile)
    key = tmp_path / "key"
    key.write_text("open-sesame\n")
    status = vllm_server.main([f"--data-directory={tmp_path}", f"--api-key-file={key}", "--print"])
    assert status == 0
    line = capsys.readouterr().out
    assert f'VLLM_API_KEY="$(cat {key})"' in line
    assert "open-sesame" not in line
    words = shlex.split(line)
    assert words[words.index("--model") + 1] == str(tmp_path / "a model")


@pytest.mark.parametrize("content", ["", "\n", "two\nlines", "x" * 5000, "ключ"])
def test_a_file_without_a_key_is_a_configuration_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "key").write_text(content)
    with pytest.raises(ConfigurationError, match="--api-key-file"):
        read_api_key(tmp_path / "key")


def test_a_wrong_profile_ends_it_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert vllm_server.main(["--profile", "no-such-profile"]) == 2
    assert "vllm_server: error: " in capsys.readouterr().err


def test_a_socket_that_a_killed_server_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "vllm.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with pytest.raises(ConfigurationError, match="a server listens on"):
            remove_stale_socket(path)
    remove_stale_socket(path)
    assert not path.exists()
    remove_stale_socket(path)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(ConfigurationError, match="in the way"):
        remove_stale_socket(path)
    assert path.read_text() == "mine"


def test_help_needs_no_vllm() -> None:
    program = (
        "import sys, e2rank_server.vllm_server; "
        "print(sorted({'vllm', 'torch', 'transformers'} & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
