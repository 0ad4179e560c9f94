"""How often the first tier has what is asked for, beside an LRU with as many entries.

Popularity follows Zipf's law, and now and then somebody reads documents that
nobody asks for again: a crawl, an evaluation, a new index.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.cache.entries import keys_of
from benchmarks.zipf import popularity
from e2rank_server.embedding_cache.memory import (
    FIXED_BYTES,
    MemoryEmbeddingCache,
    bytes_per_entry,
)
from e2rank_server.embedding_cache.values import ElementType

_DIMENSION = 8  # the policy does not look at vectors
_BATCH = 100
_SEED = 0


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests of 100 documents each; the cache has room for percentages of `documents`."""

    documents: int = 100_000
    exponent: float = 0.9
    requests: int = 5000
    scan_every: int = 200
    """Requests between two scans."""
    scan_documents: int = 10_000
    """Of each scan; no document is read by two of them."""
    percentages: tuple[int, ...] = (1, 3, 10, 30)
    headline_percentage: int = 10

    @property
    def popularity(self) -> NDArray[np.float64]:
        """The share of each document in what is asked for, most popular first."""
        return popularity(self.documents, self.exponent)

    @property
    def num_batches(self) -> int:
        """How many `batches` yields."""
        scans = self.requests // self.scan_every
        return self.requests + scans * (self.scan_documents // _BATCH)

    def batches(self) -> Iterator[NDArray[np.int64]]:
        """Yield the numbers of the documents of each request and of each step of a scan."""
        numbers = np.random.default_rng(_SEED)
        popularity = self.popularity
        next_scanned = self.documents
        for request in range(self.requests):
            yield numbers.choice(self.documents, _BATCH, p=popularity)
            if (request + 1) % self.scan_every == 0:
                for start in range(next_scanned, next_scanned + self.scan_documents, _BATCH):
                    yield np.arange(start, start + _BATCH)
                next_scanned += self.scan_documents


async def measure_hit_rates(workload: Workload, advance: Callable[[int], None]) -> dict[str, float]:
    """Return hit rates by cache size, and those of the headline size without a suffix."""
    batches = list(workload.batches())
    asked = sum(map(len, batches))
    share_asked_again = workload.requests * _BATCH / asked
    figures: dict[str, float] = {}
    for percentage in workload.percentages:
        entries = workload.documents * percentage // 100
        suffixes = [f".at_{percentage}_percent"]
        if percentage == workload.headline_percentage:
            suffixes.append("")
        rates = {
            "zipf_scan_hit_rate": await _first_tier_hits(entries, batches, advance) / asked,
            "zipf_scan_hit_rate_lru": _lru_hits(entries, batches) / asked,
            # The best that can be without knowing the future: the most popular stay for ever.
            "zipf_scan_hit_rate_ideal": float(workload.popularity[:entries].sum())
            * share_asked_again,
        }
        figures |= {name + suffix: rate for name, rate in rates.items() for suffix in suffixes}
    return figures


async def _first_tier_hits(
    entries: int, batches: list[NDArray[np.int64]], advance: Callable[[int], None]
) -> int:
    element_type = ElementType.FLOAT16
    max_bytes = FIXED_BYTES + entries * bytes_per_entry(_DIMENSION, element_type)
    cache = MemoryEmbeddingCache(_DIMENSION, max_bytes, element_type)
    vectors = np.ones((_BATCH, _DIMENSION), dtype=np.float32)
    for numbers in batches:
        keys = keys_of(numbers)
        places = await cache.lookup_memory(keys, vectors)
        missing = [key for key, place in zip(keys, places.tolist(), strict=True) if not place]
        await cache.store(missing, vectors[: len(missing)])
        advance(1)
        await asyncio.sleep(0)
    return cache.statistics().hits


def _lru_hits(entries: int, batches: list[NDArray[np.int64]]) -> int:
    """Count as the first tier does: a document that a request names twice can miss twice."""
    order: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for batch in batches:
        numbers = batch.tolist()
        missing = [number for number in numbers if number not in order]
        hits += len(numbers) - len(missing)
        for number in numbers:
            order[number] = None
            order.move_to_end(number)
        while len(order) > entries:
            order.popitem(last=False)
    return hits
