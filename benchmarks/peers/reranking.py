"""Reranking by our server beside pointwise cross-encoders of the same shape.

A cross-encoder reads the query with every candidate anew. Ours reads what it
does not know of the candidates, and one prompt; so what it takes depends on
the hit rate, which is set here: a share of the candidates is embedded before
the clock runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from benchmarks.figures import Figures
from benchmarks.intervals import Estimate, median, ratio_of_medians
from benchmarks.overhead.texts import Texts
from benchmarks.peers.break_even import break_even_hit_rate
from benchmarks.peers.sides import EmbeddingPeer, MethodName, OurClient, OurServer
from benchmarks.peers.turns import alone, order
from benchmarks.zipf import popularity
from e2rank_client import RerankResult

PASSAGE_WORDS = 100
_WARM_UP_CANDIDATES = 4
_SEED = 0
COLD, WARM, ZIPF = "cold", "warm", "zipf"

RerankingPeer = EmbeddingPeer
"""A peer that was started with a cross-encoder."""


class WrongHitRateError(Exception):
    """Other documents were cached than the measurement supposes."""


@dataclass(frozen=True, slots=True)
class RerankingPlan:
    """How much to measure."""

    turns: int = 7
    candidates: int = 100
    requests_per_turn: int = 5
    """Of what is quick, warm and Zipf: their median is the turn's sample."""
    hit_rates: tuple[float, ...] = (0.5, 0.9)
    """Between cold (0) and warm (1)."""
    zipf_documents: int = 5000
    zipf_exponent: float = 1.0


@dataclass(slots=True)
class RerankingSamples:
    """Seconds, a sample a turn: of each peer, and of ours by method and state of the cache."""

    peers: dict[str, list[float]] = field(default_factory=dict)
    ours: dict[str, list[float]] = field(default_factory=dict)
    zipf_seconds: list[float] = field(default_factory=list)
    zipf_cached: list[int] = field(default_factory=list)


class ZipfCandidates:
    """Requests whose candidates are asked for by Zipf's law: the k-th at a rate of 1/k^s."""

    def __init__(self, passages: Sequence[str], exponent: float, candidates: int) -> None:
        self._shares = popularity(len(passages), exponent)
        self._passages = passages
        self._candidates = candidates
        self._numbers = np.random.default_rng(_SEED)

    def __iter__(self) -> Iterator[list[str]]:
        while True:
            drawn = self._numbers.choice(
                len(self._passages), self._candidates, replace=False, p=self._shares
            )
            yield [self._passages[number] for number in drawn]


class OurReranking:
    """Reranks on our server in one state of its cache after another."""

    def __init__(self, plan: RerankingPlan, samples: RerankingSamples) -> None:
        self._plan = plan
        self._samples = samples
        self._texts = Texts(seed=1)
        documents = [self._texts.passage(PASSAGE_WORDS) for _ in range(plan.zipf_documents)]
        self._zipf = iter(ZipfCandidates(documents, plan.zipf_exponent, plan.candidates))

    async def run_turn(self, ours: OurClient, turn: int, passages: list[str]) -> None:
        """Measure each method and state once, with candidates that are new in this turn."""
        methods: tuple[MethodName, ...] = ("E2RANK", "COSINE")
        for method in methods:
            rerank = partial(self._rerank, ours, method, f"{method}-{turn}", passages)
            self._add(method, COLD, [await rerank(cached=0)])
            repeats = range(self._plan.requests_per_turn)
            self._add(method, WARM, [await rerank(cached=len(passages)) for _ in repeats])
        for rate in self._plan.hit_rates:
            known, namespace = round(rate * len(passages)), f"{rate}-{turn}"
            await self._rerank(ours, "COSINE", namespace, passages[:known], cached=0)
            seconds = await self._rerank(ours, "E2RANK", namespace, passages, cached=known)
            self._add("E2RANK", _hits(rate), [seconds])
        await self._run_zipf(ours)

    async def _run_zipf(self, ours: OurClient) -> None:
        turn = []
        for _ in range(self._plan.requests_per_turn):
            query = self._texts.query()
            seconds, answer = await ours.rerank(query, next(self._zipf), "E2RANK", ZIPF)
            turn.append(seconds)
            self._samples.zipf_cached.append(answer.usage.documents_cached)
        self._samples.zipf_seconds += turn
        self._add("E2RANK", ZIPF, turn)

    async def _rerank(
        self,
        ours: OurClient,
        method: MethodName,
        namespace: str,
        passages: list[str],
        *,
        cached: int,
    ) -> float:
        """Rerank with a new query, the candidates in a new order; return the seconds."""
        query, documents = self._texts.query(), self._texts.shuffled(passages)
        seconds, answer = await ours.rerank(query, documents, method, namespace)
        _require_cached(answer, cached, len(passages))
        return seconds

    def _add(self, method: MethodName, state: str, seconds: Sequence[float]) -> None:
        """Add a turn's sample, the median of its requests."""
        self._samples.ours.setdefault(f"{method.lower()}.{state}", []).append(_p50(seconds))


