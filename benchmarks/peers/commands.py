"""What starts each peer: the same model, element type, threads and lengths for all.

On the CPU: infinity's and sentence-transformers' environments have its build of
torch. Texts are short enough that none is cut (`embedding.py` counts their tokens).
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from benchmarks.peers.peer_process import PeerCommand, free_port
from benchmarks.server_flags import MEMORY_ONLY
from e2rank_server.embedder.vllm_arguments import engine_arguments
from e2rank_server.profiles.profile import Profile
from e2rank_server.vllm_process.environment import engine_variables
from e2rank_server.vllm_server import SERVER_MODULE, flags

ROOT = Path(__file__).resolve().parents[2]
INFINITY_PROGRAM = ROOT / ".venv-peers" / "bin" / "infinity_emb"

VLLM, INFINITY, SENTENCE_TRANSFORMERS = "vllm_http", "infinity", "sentence_transformers"
PEERS = (VLLM, INFINITY, SENTENCE_TRANSFORMERS)

PROFILE = "all-minilm-l6-v2"
DTYPE: Literal["float32"] = "float32"
"""All of them compute in it, on every processor."""
SERVER_FLAGS = ("--profile", PROFILE, "--dtype", DTYPE, *MEMORY_ONLY)
"""Of our own server."""
BATCH_SIZE = 32
"""Of infinity and sentence-transformers, their default; vLLM batches by tokens."""
MODEL_NAME = "model"
MAX_PAIR_TOKENS = 512

_KV_CACHE_BYTES = 1 << 30

Task: TypeAlias = Literal["embed", "rerank"]


def our_command() -> str:
    """Return how our own server is started, as it is published."""
    return shlex.join([".venv/bin/python", "-m", "e2rank_server", *SERVER_FLAGS])


def num_threads() -> int:
    """Return how many cores each side has: all that this process may use."""
    return len(os.sched_getaffinity(0))


def embedding_commands(profile: Profile, folder: Path) -> dict[str, PeerCommand]:
    """Return what makes each peer embed with a profile's model, by its name."""
    engine = engine_arguments(profile, folder, dtype=DTYPE, prefix_caching=False, is_cpu=True)
    return {
        VLLM: _vllm(engine),
        INFINITY: _infinity(folder),
        SENTENCE_TRANSFORMERS: _sentence_transformers(folder, "embed"),
    }


def cross_encoder_commands(folder: Path) -> dict[str, PeerCommand]:
    """Return what makes each peer rerank with a cross-encoder, by its name."""
    engine = {
        "model": str(folder),
        "runner": "pooling",
        "dtype": DTYPE,
        "max_model_len": MAX_PAIR_TOKENS,
        "enable_prefix_caching": False,
        "seed": 0,
        "enforce_eager": True,
        "kv_cache_memory_bytes": _KV_CACHE_BYTES,
    }
    return {
        VLLM: _vllm(engine),
        INFINITY: _infinity(folder),
        SENTENCE_TRANSFORMERS: _sentence_transformers(folder, "rerank"),
    }


def shown_names(folder: Path) -> dict[str, str]:
    """Return what stands for this machine's paths in a command that is published."""
    return {
        sys.executable: ".venv/bin/python",
        str(INFINITY_PROGRAM): ".venv-peers/bin/infinity_emb",
        str(folder): "MODEL",
    }


def _vllm(engine: Mapping[str, Any]) -> PeerCommand:
    """Run vLLM's own server with the arguments of our engine, saying as little as it can."""
    port = free_port()
    server = {
        "served_model_name": MODEL_NAME,
        "host": "127.0.0.1",
        "port": port,
        "disable_log_stats": True,
        "disable_uvicorn_access_log": True,
    }
    arguments = [sys.executable, "-m", SERVER_MODULE, *flags({**engine, **server})]
    return PeerCommand(VLLM, arguments, engine_variables(), port)


def _infinity(folder: Path) -> PeerCommand:
    """Run infinity-emb on torch, without what it would have to install or compile first."""
    port = free_port()
    arguments = [str(INFINITY_PROGRAM), "v2", "--model-id", str(folder)]
    arguments += ["--served-model-name", MODEL_NAME]
    arguments += ["--engine", "torch", "--device", "cpu", "--dtype", DTYPE]
    arguments += ["--batch-size", str(BATCH_SIZE), "--no-bettertransformer", "--no-compile"]
    arguments += ["--no-vector-disk-cache", "--no-model-warmup", "--log-level", "warning"]
    arguments += ["--host", "127.0.0.1", "--port", str(port)]
    variables = _torch_variables() | {"INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    return PeerCommand(INFINITY, arguments, variables, port)


def _sentence_transformers(folder: Path, task: Task) -> PeerCommand:
    """Run the library in a process of its own, which tells how long its calls took."""
    port = free_port()
    arguments = [sys.executable, "-m", "benchmarks.peers.sentence_transformers_process", task]
    arguments += ["--model", str(folder), "--port", str(port)]
    arguments += ["--batch-size", str(BATCH_SIZE), "--max-tokens", str(MAX_PAIR_TOKENS)]
    return PeerCommand(SENTENCE_TRANSFORMERS, arguments, _torch_variables(), port)


def _torch_variables() -> dict[str, str]:
    return {
        "OMP_NUM_THREADS": str(num_threads()),
        "HF_HUB_OFFLINE": "1",  # the model is a local folder
        "DO_NOT_TRACK": "1",
    }
