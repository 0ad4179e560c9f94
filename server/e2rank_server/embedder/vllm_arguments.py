"""What makes vLLM serve a profile, here or as a server elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from e2rank_server.profiles.profile import Pooling, Profile
from e2rank_server.vllm_process.cpu import STEP_TOKENS, cpu_arguments
from e2rank_server.vllm_process.hardware import Dtype


def engine_arguments(
    profile: Profile, folder: Path, *, dtype: Dtype, prefix_caching: bool, is_cpu: bool
) -> dict[str, Any]:
    """Return arguments for the model in `folder`; see MakeArguments."""
    arguments: dict[str, Any] = {
        "model": str(folder),
        "runner": "pooling",
        "dtype": dtype,
        "max_model_len": profile.max_model_tokens,
        "pooler_config": {"pooling_type": profile.pooling.value},
        # vLLM fails an assertion if it is on for an encoder, whose tokens all see
        # one another; MEAN pooling needs all tokens computed, too.
        "enable_prefix_caching": prefix_caching and profile.pooling is Pooling.LAST,
        "scheduling_policy": "priority",
        "seed": 0,
    }
    if is_cpu:
        arguments |= cpu_arguments(folder, profile.max_model_tokens)
        if profile.pooling is Pooling.LAST:
            arguments["max_num_batched_tokens"] = STEP_TOKENS
    return arguments
