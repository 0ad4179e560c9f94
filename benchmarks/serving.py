"""What serves, as conditions of a measurement."""

from __future__ import annotations

from e2rank_client import Model


def what_serves(model: Model) -> dict[str, str]:
    """Describe a model of a server by what decides its figures: names and types, no place."""
    identity = model.identity
    return {
        "profile": identity.profile,
        "revision": identity.revision,
        "dtype": model.compute_dtype,
        "embedder": identity.embedder_backend,
        "tokenizer": identity.tokenizer_backend,
    }
