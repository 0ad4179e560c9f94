"""A hash table from keys to slot numbers, in NumPy arrays, asked for many keys at once.

A dict of a million keys costs 200 bytes an entry as it churns, for objects of
key and slot and its own slack, and stands still for 150 ms when it grows. This
one costs `BYTES_PER_SLOT`, is allocated once, and finds 100 keys as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from e2rank_server.embedding_cache.keys import KEY_BYTES, TAG_BYTES

Words: TypeAlias = NDArray[np.uint32]
"""Keys as numbers, [keys, 10]. They are hashes, so any bits of them are as good as a hash."""

Slots: TypeAlias = NDArray[np.int64]
"""Slot numbers, [n]."""

_WORDS = KEY_BYTES // 4
_TAG_WORDS = TAG_BYTES // 4
_LANES = 8
_BUCKET_BYTES = 8 * _LANES  # a cache line
_TABLE_BYTES_PER_SLOT = 16  # half full: of a million random keys, none found its buckets full
BYTES_PER_SLOT = KEY_BYTES + _TABLE_BYTES_PER_SLOT
FIXED_BYTES = _BUCKET_BYTES

_OCCUPIED = np.uint32(1 << 31)
_SLOT = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_ONLY = np.zeros(1, dtype=np.int64)


def words_of(keys: Sequence[bytes]) -> Words:
    """Return keys of `KEY_BYTES` each as numbers."""
    return np.frombuffer(b"".join(keys), dtype="<u4").reshape(len(keys), _WORDS)


def signatures_of(words: Words) -> NDArray[np.uint32]:
    """Return 32 bits of each key that depend on its namespace and its text."""
    return words[:, 3] ^ words[:, 9]


class KeyTable:
    """Each key may stand in two buckets of eight lanes, and goes to the emptier one.

    A lane holds 32 bits of the key's hash, of which the first says that it is
    occupied, and the slot. A match is believed only when the whole key, which
    is kept by slot, is equal.
    """

    def __init__(self, num_slots: int) -> None:
        num_buckets = -(-num_slots * _TABLE_BYTES_PER_SLOT // _BUCKET_BYTES)
        self._num_buckets = np.uint64(num_buckets)
        self._lanes = np.zeros((num_buckets, _LANES), dtype=np.uint64)
        self._keys = np.zeros((num_slots, _WORDS), dtype=np.uint32)

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        return self._lanes.nbytes + self._keys.nbytes

    def find(self, words: Words) -> Slots:
        """Return the slot of each key, -1 for unknown ones."""
        hashes = _hashes(words)
        lanes = self._lanes.take(self._buckets(hashes), axis=0, mode="clip")
        prints = lanes.view(np.uint32).reshape(len(words), 2 * _LANES, 2)[:, :, 1]
        (matches,) = (prints == _prints(hashes)[:, np.newaxis]).reshape(-1).nonzero()
        found: Slots = (lanes.reshape(-1).take(matches) & _SLOT).view(np.int64)
        known = self._keys.take(found, axis=0, mode="clip")
        if known.tobytes() == words.tobytes():
            return found  # one for each, in order: the usual case
        rows = matches // (2 * _LANES)
        is_same = (known == words[rows]).all(axis=1)
        slots = np.full(len(words), -1)
        slots[rows[is_same]] = found[is_same]
        return slots

    def insert(self, words: Words, slots: Slots) -> Slots:
        """Give slots to distinct, unknown keys; return the slots of entries that had to give way.

        That happens only where both buckets of a key are full.
        """
        self._keys[slots] = words
        hashes = _hashes(words)
        buckets = self._buckets(hashes)
        entries = _entries(hashes, slots)
        displaced = []
        pending = np.arange(len(words))
        while len(pending):
            is_empty = self._lanes.take(buckets[pending], axis=0, mode="clip") == 0
            side = is_empty.sum(axis=2).argmax(axis=1)
            wanted = buckets[pending, side]
            # Of keys that want the same bucket, one a round.
            first = np.unique(wanted, return_index=True)[1] if len(pending) > 1 else _ONLY
            chosen = wanted[first]
            lane = is_empty[first, side[first]].argmax(axis=1)
            taken = self._lanes[chosen, lane]
            displaced.append(taken[taken != 0])
            self._lanes[chosen, lane] = entries[pending[first]]
            pending = np.delete(pending, first)
        gone: Slots = (np.concatenate(displaced) & _SLOT).view(np.int64)
        return gone

    def remove(self, slots: Slots) -> None:
        """Forget the keys of slots; no harm in one that has none."""
        hashes = _hashes(self._keys[slots])
        buckets = self._buckets(hashes)
        is_entry = self._lanes[buckets] == _entries(hashes, slots)[:, np.newaxis, np.newaxis]
        rows, sides, lanes = np.nonzero(is_entry)
        self._lanes[buckets[rows, sides], lanes] = 0
        self._keys[slots] = 0

    def slots_under(self, tag: bytes, start: int, stop: int) -> Slots:
        """Return those of the slots from `start` to before `stop` whose key begins with `tag`."""
        wanted = np.frombuffer(tag, dtype="<u4")
        is_under = (self._keys[start:stop, :_TAG_WORDS] == wanted).all(axis=1)
        return np.flatnonzero(is_under) + start

    def _buckets(self, hashes: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Return both buckets of each key, [keys, 2]."""
        places = np.multiply(hashes[::2].T, self._num_buckets, dtype=np.uint64) >> _SHIFT
        return places.view(np.int64)


def _hashes(words: Words) -> NDArray[np.uint32]:
    """Return three hashes of each key, [3 of 4, keys]: of one bucket, of the lane, of the other.

    All depend on namespace and text; the two that go into the first bucket on the model, too.
    """
    columns = np.ascontiguousarray(words.T)
    hashes = columns[:4] ^ columns[6:]
    hashes[:2] ^= columns[4:6]
    return hashes


def _prints(hashes: NDArray[np.uint32]) -> NDArray[np.uint32]:
    prints: NDArray[np.uint32] = hashes[1] | _OCCUPIED
    return prints


def _entries(hashes: NDArray[np.uint32], slots: Slots) -> NDArray[np.uint64]:
    return (_prints(hashes).astype(np.uint64) << _SHIFT) | slots.view(np.uint64)
