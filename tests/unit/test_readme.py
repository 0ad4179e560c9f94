"""The README's figures and commands are those of the project."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
QUALITY = json.loads((ROOT / "benchmarks" / "results" / "quality.json").read_text())["figures"]

COLLECTIONS = {"SciFact": "scifact", "NQ (mini)": "nq_mini"}
RANKINGS = {
    "BM25": "bm25",
    "dense retrieval": "all-minilm-l6-v2.dense",
    "BM25 → `COSINE`": "all-minilm-l6-v2.bm25.cosine",
    "BM25 → `E2RANK`": "all-minilm-l6-v2.bm25.e2rank",
}


@pytest.mark.parametrize("ranking", RANKINGS)
def test_the_quality_table_says_what_the_benchmark_measured(ranking: str) -> None:
    [row] = [line for line in README.splitlines() if line.startswith(f"| {ranking} |")]
    shown = [cell.strip() for cell in row.strip("|").split("|")[1:]]
    measured = [
        f"{QUALITY[f'{collection}.{RANKINGS[ranking]}.ndcg@10']:.3f}".lstrip("0")
        for collection in COLLECTIONS.values()
    ]
    assert shown == measured


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"(?:^    |`)make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "requirements/README.md"),
    *("docs/client.md", "docs/metrics.md"),
)


def test_every_relative_link_of_the_documents_leads_somewhere() -> None:
    for document in (
        "README.md",
        "CONTRIBUTING.md",
        "docs/client.md",
        "docs/metrics.md",
        "requirements/README.md",
    ):
        text = (ROOT / document).read_text()
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (ROOT / document).parent.joinpath(target).exists(), f"{document}: {target}"


def test_every_shipped_profile_is_in_the_readme() -> None:
    for profile in (ROOT / "server" / "e2rank_server" / "profiles").glob("*.toml"):
        assert f"`{profile.stem}`" in README


LATENCY = json.loads((ROOT / "benchmarks" / "results" / "latency.json").read_text())["figures"]
SHAPES = {
    "SmolLM2-135M, passages of 100 words": "smollm2-100w",
}
SHOWN_OF_A_SHAPE = (
    "warm_seconds",
    "cold_seconds",
    "llm_seconds",
    "warm_speedup",
    "warm_bound",
    "cold_speedup",
    "cold_bound",
)


@pytest.mark.parametrize("title", SHAPES)
def test_the_latency_table_says_what_the_benchmark_measured(title: str) -> None:
    [row] = [line for line in README.splitlines() if line.startswith(f"| {title} |")]
    shown = [cell.strip() for cell in row.strip("|").split("|")[1:]]
    for text, name in zip(shown, SHOWN_OF_A_SHAPE, strict=True):
        assert_rounded(text, LATENCY[f"{SHAPES[title]}.{name}"])


def test_every_shape_that_was_measured_is_in_the_latency_table() -> None:
    assert {name.partition(".warm_speedup")[0] for name in LATENCY if ".warm_speedup" in name} == (
        set(SHAPES.values())
    )


def assert_rounded(text: str, measured: float) -> None:
    """See that a figure is shown rounded, and not better than it is."""
    assert float(text) == round(measured, len(text.partition(".")[2]))


OVERHEAD = json.loads((ROOT / "benchmarks" / "results" / "overhead.json").read_text())["figures"]
CACHE = json.loads((ROOT / "benchmarks" / "results" / "cache.json").read_text())["figures"]
PEERS = json.loads((ROOT / "benchmarks" / "results" / "peers.json").read_text())["figures"]
COSTS = {
    "best cross-encoder ÷ `E2RANK` warm": [PEERS["crossencoder_over_warm"]],
    "best cross-encoder ÷ `E2RANK` cold": [PEERS["crossencoder_over_cold"]],
    "best cross-encoder ÷ `E2RANK` on": [PEERS["crossencoder_over_zipf"]],
    "share of documents that has": [PEERS["break_even_hit_rate"]],
    "`Embed` ÷ vLLM's HTTP": [PEERS["embed_over_vllm_http"]],
    "`Embed` ÷ infinity": [PEERS["embed_over_infinity"]],
    "`Embed` ÷ sentence": [PEERS["embed_over_sentence_transformers"]],
    "rankings by `COSINE`": [
        PEERS[f"agreement.{peer}"] for peer in ("vllm_http", "infinity", "sentence_transformers")
    ],
    "warm `E2RANK`": [OVERHEAD["default.warm_rerank_over_passes_p50"]],
    "the same, SmolLM2": [OVERHEAD["smollm2.warm_rerank_over_encode_p50"]],
    "cold rerank": [OVERHEAD["cold_over_warm_p50"]],
    "share of a warm rerank": [OVERHEAD["triton_share_of_rerank"]],
    "`Embed` ÷ the bare": [OVERHEAD["embed_over_bare_engine"]],
    "gateway on fakes": [OVERHEAD["gateway_over_echo"]],
    "look-up of 100": [CACHE["l1_lookup_100_us_p50"]],
    "memory of the cache": [CACHE["l1_memory_over_raw"]],
    "hit rate": [CACHE["zipf_scan_hit_rate"], CACHE["zipf_scan_hit_rate_lru"]],
}


@pytest.mark.parametrize("what", COSTS)
def test_the_table_of_costs_says_what_the_benchmarks_measured(what: str) -> None:
    [row] = [line for line in README.splitlines() if line.startswith(f"| {what}")]
    shown = row.strip("|").split("|")[-1].strip().split(", ")
    for text, measured in zip(shown, COSTS[what], strict=True):
        assert_rounded(text, measured)
