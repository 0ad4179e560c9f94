"""An engine is what it is taken for if it computes what the fingerprint stands for."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest

from e2rank_server.embedder.fake import FakeEmbedder
from e2rank_server.embedder.identity import (
    PROBE_TEXTS,
    IdentityError,
    ProbeReferences,
    check_identity,
    dump,
)
from e2rank_server.errors import ConfigurationError
from e2rank_server.types import FloatArray
from tests.fake_vllm_server import PROBES, OtherModel

FINGERPRINT = "ab" * 16


def unit_vectors(seed: int = 0, dimension: int = 64) -> FloatArray:
    vectors = np.random.default_rng(seed).normal(size=(len(PROBE_TEXTS), dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def turned(vectors: FloatArray, cosines: list[float]) -> FloatArray:
    """Turn each row away from itself until its cosine is as given."""
    other = unit_vectors(seed=1, dimension=vectors.shape[1])
    other -= (other * vectors).sum(axis=1, keepdims=True) * vectors
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    c = np.array(cosines)[:, None]
    return (c * vectors + np.sqrt(1 - c**2) * other).astype(np.float32)


def test_the_probes_are_those_that_references_are_stored_for() -> None:
    digest = hashlib.blake2b("\0".join(PROBE_TEXTS).encode(), digest_size=8).hexdigest()
    assert digest == "d0af3c8ad22cbdcf"


def test_the_first_engine_is_trusted_recorded_and_said_to_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        ProbeReferences(FINGERPRINT, tmp_path / "probes").check(unit_vectors())
    assert "is trusted" in caplog.text
    assert [path.name for path in (tmp_path / "probes").iterdir()] == [f"{FINGERPRINT}.npy"]
    later = ProbeReferences(FINGERPRINT, tmp_path / "probes")
    later.check(unit_vectors())
    with pytest.raises(IdentityError, match="expected at least"):
        later.check(unit_vectors(seed=1))


def test_of_two_processes_that_record_the_faster_one_counts(tmp_path: Path) -> None:
    one, other = (ProbeReferences(FINGERPRINT, tmp_path) for _ in range(2))
    one.check(unit_vectors())
    with pytest.raises(IdentityError):
        other.check(unit_vectors(seed=1))
    other.check(unit_vectors())


def test_a_folder_that_cannot_be_written_is_no_reason_to_refuse_an_engine(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    references = ProbeReferences(FINGERPRINT, tmp_path / "file")
    references.check(unit_vectors())
    with pytest.raises(IdentityError):
        references.check(unit_vectors(seed=1))


@pytest.mark.parametrize(
    ("cosines", "is_same"),
    [
        ([1.0] * 6, True),
        ([0.9985, 0.9998, 0.9998, 0.9998, 0.9998, 0.9998], True),
        ([0.9973, 0.9997, 0.9997, 0.9997, 0.9997, 0.9997], True),
        ([0.9945, 1.0, 1.0, 1.0, 1.0, 1.0], False),
        ([0.998] * 6, False),
    ],
)
def test_rounding_is_forgiven_and_another_model_is_not(
    tmp_path: Path, cosines: list[float], is_same: bool
) -> None:
    references = ProbeReferences(FINGERPRINT, tmp_path)
    references.check(unit_vectors())
    if is_same:
        references.check(turned(unit_vectors(), cosines))
    else:
        with pytest.raises(IdentityError):
            references.check(turned(unit_vectors(), cosines))


def test_vectors_of_another_dimension_are_another_models(tmp_path: Path) -> None:
    references = ProbeReferences(FINGERPRINT, tmp_path)
    references.check(unit_vectors())
    with pytest.raises(IdentityError, match="shape"):
        references.check(unit_vectors(dimension=32))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not numpy",
        dump(unit_vectors()[:3]),
        dump(2 * unit_vectors()),
        dump(unit_vectors() * np.float32(np.nan)),
    ],
)
def test_a_file_that_holds_no_references_is_a_configuration_error(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / f"{FINGERPRINT}.npy").write_bytes(content)
    with pytest.raises(ConfigurationError, match=FINGERPRINT):
        ProbeReferences(FINGERPRINT, tmp_path)


async def test_an_engine_that_has_been_started_can_check_itself(tmp_path: Path) -> None:
    references = ProbeReferences(FINGERPRINT, tmp_path)
    await check_identity(FakeEmbedder(64), PROBES, references)
    await check_identity(FakeEmbedder(64), PROBES, references)
    with pytest.raises(ConfigurationError, match="not the model that was asked for"):
        await check_identity(OtherModel(64), PROBES, references)
