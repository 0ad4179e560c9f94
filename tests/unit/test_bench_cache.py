"""The cache benchmark on a small scale: that it measures what it says, not how fast anything is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cache import report
from benchmarks.cache.__main__ import SECTIONS, parse_arguments, shown_command
from benchmarks.cache.element_types import (
    CollectionVectors,
    embed_collection,
    measure_element_types,
)
from benchmarks.cache.entries import keys_of, unit_vectors
from benchmarks.cache.hit_rate import Workload, measure_hit_rates
from benchmarks.cache.lookups import measure_memory_tier
from benchmarks.collection import Collection, CollectionDocument
from e2rank_client import EmbedResult
from e2rank_server.embedding_cache.keys import KEY_BYTES

SMALL = Workload(
    documents=10_000, requests=150, scan_every=30, scan_documents=1000, percentages=(5, 10)
)


class Progress:
    def __init__(self) -> None:
        self.done = 0

    def __call__(self, done: int) -> None:
        self.done += done


def test_each_number_has_a_key_of_its_own_and_always_the_same() -> None:
    numbers = np.arange(5000)
    keys = keys_of(numbers)
    assert len(set(keys)) == len(keys)
    assert {len(key) for key in keys} == {KEY_BYTES}
    assert keys_of(numbers[10:12]) == keys[10:12]


async def test_the_memory_tier_is_measured_with_every_key_found() -> None:
    progress = Progress()
    figures = await measure_memory_tier(progress, entries=3000, lookups=5)
    assert progress.done == 3000
    assert set(figures) == {
        "l1_memory_over_raw",
        "l1_lookup_100_us_p50",
        "l1_lookup_100_us_p99",
    }
    assert 0 < figures["l1_lookup_100_us_p50"] <= figures["l1_lookup_100_us_p99"]


async def test_under_scans_the_first_tier_is_between_an_lru_and_the_ideal() -> None:
    progress = Progress()
    figures = await measure_hit_rates(SMALL, progress)
    assert progress.done == SMALL.num_batches * len(SMALL.percentages)
    for suffix in ("", ".at_5_percent", ".at_10_percent"):
        lru = figures["zipf_scan_hit_rate_lru" + suffix]
        ideal = figures["zipf_scan_hit_rate_ideal" + suffix]
        assert lru < figures["zipf_scan_hit_rate" + suffix] < ideal * 1.05  # as it is by chance
    assert figures["zipf_scan_hit_rate"] == figures["zipf_scan_hit_rate.at_10_percent"]


def test_no_document_is_scanned_twice() -> None:
    batches = list(SMALL.batches())
    assert len(batches) == SMALL.num_batches
    scanned = np.concatenate([batch for batch in batches if batch[0] >= SMALL.documents])
    assert len(np.unique(scanned)) == len(scanned) == 5 * SMALL.scan_documents


WORDS = ("red", "green", "blue", "black")
COLLECTION = Collection(
    "colours",
    tuple(CollectionDocument(f"d{n}", "", f"colour {word}") for n, word in enumerate(WORDS)),
    {"q0": "colour red", "q1": "colour blue"},
    {"q0": {"d0": 1}, "q1": {"d2": 1}},
)
IDENTITY = type("Identity", (), {"profile": "p", "fingerprint": "f"})()


class StubClient:
    """Has a direction for each colour."""

    def get_model(self, _: str) -> Any:
        return type("Model", (), {"identity": IDENTITY})()

    def embed(self, texts: list[str], **_: Any) -> EmbedResult:
        directions = dict(zip(WORDS, unit_vectors(len(WORDS), 16), strict=True))
        vectors = np.array([directions[text.split()[-1]] for text in texts])
        return type("Answer", (), {"vectors": vectors})()


def test_element_types_are_compared_on_the_vectors_of_a_server() -> None:
    progress = Progress()
    vectors = embed_collection(StubClient(), "p", COLLECTION, progress)  # type: ignore[arg-type]
    assert progress.done == 6
    figures = measure_element_types(COLLECTION, vectors)
    assert figures["ndcg_float32"] == 1
    assert figures["ndcg_float16_minus_float32"] == figures["ndcg_int8_minus_float32"] == 0


def test_vectors_are_kept_for_the_collection_that_they_were_made_of(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "vectors.npz"
    assert CollectionVectors.load(file, COLLECTION) is None
    vectors = CollectionVectors("p", "f", unit_vectors(4, 8), unit_vectors(2, 8))
    vectors.save(file)
    kept = CollectionVectors.load(file, COLLECTION)
    assert kept is not None
    assert (kept.profile, kept.fingerprint) == ("p", "f")
    np.testing.assert_array_equal(kept.documents, vectors.documents)
    np.testing.assert_array_equal(kept.queries, vectors.queries)
    assert CollectionVectors.load(file, COLLECTION.sampled(1, seed=0)) is None


def test_plots_are_drawn_of_what_was_measured(tmp_path: Path) -> None:
    names = ("zipf_scan_hit_rate", "zipf_scan_hit_rate_lru", "zipf_scan_hit_rate_ideal")
    figures = {f"{name}.at_{size}_percent": 0.5 for name in names for size in (10, 1)}
    figures |= {f"valkey_100_us_{percentile}": 300.0 for percentile in ("p50", "p99")}
    assert report.hit_rates_by_size(figures) == {name: {1: 0.5, 10: 0.5} for name in names}
    report.plot_hit_rates(figures, tmp_path / "rates.png")
    report.plot_lookups(figures, tmp_path / "lookups.png")
    report.plot_hit_rates({}, tmp_path / "none.png")
    report.plot_lookups({}, tmp_path / "none.png")
    drawn = sorted(file.name for file in tmp_path.iterdir())
    assert drawn == ["lookups.png", "rates.png"]
    assert report.table(figures).splitlines() == [
        "valkey_100_us_p50  300",
        "valkey_100_us_p99  300",
    ]


def test_a_collection_is_needed_only_for_what_is_measured_on_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "element_types" not in parse_arguments([]).only
    assert parse_arguments(["folder"]).only == list(SECTIONS)
    with pytest.raises(SystemExit):
        parse_arguments(["--only", "element_types"])
    assert "needs a FOLDER" in capsys.readouterr().err


def test_the_command_shown_names_no_path() -> None:
    options = parse_arguments(["/some/where/scifact"])
    shown = {name: shown_command(options, name) for name in ("memory", "element_types")}
    assert shown == {
        "memory": "python -m benchmarks.cache --only memory",
        "element_types": "python -m benchmarks.cache scifact --only element_types",
    }
