"""The sections of the benchmark: what runs during each, its conditions and its figures."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.collection import read_collection
from benchmarks.figures import Figures, Provenance, Section
from benchmarks.overhead.texts import Texts
from benchmarks.peers import commands
from benchmarks.peers.agreement import TIE, measure_agreement
from benchmarks.peers.cross_encoders import write_minilm, write_qwen3
from benchmarks.peers.embedding import (
    HEADLINE,
    LOADS,
    PASSAGE_WORDS,
    Load,
    count_tokens,
    headlines,
    measure_embedding,
)
from benchmarks.peers.peer_process import RunningPeer
from benchmarks.peers.reranking import (
    RerankingPlan,
    RerankingSamples,
    best_peer,
    cross_encoder_figures,
    measure_cross_encoder,
    measure_reranking,
    reranking_figures,
)
from benchmarks.peers.sides import EmbeddingPeer, HttpPeer, OurServer, SentenceTransformersPeer
from benchmarks.peers.stage import Stage
from benchmarks.serving import what_serves
from e2rank_client import AsyncE2RankClient
from e2rank_server.model_folder import prepare_model_folder
from e2rank_server.profiles.loading import load_profile

AGREEMENT, EMBEDDING, CROSS_ENCODERS = "agreement", "embedding", "crossencoders"
LARGE = "crossencoders_large"
SECTIONS = (AGREEMENT, EMBEDDING, CROSS_ENCODERS)

_COLLECTION = Path(__file__).resolve().parents[1] / "demo" / "collection"
_BYTE_LEVEL_PROFILE = "smollm2-135m"
_EMBEDDINGS_PATHS = {commands.VLLM: "/v1/embeddings", commands.INFINITY: "/embeddings"}
_COUNTED_PASSAGES = 1000


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    loads: Sequence[Load] = LOADS
    reranking: RerankingPlan = field(default_factory=RerankingPlan)
    large_candidates: int = 100
    large_requests: int = 2


QUICK = Plan(
    loads=[replace(load, requests_per_client=1, turns=2) for load in (LOADS[0], HEADLINE)],
    reranking=RerankingPlan(turns=2, candidates=10, requests_per_turn=2, zipf_documents=50),
    large_candidates=4,
    large_requests=1,
)


class Benchmark:
    """Measures sections, whose provenance says that `command` made them."""

    def __init__(self, plan: Plan, stage: Stage, models_directory: Path, command: str) -> None:
        self._plan = plan
        self._stage = stage
        self._models_directory = models_directory
        self._command = command
        self._profile = load_profile(commands.PROFILE)
        self._model = prepare_model_folder(self._profile, models_directory)

    def sections(self, names: Sequence[str]) -> Generator[Section]:
        """Yield each section as soon as it is measured.

        Raises:
            PeerError, ServerStartError: Something did not start or answer.
            WrongAnswerError, WrongHitRateError, CutTextError: The sides did not do the same.
        """
        if set(names) & set(SECTIONS):
            with self._stage.our_server() as address:
                if AGREEMENT in names or EMBEDDING in names:
                    yield from self._with_embedders(address, names)
                if CROSS_ENCODERS in names:
                    yield self._cross_encoders(address)
        if LARGE in names:
            yield self._large()

    def _with_embedders(self, address: str, names: Sequence[str]) -> Iterator[Section]:
        available = commands.embedding_commands(self._profile, self._model.path)
        with self._stage.started(available, self._model.path) as (peers, lines):
            conditions = self._conditions(lines)
            if AGREEMENT in names:
                yield asyncio.run(self._agreement(address, peers, conditions))
            if EMBEDDING in names:
                yield asyncio.run(self._embedding(address, peers, conditions))

    async def _agreement(
        self, address: str, peers: Sequence[RunningPeer], conditions: dict[str, Any]
    ) -> Section:
        provenance = Provenance.of(self._command)
        collection = read_collection(_COLLECTION)
        texts = [*collection.queries.values(), *(each.full_text for each in collection.documents)]
        conditions |= {"queries": len(collection.queries), "documents": len(collection.documents)}
        conditions |= self._tokens(texts) | {"scores_of_a_tie_differ_by_at_most": TIE}
        conditions["e2rank"] = await _identity(address)
        async with OurServer(address).connect() as ours:
            figures = await measure_agreement(ours, sides_of(peers), collection)
        return Section(AGREEMENT, provenance, conditions, figures)

    async def _embedding(
        self, address: str, peers: Sequence[RunningPeer], conditions: dict[str, Any]
    ) -> Section:
        provenance = Provenance.of(self._command)
        loads = self._plan.loads
        conditions |= {"passage_words": PASSAGE_WORDS, **self._tokens(_passages())}
        conditions["e2rank"] = await _identity(address)
        sides = [OurServer(address), *sides_of(peers)]
        with self._stage.progress("embedding", sum(load.turns for load in loads)) as advance:
            figures = await measure_embedding(sides, loads, advance)
        return Section(EMBEDDING, provenance, conditions, headlines(figures) | figures)

    def _cross_encoders(self, address: str) -> Section:
        plan = self._plan.reranking
        with (
            self._random_model(partial(write_minilm, self._model.path)) as folder,
            self._stage.started(commands.cross_encoder_commands(folder), folder) as (peers, lines),
        ):
            provenance = Provenance.of(self._command)
            conditions = self._conditions(lines) | {
                "candidates": plan.candidates,
                "passage_words": PASSAGE_WORDS,
                "zipf_documents": plan.zipf_documents,
                "zipf_exponent": plan.zipf_exponent,
                **self._tokens(_passages()),
            }
            samples = asyncio.run(self._rerank(address, peers, conditions))
        figures = reranking_figures(samples, plan)
        conditions["best_crossencoder"] = best_peer(samples.peers)
        if "break_even_hit_rate" not in figures:
            conditions["break_even"] = "none: slower than the best cross-encoder at every hit rate"
        return Section(CROSS_ENCODERS, provenance, conditions, figures)

    async def _rerank(
        self, address: str, peers: Sequence[RunningPeer], conditions: dict[str, Any]
    ) -> RerankingSamples:
        plan = self._plan.reranking
        conditions["e2rank"] = await _identity(address)
        with self._stage.progress("reranking, MiniLM's shape", plan.turns) as advance:
            return await measure_reranking(OurServer(address), sides_of(peers), plan, advance)

    def _large(self) -> Section:
        """Measure one peer after another: together they may not fit into memory."""
        source = prepare_model_folder(load_profile(_BYTE_LEVEL_PROFILE), self._models_directory)
        candidates, requests = self._plan.large_candidates, self._plan.large_requests
        provenance = Provenance.of(self._command)
        seconds: dict[str, list[float]] = {}
        lines: dict[str, str] = {}
        with self._random_model(partial(write_qwen3, source.tokenizer_json)) as folder:
            for name, command in self._stage.chosen(commands.cross_encoder_commands(folder)):
                with self._stage.started({name: command}, folder) as (peers, line):
                    lines |= line
                    [side] = sides_of(peers)
                    what = f"reranking, Qwen3-0.6B's shape, {name}"
                    with self._stage.progress(what, requests) as advance:
                        measuring = measure_cross_encoder(side, candidates, requests, advance)
                        seconds[name] = asyncio.run(measuring)
        conditions = self._conditions(lines) | {
            "candidates": candidates,
            "passage_words": PASSAGE_WORDS,
        }
        figures: Figures = cross_encoder_figures("qwen3_06b", seconds)
        return Section(LARGE, provenance, conditions, figures)

    @contextmanager
    def _random_model(self, write: Callable[[Path], None]) -> Iterator[Path]:
        """Let `write` make a model in a folder that goes with the block."""
        self._models_directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._models_directory, prefix="random-") as name:
            with self._stage.progress("making a cross-encoder with random weights", None):
                write(Path(name))
            yield Path(name)

    def _conditions(self, lines: Mapping[str, str]) -> dict[str, Any]:
        return {
            "commands": {"e2rank": commands.our_command(), **lines},
            "dtype": commands.DTYPE,
            "threads": commands.num_threads(),
        }

    def _tokens(self, texts: Sequence[str]) -> dict[str, int]:
        """Count the texts' tokens; refuses texts of which a side would cut something."""
        prompts = self._profile.prompts
        limit = min(prompts.max_query_tokens, prompts.max_document_tokens)
        counts = count_tokens(self._model.tokenizer_json, texts, limit)
        return {"min_tokens": min(counts), "max_tokens": max(counts)}


def sides_of(peers: Sequence[RunningPeer]) -> list[EmbeddingPeer]:
    """Return how each peer is called; they must be ready, with all their processes."""
    return [
        SentenceTransformersPeer(peer)
        if peer.name == commands.SENTENCE_TRANSFORMERS
        else HttpPeer(peer, _EMBEDDINGS_PATHS[peer.name])
        for peer in peers
    ]


async def _identity(address: str) -> dict[str, str]:
    """Say what our server serves, and with what."""
    async with AsyncE2RankClient(address) as client:
        model = await client.get_model()
    return what_serves(model)


def _passages() -> list[str]:
    texts = Texts()
    return [texts.passage(PASSAGE_WORDS) for _ in range(_COUNTED_PASSAGES)]
