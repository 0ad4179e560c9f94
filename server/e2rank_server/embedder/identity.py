"""Tells whether an engine computes what a fingerprint stands for: fixed probes, compared.

A fingerprint names the space that document vectors live in, but nobody can read
it off an engine. So each fingerprint has reference vectors of the same few
sentences, and an engine is believed when its own are nearly the same.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from e2rank_server.embedder.protocol import Embedder, EmbedderPrompt
from e2rank_server.errors import ConfigurationError
from e2rank_server.types import FloatArray

logger = logging.getLogger(__name__)

# Stored references hold for exactly these texts: changing one needs another folder name.
PROBE_TEXTS = (
    "Salt",
    "When does the night train to Vienna leave?",
    "The bridge was closed for eleven weeks after the flood of 1997.",
    "A catalyst lowers the activation energy of a reaction without being used up, so that one "
    "gram of platinum can serve for years.",
    "Der Vertrag verlängert sich um zwölf Monate, wenn er nicht bis zum 30. September gekündigt "
    "wird.",
    "def area(width, height):\n    return width * height  # in square metres\n\nThe function above "
    "says nothing of negative numbers; callers have been relying on that since version 2.4, and "
    "three of them pass a height of -1 to mean that it is unknown.",
)
"""To be tokenized as documents. Of several lengths, languages and kinds."""

# What is computed in bfloat16 lies this near to float32: of SmolLM2, which is the worst of the
# shipped models, one text in fifty falls below .999, down to .9973. Another model, another
# pooling or a forgotten end-of-text token gives less than .99 on most texts.
MIN_MEAN_COSINE = 0.999
MIN_COSINE = 0.995


class IdentityError(Exception):
    """The vectors are not those of the fingerprint; the message has the cosines."""


class ProbeReferences:
    """The reference vectors of one fingerprint, float32 [probes, dimension], rows of length 1.

    Looked for among those that ship with the package, then in `directory`, as
    `<fingerprint>.npy`. If there are none, the first engine that is checked
    defines them, which the log says. Reads and writes a few kilobytes.
    """

    def __init__(self, fingerprint: str, directory: Path) -> None:
        """Load what is stored.

        Raises:
            ConfigurationError: a file is there and holds no such vectors.
        """
        self._fingerprint = fingerprint
        self._file = directory / f"{fingerprint}.npy"
        self._vectors = _shipped(fingerprint)
        if self._vectors is None and self._file.exists():
            self._vectors = _parse(self._file.read_bytes(), self._file)

    def check(self, vectors: FloatArray) -> None:
        """Compare an engine's vectors of the probes with the references, or record them.

        Raises:
            IdentityError: they are not the same.
        """
        if self._vectors is None:
            self._vectors = self._record(vectors)
        if vectors.shape != self._vectors.shape:
            raise IdentityError(
                f"vectors of shape {vectors.shape} where the fingerprint's have "
                f"{self._vectors.shape}"
            )
        cosines = np.einsum("ij,ij->i", vectors, self._vectors)
        mean, least = float(cosines.mean()), float(cosines.min())
        # Written so that NaN fails.
        if not (mean >= MIN_MEAN_COSINE and least >= MIN_COSINE):
            raise IdentityError(
                f"cosine with the vectors of fingerprint {self._fingerprint}: mean {mean:.4f}, "
                f"least {least:.4f}; expected at least {MIN_MEAN_COSINE} and {MIN_COSINE}"
            )

    def _record(self, vectors: FloatArray) -> FloatArray:
        """Make the vectors the references, unless another process was faster; return those."""
        logger.warning(
            "no reference vectors are stored for fingerprint %s: the engine checked first is "
            "trusted, its vectors of the probes are recorded in %s",
            self._fingerprint,
            self._file,
        )
        try:
            _write_once(self._file, dump(vectors))
        except OSError:
            if self._file.exists():
                return _parse(self._file.read_bytes(), self._file)
            logger.exception("could not write %s: trusted until this process ends", self._file)
        return vectors


async def check_identity(
    embedder: Embedder, probe_prompts: Sequence[EmbedderPrompt], references: ProbeReferences
) -> None:
    """Check an engine that has just been started; records its vectors if it is the first.

    Raises:
        ConfigurationError: it computes other vectors than the fingerprint stands for.
    """
    try:
        references.check(await embedder.embed(probe_prompts))
    except IdentityError as error:
        raise ConfigurationError(
            [f"the engine is not the model that was asked for: {error}"]
        ) from (error)


def dump(vectors: FloatArray) -> bytes:
    """Write references as the content of an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, vectors.astype(np.float32), allow_pickle=False)
    return buffer.getvalue()


def _write_once(file: Path, content: bytes) -> None:
    """Let the file appear whole; FileExistsError if it is there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_bytes(content)
    try:
        os.link(draft, file)  # which, unlike a rename, replaces nothing
    finally:
        draft.unlink()


def _shipped(fingerprint: str) -> FloatArray | None:
    file = resources.files("e2rank_server.profiles") / "probes" / f"{fingerprint}.npy"
    return _parse(file.read_bytes(), file) if file.is_file() else None


def _parse(content: bytes, source: object) -> FloatArray:
    try:
        vectors = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ConfigurationError([f"{source} is no .npy file: {error}"]) from error
    if not (
        vectors.dtype == np.float32
        and vectors.ndim == 2
        and len(vectors) == len(PROBE_TEXTS)
        and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    ):
        raise ConfigurationError(
            [
                f"{source} has {vectors.dtype} {vectors.shape}, not {len(PROBE_TEXTS)} float32 "
                "vectors of length 1: delete it"
            ]
        )
    result: FloatArray = vectors
    return result
