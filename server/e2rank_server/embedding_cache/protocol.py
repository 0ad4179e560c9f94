"""The embedding cache seams: lossy and bounded; never the only copy of anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from e2rank_server.embedding_cache.circuit_breaker import BreakerState
from e2rank_server.types import FloatArray


class Place(IntEnum):
    """Where a look-up found a key."""

    NOWHERE = 0
    MEMORY = 1
    """This process's memory."""
    DISK = 2
    """The persistent store of this machine."""
    SHARED = 3
    """The store that all replicas share."""


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Counters since start, and the present fill.

    `rejected` counts stored values that were not believed: torn, foreign, of
    another version or element type. Each is a miss, too.
    """

    hits: int
    misses: int
    evictions: int
    rejected: int
    entries: int
    resident_bytes: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class WriteStatistics:
    """Counters since start in entries, `errors` in calls, and what waits now.

    `dropped` were forgotten unwritten, because more came than the tier could take.
    """

    written: int
    dropped: int
    errors: int
    waiting: int
    waiting_bytes: int
    waiting_purges: int
    breaker: BreakerState


@dataclass(frozen=True, slots=True)
class SecondTierStatistics:
    """Counters since start: `hits`, `misses` and `rejected` in keys, the others in calls.

    `timeouts` were given up by the request that asked, `errors` failed, and
    `skipped` were not made, because the tier is away or has too many under way.
    """

    place: Place
    hits: int
    misses: int
    rejected: int
    timeouts: int
    errors: int
    skipped: int
    breaker: BreakerState
    writes: WriteStatistics


class EmbeddingCache(Protocol):
    """Maps keys (see `keys.py`) to vectors of one dimension.

    Fails open: a store that is away or holds rubbish answers with misses, never
    with an error or with a vector other than the one that was put.
    """

    async def lookup_memory(self, keys: Sequence[bytes], out: FloatArray) -> NDArray[np.uint8]:
        """Write the vectors of keys that are in memory into their rows of `out`; wait for nothing.

        `out` is float32 [keys, dimension]; rows of other keys are left as they
        are. Returns the `Place` of each key, [keys].
        """
        ...

    async def lookup_second(
        self, keys: Sequence[bytes], out: FloatArray, places: NDArray[np.uint8]
    ) -> None:
        """Do the rest of a look-up, in slower tiers, which may run beside other work.

        Fills in the rows of `out` and the `places` of keys that are NOWHERE yet.
        """
        ...

    async def store(self, keys: Sequence[bytes], vectors: FloatArray) -> None:
        """Keep copies of `vectors` (float32 [keys, dimension]) for as long as there is room.

        Returns before they have reached a slower tier.
        """
        ...

    def as_kept(self, vectors: FloatArray) -> FloatArray:
        """Return finite vectors, float32 [n, dimension], as a look-up would give them back."""
        ...

    async def purge(self, namespace_tag: bytes) -> None:
        """Forget all entries of a namespace (see `keys.namespace_tag`), in every tier."""
        ...

    def statistics(self) -> CacheStatistics:
        """Return the counters now."""
        ...

    def second_tier_statistics(self) -> SecondTierStatistics | None:
        """Return those of the slower tier; None if there is none."""
        ...


class SecondTier(Protocol):
    """A larger, slower keeper of encoded values (see `values.py`), of this machine or shared.

    Unlike the cache before it, it may fail: any exception means that it is away.
    It may be asked by several tasks at once. Values are opaque to it.
    """

    place: Place

    async def get(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """Return each key's value, None where there is none, in one round trip."""
        ...

    async def put(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Keep values, each whole or not at all, in one round trip."""
        ...

    async def purge(self, namespace_tag: bytes) -> None:
        """Delete all entries whose key begins with `namespace_tag`."""
        ...

    async def check_health(self) -> None:
        """Raise if the tier is away."""
        ...

    async def close(self) -> None:
        """Write what is pending and let go of it."""
        ...
