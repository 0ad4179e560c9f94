"""A model of a published shape with random weights, as the latency experiment makes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.latency.random_model import make_model
from benchmarks.qwen3 import QWEN3_0_6B
from e2rank_server.model_folder import prepare_generator_folder, prepare_model_folder
from e2rank_server.profiles.loading import load_profile
from tests.contract.small_tokenizers import smollm_like

pytestmark = pytest.mark.e2e


def test_made_model_is_one_that_embeds_and_generates(tmp_path: Path) -> None:
    tokenizer = smollm_like(tmp_path).parent
    (tokenizer / "tokenizer_config.json").write_text("{}")
    (tokenizer / "chat_template.jinja").write_text("{{ messages }}")
    tiny = {
        **QWEN3_0_6B,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
    }
    folder = tmp_path / "made"
    profile = make_model(folder, "made", tiny, tokenizer, max_model_tokens=4096)
    prepared = prepare_model_folder(load_profile(str(profile)), tmp_path / "models")
    assert prepared.path == prepare_generator_folder(str(folder), tmp_path / "models")
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert {name: config[name] for name in tiny if name != "rope_theta"} == {
        name: value for name, value in tiny.items() if name != "rope_theta"
    }
    assert config["rope_parameters"]["rope_theta"] == tiny["rope_theta"]
    # Embedding and output are one matrix, of 2 bytes a number.
    assert (folder / "model.safetensors").stat().st_size > 2 * 8 * 151936
    assert (folder / "model.safetensors").stat().st_size < 3 * 8 * 151936
    assert (folder / "chat_template.jinja").read_text() == "{{ messages }}"