async def measure_reranking(
    ours: OurServer,
    peers: Sequence[RerankingPeer],
    plan: RerankingPlan,
    advance: Callable[[], None],
) -> RerankingSamples:
    """Rerank on all sides in turns; all have the same candidates in a turn.

    `advance` is called after each turn.
    """
    texts = Texts()
    samples = RerankingSamples(peers={peer.name: [] for peer in peers})
    our_side = OurReranking(plan, samples)
    sides: list[OurServer | RerankingPeer] = [ours, *peers]
    await _warm_up(peers, sides, texts)
    with alone(ours, sides):
        async with ours.connect() as client:
            await client.rerank(texts.query(), _passages(texts, _WARM_UP_CANDIDATES), "E2RANK")
    for turn in range(plan.turns):
        query, passages = texts.query(), _passages(texts, plan.candidates)
        for side in order(sides, turn):
            with alone(side, sides):
                if isinstance(side, OurServer):
                    async with side.connect() as client:
                        await our_side.run_turn(client, turn, passages)
                else:
                    samples.peers[side.name].append(await side.rerank(query, passages))
        advance()
    return samples


async def measure_cross_encoder(
    peer: RerankingPeer, candidates: int, requests: int, advance: Callable[[], None]
) -> list[float]:
    """Return the seconds of reranks by a peer that runs alone; `advance` is called after each."""
    texts = Texts()
    await _warm_up([peer], [peer], texts)
    seconds = []
    for _ in range(requests):
        seconds.append(await peer.rerank(texts.query(), _passages(texts, candidates)))
        advance()
    return seconds


def reranking_figures(samples: RerankingSamples, plan: RerankingPlan) -> Figures:
    """Return the seconds of each side, and the best cross-encoder's over ours.

    `break_even_hit_rate` is left out if ours is slower even when everything is cached.
    """
    best = best_peer(samples.peers)
    ratios = {
        f"crossencoder_over_{state}{suffix}": ratio_of_medians(
            samples.peers[best], samples.ours[f"{method}.{state}"]
        )
        for method, suffix in (("e2rank", ""), ("cosine", ".cosine"))
        for state in (WARM, COLD, ZIPF)
        if f"{method}.{state}" in samples.ours
    }
    cached, asked = samples.zipf_cached, plan.candidates * len(samples.zipf_cached)
    figures: dict[str, float | Estimate] = {
        **ratios,
        **cross_encoder_figures("minilm", samples.peers),
        **{f"rerank.{name}.p50_seconds": median(each) for name, each in samples.ours.items()},
        "rerank.e2rank.zipf.p95_seconds": float(np.percentile(samples.zipf_seconds, 95)),
        "rerank.e2rank.zipf.hit_rate": sum(cached) / asked,
    }
    rate = break_even_hit_rate(seconds_by_hit_rate(samples, plan), _p50(samples.peers[best]))
    if rate is not None:
        figures["break_even_hit_rate"] = rate
    return figures


def cross_encoder_figures(shape: str, peers: dict[str, list[float]]) -> dict[str, Estimate]:
    """Return the seconds of each peer for a shape."""
    return {
        f"crossencoder.{shape}.{name}.p50_seconds": median(each) for name, each in peers.items()
    }


def best_peer(peers: dict[str, list[float]]) -> str:
    """Return the one whose median is lowest."""
    return min(peers, key=lambda name: _p50(peers[name]))


def seconds_by_hit_rate(samples: RerankingSamples, plan: RerankingPlan) -> dict[float, float]:
    """Return the median of E2RANK at each hit rate that was set."""
    names = {0.0: COLD, **{rate: _hits(rate) for rate in plan.hit_rates}, 1.0: WARM}
    return {rate: _p50(samples.ours[f"e2rank.{name}"]) for rate, name in names.items()}


async def _warm_up(
    peers: Sequence[RerankingPeer], sides: Sequence[OurServer | RerankingPeer], texts: Texts
) -> None:
    for peer in peers:
        with alone(peer, sides):
            await peer.rerank(texts.query(), _passages(texts, _WARM_UP_CANDIDATES))


def _passages(texts: Texts, count: int) -> list[str]:
    return [texts.passage(PASSAGE_WORDS) for _ in range(count)]


def _hits(rate: float) -> str:
    return f"hit_rate_{100 * rate:.0f}"


def _p50(seconds: Sequence[float]) -> float:
    return float(np.median(seconds))


def _require_cached(answer: RerankResult, cached: int, candidates: int) -> None:
    usage = answer.usage
    if (usage.documents_cached, usage.documents_embedded) != (cached, candidates - cached):
        raise WrongHitRateError(
            f"{usage.documents_cached} of {candidates} documents were cached, {cached} expected"
        )
