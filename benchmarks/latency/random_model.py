"""A model of a published shape with random weights: right for latency, meaningless for quality."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

_SEED = 0
_PROFILE = Path(__file__).resolve().parent / "profile.toml.template"
# Of SmolLM2, whose special tokens and chat template are of Qwen's kind: Qwen's own tokenizer
# comes in no package.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def make_model(
    folder: Path, name: str, shape: Mapping[str, Any], tokenizer_folder: Path, max_model_tokens: int
) -> Path:
    """Write a Qwen3 model that embeds and generates; return its profile, a file in `folder`.

    `shape` are fields of transformers' Qwen3Config. Blocks: half a minute for
    0.6 billion parameters, which are written in bfloat16.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(_SEED)
    Qwen3ForCausalLM(Qwen3Config(**shape)).to(torch.bfloat16).save_pretrained(folder)
    for file_name in _TOKENIZER_FILES:
        shutil.copyfile(tokenizer_folder / file_name, folder / file_name)
    return write_profile(folder, name, shape["hidden_size"], max_model_tokens)


def write_profile(folder: Path, name: str, dimension: int, max_model_tokens: int) -> Path:
    """Write `profile.toml`, by which the server serves the model in `folder`."""
    text = Template(_PROFILE.read_text()).substitute(
        name=json.dumps(name),
        location=json.dumps(str(folder.resolve())),
        dimension=dimension,
        max_model_tokens=max_model_tokens,
        max_prompt_tokens=max_model_tokens - 1,
    )
    profile = folder / "profile.toml"
    profile.write_text(text)
    return profile
