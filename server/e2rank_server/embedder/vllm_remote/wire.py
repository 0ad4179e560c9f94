"""What is written to vLLM's API server and read from it: token ids out, float32 bytes in.

vLLM 0.32: `POST /v1/embeddings` takes lists of token ids; with `encoding_format`
"bytes_only" the answer is the rows' elements, one after the other, and nothing
else. Its `/pooling` gives token vectors only on a server that gives nothing
else, so that prompts with a span go to a route of ours (see vllm_span_route.py).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

import numpy as np

from e2rank_server.embedder.protocol import EmbedderPrompt
from e2rank_server.embedder.validation import scale_to_unit
from e2rank_server.embedder.vllm_remote.failure import FailureReason, ReplicaError
from e2rank_server.types import FloatArray

MODELS_PATH = "/v1/models"
HEALTH_PATH = "/health"
EMBEDDINGS_PATH = "/v1/embeddings"


def embeddings_body(model: str, prompts: Sequence[EmbedderPrompt], priority: int) -> bytes:
    """Ask for the vectors of prompts without a span."""
    return json.dumps(
        {
            "model": model,
            "input": [prompt.token_ids.tolist() for prompt in prompts],
            "encoding_format": "bytes_only",
            "embed_dtype": "float32",
            "endianness": "little",
            "add_special_tokens": False,
            "priority": priority,
        }
    ).encode()


def span_body(prompt: EmbedderPrompt, priority: int) -> bytes:
    """Ask for the mean of the hidden states in a prompt's span."""
    return json.dumps(
        {
            "token_ids": prompt.token_ids.tolist(),
            "span": prompt.pooling_span,
            "priority": priority,
        }
    ).encode()


def num_answer_bytes(num_prompts: int, dimension: int) -> int:
    """Count the bytes of an answer's vectors."""
    return 4 * num_prompts * dimension


def unit_rows(answer: bytes, dimension: int) -> FloatArray:
    """Read vectors and scale them to length 1: float32 [prompts, dimension].

    Raises:
        ReplicaError: a row is zero or not finite.
    """
    vectors = np.frombuffer(answer, "<f4").reshape(-1, dimension).astype(np.float32)
    try:
        scale_to_unit(vectors)
    except ArithmeticError as error:
        raise ReplicaError(FailureReason.NONSENSE, str(error)) from error
    return vectors


def served_model(answer: bytes, names: Collection[str], min_tokens: int) -> str:
    """Find the one model of /v1/models that has one of the names and return its name.

    Raises:
        ReplicaError: there is none or more than one, or it takes less than `min_tokens`.
    """
    lengths = _lengths_by_name(answer)
    found = sorted(lengths.keys() & set(names))
    if len(found) != 1:
        raise ReplicaError(
            FailureReason.WRONG_MODEL,
            f"it serves {_shown(lengths)}; expected exactly one of {_shown(names)}",
        )
    length = lengths[found[0]]
    if not isinstance(length, int) or length < min_tokens:
        raise ReplicaError(
            FailureReason.TOO_SHORT, f"max_model_len is {length!r}; expected at least {min_tokens}"
        )
    return found[0]


def _lengths_by_name(answer: bytes) -> dict[str, object]:
    try:
        return {str(card["id"]): card.get("max_model_len") for card in json.loads(answer)["data"]}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ReplicaError(
            FailureReason.NONSENSE, f"{MODELS_PATH} is no list of models ({type(error).__name__})"
        ) from error


def _shown(names: Collection[str]) -> str:
    return ", ".join(repr(name[:100]) for name in sorted(names)[:5]) or "no model"
