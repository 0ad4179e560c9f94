"""Makes the reference vectors that ship with the package.

    python -m e2rank_server.probe_references all-minilm-l6-v2 smollm2-135m

Each profile is computed here in float32, and written to `profiles/probes` under
its fingerprint (see embedder/identity.py). To be run again when a profile's
fingerprint changes; files of fingerprints that are gone can be deleted.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from e2rank_server.embedder.identity import PROBE_TEXTS, dump
from e2rank_server.embedder.protocol import EmbedderPrompt
from e2rank_server.embedder.vllm_in_process import VllmInProcessEmbedder
from e2rank_server.model_folder import prepare_model_folder
from e2rank_server.profiles.fingerprint import document_fingerprint
from e2rank_server.profiles.loading import load_profile
from e2rank_server.settings import Settings
from e2rank_server.tokenizer.in_process import InProcessTokenizer
from e2rank_server.types import InputType, TextInput

DIRECTORY = Path(__file__).parent / "profiles" / "probes"


async def make_references(name: str) -> Path:
    """Compute and write a profile's references; takes half a minute."""
    profile = load_profile(name)
    folder = prepare_model_folder(profile, Settings().data_directory / "models")
    tokenizer_json = folder.tokenizer_json.read_bytes()
    fingerprint = document_fingerprint(profile, folder.revision, tokenizer_json)
    async with InProcessTokenizer(profile.prompts, folder.tokenizer_json) as tokenizer:
        texts = [TextInput(text) for text in PROBE_TEXTS]
        tokenized = await tokenizer.tokenize_texts(InputType.DOCUMENT, texts)
    embedder = await VllmInProcessEmbedder.start(profile, folder.path, dtype="float32")
    try:
        vectors = await embedder.embed([EmbedderPrompt(text.token_ids) for text in tokenized])
    finally:
        await embedder.close()
    return await asyncio.to_thread(_write, fingerprint, dump(vectors))


def _write(fingerprint: str, content: bytes) -> Path:
    DIRECTORY.mkdir(exist_ok=True)
    file = DIRECTORY / f"{fingerprint}.npy"
    file.write_bytes(content)
    return file


def main() -> None:
    """Make the references of the profiles that are named."""
    for name in sys.argv[1:]:
        sys.stdout.write(f"{name}: {asyncio.run(make_references(name))}\n")


if __name__ == "__main__":
    main()
