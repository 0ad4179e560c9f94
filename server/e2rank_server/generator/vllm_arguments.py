"""What makes vLLM run an LLM for us."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from e2rank_server.errors import ConfigurationError
from e2rank_server.vllm_process.cpu import STEP_TOKENS, cpu_arguments
from e2rank_server.vllm_process.hardware import Dtype

MAX_LOGPROBS = 120
"""The most likely tokens whose probabilities a request may ask for (FIRST's own number)."""

# A longer prompt takes a CPU minutes, and its key-value cache gigabytes.
_MAX_MODEL_TOKENS_ON_CPU = 8192


def engine_arguments(
    folder: Path, *, dtype: Dtype, max_model_tokens: int, prefix_caching: bool, is_cpu: bool
) -> dict[str, Any]:
    """Return arguments for the model in `folder`; see MakeArguments."""
    arguments: dict[str, Any] = {
        "model": str(folder),
        "runner": "generate",
        "dtype": dtype,
        "max_model_len": max_model_tokens,
        "max_logprobs": MAX_LOGPROBS,
        "enable_prefix_caching": prefix_caching,
        "scheduling_policy": "priority",
        "seed": 0,
    }
    if is_cpu:
        arguments |= cpu_arguments(folder, max_model_tokens)
        arguments["max_num_batched_tokens"] = STEP_TOKENS
    return arguments


def choose_model_length(folder: Path, *, is_cpu: bool) -> int:
    """Return how many tokens, prompt and output together, the model in `folder` takes.

    Raises:
        ConfigurationError: its config.json does not say so.
    """
    try:
        length = json.loads((folder / "config.json").read_bytes())["max_position_embeddings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            [f"{folder / 'config.json'} does not say how many tokens the model takes: {error!r}"]
        ) from error
    return min(int(length), _MAX_MODEL_TOKENS_ON_CPU) if is_cpu else int(length)
