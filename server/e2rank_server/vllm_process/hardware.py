"""What vLLM computes on, and which dtype suits it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from e2rank_server.vllm_process.environment import starting

DtypeChoice: TypeAlias = Literal["auto", "bfloat16", "float32"]
Dtype: TypeAlias = Literal["bfloat16", "float32"]

# Without these instructions, vLLM's CPU kernels compute bfloat16 some five times slower
# than float32 (measured on AVX2: 837 and 4,373 tokens/s of all-MiniLM-L6-v2).
_BFLOAT16_CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


def runs_on_cpu() -> bool:
    """Say whether vLLM, as it is installed here, computes on the CPU. Blocks: imports vllm."""
    with starting():
        from vllm.platforms import current_platform
    return bool(current_platform.is_cpu())


def choose_dtype(dtype: DtypeChoice) -> Dtype:
    """Resolve "auto": bfloat16 on a GPU or a CPU with instructions for it, else float32.

    Blocks for seconds: imports vllm.
    """
    if dtype != "auto":
        return dtype
    if not runs_on_cpu():
        return "bfloat16"
    return "bfloat16" if cpu_has_bfloat16(Path("/proc/cpuinfo").read_text()) else "float32"


def cpu_has_bfloat16(cpuinfo: str) -> bool:
    """Say whether the first processor of a /proc/cpuinfo computes bfloat16 natively."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return not _BFLOAT16_CPU_FLAGS.isdisjoint(value.split())
    return False
