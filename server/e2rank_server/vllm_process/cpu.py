"""How vLLM is to use a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Room in the key-value cache, in prompts of full length; on a CPU more of them at once
# are no faster.
_FULL_PROMPTS_IN_KV_CACHE = 2

STEP_TOKENS = 512
"""Tokens computed in one step, where a prompt may be computed in parts.

An aborted request holds the engine to the end of the step; vLLM's 2048 are no
faster on a CPU (measured).
"""


def cpu_arguments(folder: Path, max_model_tokens: int) -> dict[str, Any]:
    """Return engine arguments for the model in `folder`, under AsyncEngineArgs' names."""
    return {
        # Compiling takes a minute at the first start and gains little for these models.
        "enforce_eager": True,
        # Else vLLM takes most of the machine's memory, and refuses to start if
        # something else has it.
        "kv_cache_memory_bytes": kv_cache_bytes(folder, max_model_tokens),
    }


def kv_cache_bytes(folder: Path, max_model_tokens: int) -> int:
    """Size a decoder's key-value cache in float32; encoders have none and ignore it."""
    config = json.loads((folder / "config.json").read_bytes())
    heads = config["num_attention_heads"]
    head_dimension = config.get("head_dim") or config["hidden_size"] // heads
    key_value_heads = config.get("num_key_value_heads") or heads
    bytes_per_token = 2 * 4 * config["num_hidden_layers"] * key_value_heads * head_dimension
    return int(_FULL_PROMPTS_IN_KV_CACHE * max_model_tokens * bytes_per_token)
