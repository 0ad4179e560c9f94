"""Makes the reference vectors that ship with the package.

    python -m e2rank_server.probe_references all-minilm-l6-v2 smollm2-135m

Each profile is computed here in float32, and written to `profiles/probes` under
its fingerprint (see embedder/identity.py). To be run again when a profile's
fingerprint changes; files of fingerprints that are gone can be deleted.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from e2rank_server import app
from e2rank_server.embedder.identity import dump
from e2rank_server.embedder.vllm_in_process import VllmInProcessEmbedder
from e2rank_server.settings import Settings
from e2rank_server.tokenizer.in_process import InProcessTokenizer

DIRECTORY = Path(__file__).parent / "profiles" / "probes"


async def make_references(name: str) -> Path:
    """Compute and write a profile's references; takes half a minute."""
    [prepared] = app.prepare(replace(Settings(), profile=(name,)))
    profile, folder = prepared.profile, prepared.folder
    async with InProcessTokenizer(profile.prompts, folder.tokenizer_json) as tokenizer:
        probe_prompts = await app.tokenize_probes(tokenizer)
    embedder = await VllmInProcessEmbedder.start(profile, folder.path, dtype="float32")
    try:
        vectors = await embedder.embed(probe_prompts)
    finally:
        await embedder.close()
    return await asyncio.to_thread(_write, prepared.fingerprint, dump(vectors))


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
