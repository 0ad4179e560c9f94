"""Which profiles a Triton server tokenizes for: a JSON file that its models read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2rank_server.errors import ConfigurationError
from e2rank_server.prompting.specification import PromptSpecification

MANIFEST_VARIABLE = "E2RANK_TRITON_MANIFEST"
"""Environment variable with the manifest's path."""


@dataclass(frozen=True, slots=True)
class TritonProfile:
    """What Triton needs to know of a profile."""

    name: str
    prompts: PromptSpecification
    tokenizer_json: Path

    @property
    def key(self) -> str:
        """Name this profile in requests: its name, and a digest of all that decides its ids.

        A Triton with another template or tokenizer under the same name knows no
        such profile, and says so, instead of answering with other ids.
        """
        digest = hashlib.blake2b(digest_size=8)
        for part in (self.prompts.to_json().encode(), self.tokenizer_json.read_bytes()):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        return f"{self.name}@{digest.hexdigest()}"


def write_manifest(path: Path, profiles: Sequence[TritonProfile]) -> None:
    """Write `{name: {"prompts": PromptSpecification, "tokenizer": path}}`."""
    content = {
        profile.name: {
            "prompts": json.loads(profile.prompts.to_json()),
            "tokenizer": str(profile.tokenizer_json.absolute()),
        }
        for profile in profiles
    }
    path.write_text(json.dumps(content, indent=1))


def read_manifest(environment: Mapping[str, str] = os.environ) -> list[TritonProfile]:
    """Read the manifest that MANIFEST_VARIABLE names; a relative tokenizer path starts beside it.

    Raises ConfigurationError when there is none, or it does not say what it should.
    """
    if not (value := environment.get(MANIFEST_VARIABLE)):
        raise ConfigurationError([f"{MANIFEST_VARIABLE} names no manifest"])
    path = Path(value)
    try:
        content = json.loads(path.read_bytes())
        profiles = [
            TritonProfile(
                name,
                PromptSpecification.from_json(json.dumps(entry["prompts"])),
                path.parent / entry["tokenizer"],
            )
            for name, entry in content.items()
        ]
    except (OSError, ValueError, AttributeError, LookupError, TypeError) as error:
        problem = f"{path}: not a manifest of profiles: {type(error).__name__}: {error}"
        raise ConfigurationError([problem]) from error
    if not profiles:
        raise ConfigurationError([f"{path}: names no profile"])
    return profiles
