import subprocess
import sys
from dataclasses import fields

import pytest

from e2rank_server.errors import ConfigurationError
from e2rank_server.settings import Settings, flag, read_settings, variable


def test_without_flags_and_environment_every_setting_has_its_default() -> None:
    assert read_settings([], {}) == Settings()


def test_a_flag_wins_over_the_environment() -> None:
    environ = {"E2RANK_LISTEN": "0.0.0.0:1", "E2RANK_CACHE_BYTES": "2GiB"}
    settings = read_settings(["--listen", "[::1]:2"], environ)
    assert settings.listen == "[::1]:2"
    assert settings.cache_bytes == 2 << 30


def test_profiles_are_a_list_whose_first_is_the_default() -> None:
    settings = read_settings(["--profile", "smollm2-135m, my/own.toml"], {})
    assert settings.profile == ("smollm2-135m", "my/own.toml")


def test_vllm_servers_are_listed_by_profile() -> None:
    text = "small=http://a:8000, https://b:1/x=y, small=unix:/run/vllm.sock"
    assert read_settings(["--vllm-urls", text], {}).vllm_urls == {
        "small": ("http://a:8000", "unix:/run/vllm.sock"),
        "": ("https://b:1/x=y",),
    }


def test_other_programs_variables_are_left_alone() -> None:
    assert read_settings([], {"PATH": "/bin", "E2RANKING": "1"}) == Settings()


def test_all_errors_are_reported_together_with_value_and_expectation() -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_settings(
            ["--listen", "nowhere", "--no-such", "1", "--max-documents=0"],
            {"E2RANK_CACHE_BYTES": "2GB", "E2RANK_CASH_BYTES": "1"},
        )
    assert caught.value.problems == (
        "environment variable E2RANK_CASH_BYTES: no such setting",
        "--no-such: no such setting",
        "--listen: 'nowhere' is not HOST:PORT with a port from 0 to 65535, such as 127.0.0.1:50051",
        "E2RANK_CACHE_BYTES: '2GB' is not a size in bytes such as 4096, 512KiB, 16MiB or 2GiB",
        "--max-documents: '0' is not a whole number from 1 to 999999999",
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("--listen", "127.0.0.1:70000"),
        ("--listen", ":50051"),
        ("--triton-url", "unix:"),
        ("--vllm-urls", "a:8000"),
        ("--vllm-urls", "small=ftp://a"),
        ("--vllm-api-key", "line\nbreak"),
        ("--profile", " , "),
        ("--tokenizer", "magic"),
        ("--drain-seconds", "nan"),
        ("--drain-seconds", "-1"),
        ("--cache-bytes", "-5"),
        ("--max-inputs", "1e3"),
    ],
)
def test_a_wrong_value_is_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        read_settings([name, text], {})


def test_a_wrong_secret_is_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="16 to 64 bytes") as caught:
        read_settings([], {"E2RANK_CACHE_SECRET": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_flags_are_not_guessed_from_their_beginnings() -> None:
    with pytest.raises(ConfigurationError, match="--max-doc: no such setting"):
        read_settings(["--max-doc", "1"], {})


def test_help_documents_every_setting_and_needs_no_inference_stack() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "e2rank_server", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    for setting in fields(Settings):
        assert flag(setting) in result.stdout
        assert variable(setting).startswith("E2RANK_")
    for heavy in ("torch", "vllm", "tritonclient", "transformers"):
        assert f"| {heavy}\n" not in result.stderr.replace("  ", "")


def test_wrong_settings_end_the_program_with_a_line_each_and_status_2() -> None:
    command = [sys.executable, "-m", "e2rank_server", "--listen", "x", "--tokenizer", "y"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("e2rank_server: error: --") for line in lines)
