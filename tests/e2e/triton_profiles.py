"""What the end-to-end tests of Triton run from, and on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from e2rank_server.model_folder import prepare_model_folder
from e2rank_server.profiles.loading import load_profile
from e2rank_server.settings import Settings
from e2rank_server.tokenizer.triton.manifest import TritonProfile

ENVIRONMENT = Settings().triton_environment
NARROW = {"max_query_tokens": 64, "max_document_tokens": 128, "max_prompt_tokens": 500}


def real_profile(name: str) -> TritonProfile:
    """A shipped profile with its real tokenizer."""
    profile = load_profile(name)
    folder = prepare_model_folder(profile, Settings().data_directory / "models")
    return TritonProfile(name, profile.prompts, folder.tokenizer_json)


def narrow(profile: TritonProfile) -> TritonProfile:
    """The same with limits that texts of a test reach."""
    return replace(
        profile, name=f"{profile.name}-narrow", prompts=replace(profile.prompts, **NARROW)
    )


def small_profiles(folder: Path) -> list[TritonProfile]:
    """The contract's small tokenizers, with the prompts of all shipped kinds."""
    # Imported here, so that its tests are not collected again with the module that asks.
    from tests.contract.test_tokenizer_contract import specifications

    profiles = []
    for name, (prompts, make) in specifications().items():
        home = folder / name
        home.mkdir()
        profiles.append(TritonProfile(f"small-{name}", prompts, make(home)))
    return profiles
