"""Pointwise cross-encoders of published shapes with random weights: for latency only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.qwen3 import QWEN3_0_6B

_SEED = 0
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def write_minilm(embedder_folder: Path, target: Path) -> None:
    """Write the classifier on all-MiniLM-L6-v2's own shape, with its tokenizer."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig.from_pretrained(embedder_folder, num_labels=1)
    _write(BertForSequenceClassification, config, target)
    for name in _TOKENIZER_FILES:
        shutil.copyfile(embedder_folder / name, target / name)


def write_qwen3(tokenizer_json: Path, target: Path) -> None:
    """Write the classifier on Qwen3-0.6B's shape.

    Its tokenizer is SmolLM2's, also a byte-level BPE: Qwen's is not to be had as a package.
    """
    from transformers import Qwen3Config, Qwen3ForSequenceClassification

    config = Qwen3Config(**QWEN3_0_6B, num_labels=1, pad_token_id=0)
    _write(Qwen3ForSequenceClassification, config, target)
    shutil.copyfile(tokenizer_json, target / "tokenizer.json")
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<|endoftext|>"}
    (target / "tokenizer_config.json").write_text(json.dumps(tokenizer))


def _write(model_class: Any, config: Any, target: Path) -> None:  # noqa: ANN401 - transformers has no types
    import torch

    torch.manual_seed(_SEED)
    model_class(config).to(torch.bfloat16).save_pretrained(target)
