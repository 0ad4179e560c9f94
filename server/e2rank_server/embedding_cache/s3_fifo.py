"""Which entry goes when room is needed: S3-FIFO, on arrays.

S3-FIFO (Yang et al., SOSP 2023) keeps three queues. New entries enter a small
one; those asked for again before they reach its end move to the main one, the
others leave, and are remembered without their vectors. What comes back while it
is remembered enters the main queue at once, where an entry is passed over once
for every use. So a scan of texts that nobody asks for again runs through the
small queue and leaves the main one alone, where an LRU would be emptied by it.

W-TinyLFU does about as well, but reorders lists at each hit. Here a hit is one
saturating addition, for 100 entries one NumPy call, and entries leave in
batches. That is also why no library serves: theine, moka-py, cachebox and
cachetools hold Python objects one by one, at hundreds of bytes an entry beside
the vector, and do not say which place in an arena became free.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from e2rank_server.embedding_cache.key_table import Slots

_ONE_MORE = np.array([1, 2, 3, 3], dtype=np.uint8)  # uses are counted up to three
_GONE = 255
_SMALL_SHARE = 0.1
_DEAD_SHARE = 0.25
_MANY = 1024
_LOOKS = 8
"""At so many entries each, before those in use have to leave, too: so making room is bounded."""

BYTES_PER_SLOT = 22  # uses 1, is_main 1, signature 4, two queues of 4, one remembered of 8

Signatures = NDArray[np.uint32]
"""32 bits of each key's hash, [n]."""


class S3Fifo:
    """The queues, of slot numbers. A slot is admitted, may be hit, and is reclaimed."""

    def __init__(self, num_slots: int) -> None:
        self._uses = np.full(num_slots, _GONE, dtype=np.uint8)
        self._is_main = np.zeros(num_slots, dtype=np.bool_)
        self._signatures = np.zeros(num_slots, dtype=np.uint32)
        self._small = _Queue(num_slots)
        self._main = _Queue(num_slots)
        self._remembered = _Remembered(num_slots)
        self._small_target = int(num_slots * _SMALL_SHARE)
        self._dead_in_main = 0

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        arrays = (self._uses, self._is_main, self._signatures)
        queues = self._small.nbytes + self._main.nbytes + self._remembered.nbytes
        return sum(array.nbytes for array in arrays) + queues

    def hit(self, slots: Slots) -> None:
        """Note that entries were asked for."""
        self._uses[slots] = _ONE_MORE.take(self._uses.take(slots))

    def admit(self, slots: Slots, signatures: Signatures) -> None:
        """Queue new entries."""
        is_main = self._remembered.contains(signatures)
        self._uses[slots] = 0
        self._is_main[slots] = is_main
        self._signatures[slots] = signatures
        self._main.push(slots[is_main])
        self._small.push(slots[~is_main])

    def kill(self, slots: Slots) -> int:
        """Note that entries are gone, if they are not already; return how many were not.

        Their slots stay in the queues until they are reclaimed.
        """
        alive = slots[self._uses[slots] != _GONE]
        self._uses[alive] = _GONE
        self._dead_in_main += int(np.count_nonzero(self._is_main[alive]))
        return len(alive)

    def reclaim(self, needed: int) -> tuple[Slots, int]:
        """Take at least `needed` slots out of the queues, which hold that many.

        Returns them, and how many of them were not gone before.
        """
        reclaimed = self._reclaim_dead(needed)
        looks = 0
        while (missing := needed - sum(map(len, reclaimed))) > 0:
            is_forced = looks >= _LOOKS
            if len(self._small) > self._small_target or not len(self._main):
                reclaimed.append(self._reclaim_small(missing, is_forced=is_forced))
            else:
                reclaimed.append(self._reclaim_main(missing, is_forced=is_forced))
            looks += 1
        slots = np.concatenate(reclaimed)
        evicted = int(np.count_nonzero(self._uses[slots] != _GONE))
        self._uses[slots] = _GONE
        return slots, evicted

    def _reclaim_dead(self, needed: int) -> list[Slots]:
        """Look for entries of the main queue that are gone, if they are many; others lose nothing.

        Without it, what is new would have the small queue to itself for long
        after most of the main one was purged.
        """
        found: list[Slots] = []
        for _ in range(_LOOKS):
            is_rare = self._dead_in_main <= _DEAD_SHARE * len(self._main)
            if is_rare or sum(map(len, found)) >= needed:
                break
            slots = self._main.first(_MANY)
            self._main.drop(len(slots))
            is_dead = self._uses[slots] == _GONE
            self._main.push(slots[~is_dead])
            self._dead_in_main -= int(np.count_nonzero(is_dead))
            found.append(slots[is_dead])
        return found

    def _reclaim_small(self, needed: int, *, is_forced: bool) -> Slots:
        """Return entries off the small queue; those in use before them move on."""
        most = len(self._small) - (self._small_target if len(self._main) else 0)
        slots, leaves = self._take(self._small, needed, most, is_forced=is_forced)
        moving, leaving = slots[~leaves], slots[leaves]
        self._uses[moving] = 0
        self._is_main[moving] = True
        self._main.push(moving)
        self._remembered.add(self._signatures[leaving[self._uses[leaving] != _GONE]])
        return leaving

    def _reclaim_main(self, needed: int, *, is_forced: bool) -> Slots:
        """Return entries off the main queue; those in use before them go to its other end."""
        slots, leaves = self._take(self._main, needed, len(self._main), is_forced=is_forced)
        self._dead_in_main -= int(np.count_nonzero(self._uses[slots] == _GONE))
        self._uses[slots[~leaves]] -= 1
        self._main.push(slots[~leaves])
        return slots[leaves]

    def _take(
        self, queue: _Queue, needed: int, most: int, *, is_forced: bool
    ) -> tuple[Slots, NDArray[np.bool_]]:
        """Take entries off a queue until `needed` may leave; return which may."""
        slots = queue.first(min(most, _MANY))
        uses = self._uses[slots]
        leaves = (uses == 0) | (uses == _GONE) | is_forced
        count = len(slots)
        last = np.flatnonzero(leaves)[needed - 1 : needed]
        if len(last):
            count = int(last[0]) + 1
        queue.drop(count)
        return slots[:count], leaves[:count]


