"""What can be said of starting vLLM without vLLM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from e2rank_server.vllm_process.cpu import kv_cache_bytes
from e2rank_server.vllm_process.environment import sigint_blocked, starting
from e2rank_server.vllm_process.hardware import choose_dtype, cpu_has_bfloat16
from e2rank_server.vllm_process.worker import GATEWAY_PID_VARIABLE


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 fma", False),
        ("avx2 avx512f avx512_vnni", False),
        ("avx2 avx512f avx512_bf16", True),
        ("avx2 amx_bf16 amx_tile", True),
    ],
)
def test_bfloat16_is_for_processors_that_have_it(flags: str, expected: bool) -> None:
    assert cpu_has_bfloat16(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t:\n") is expected


def test_a_processor_that_lists_no_flags_has_no_bfloat16() -> None:
    assert not cpu_has_bfloat16("processor : 0\nmodel name : unknown\n")


def test_a_dtype_that_was_asked_for_is_taken() -> None:
    assert choose_dtype("float32") == "float32"
    assert choose_dtype("bfloat16") == "bfloat16"


def test_the_key_value_cache_holds_two_full_prompts_in_float32(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,'
        ' "hidden_size": 576}'
    )
    keys_and_values = 2 * 30 * 3 * 64
    assert kv_cache_bytes(tmp_path, 8192) == 2 * 8192 * keys_and_values * 4


def test_every_change_to_the_environment_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("KEPT", "before")
    before = dict(os.environ)
    with starting():
        assert os.environ["HF_HUB_OFFLINE"] == "0"  # the user's own choice
        assert os.environ["VLLM_NO_USAGE_STATS"] == "1"
        assert os.environ[GATEWAY_PID_VARIABLE] == str(os.getpid())
        os.environ["LD_PRELOAD"] = "set by vLLM"
        os.environ["KEPT"] = "changed by vLLM"
    assert dict(os.environ) == before


def test_processes_started_meanwhile_never_receive_sigint() -> None:
    program = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('lives')"
    with sigint_blocked():
        result = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
    assert result.stdout == "lives\n"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize("backend", ["embedder", "generator"])
def test_the_module_does_not_import_vllm(backend: str) -> None:
    program = (
        f"import sys, e2rank_server.{backend}.vllm_in_process as module; "
        "print(sorted({'vllm', 'torch', 'transformers'} & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