class _Queue:
    """A first-in-first-out queue of slot numbers, in a ring."""

    def __init__(self, capacity: int) -> None:
        self._ring = np.zeros(capacity, dtype=np.int32)
        self._first = self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        return self._ring.nbytes

    def push(self, slots: Slots) -> None:
        end = self._first + self._length
        self._ring[np.arange(end, end + len(slots)) % len(self._ring)] = slots
        self._length += len(slots)

    def first(self, count: int) -> Slots:
        count = min(count, self._length)
        places = np.arange(self._first, self._first + count) % len(self._ring)
        return np.asarray(self._ring[places], dtype=np.int64)

    def drop(self, count: int) -> None:
        self._first = (self._first + count) % len(self._ring)
        self._length -= count


class _Remembered:
    """The latest evicted keys, by signature, about as many as there are slots.

    A place that two of them want remembers the later. A key taken for another,
    one in some thousands, is kept longer than it deserves and no more.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._places = np.zeros((capacity, 2), dtype=np.uint32)  # signature, when
        self._now = capacity + 1  # so that empty places are long ago

    @property
    def nbytes(self) -> int:
        return self._places.nbytes

    def add(self, signatures: Signatures) -> None:
        when = np.arange(self._now, self._now + len(signatures)) & 0xFFFFFFFF
        self._places[self._places_of(signatures)] = np.stack([signatures, when], axis=1)
        self._now += len(signatures)

    def contains(self, signatures: Signatures) -> NDArray[np.bool_]:
        found = self._places[self._places_of(signatures)]
        age = (self._now - found[:, 1].astype(np.int64)) & 0xFFFFFFFF
        is_found: NDArray[np.bool_] = (found[:, 0] == signatures) & (age <= self._capacity)
        return is_found

    def _places_of(self, signatures: Signatures) -> NDArray[np.int64]:
        return (signatures.astype(np.int64) * self._capacity) >> 32
