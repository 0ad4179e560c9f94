import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2rank_server.embedding_cache.key_table import Slots
from e2rank_server.embedding_cache.s3_fifo import BYTES_PER_SLOT, S3Fifo, Signatures


class Cache:
    """Numbers kept by an S3Fifo in so many slots, as a cache of vectors would be."""

    def __init__(self, num_slots: int) -> None:
        self.policy = S3Fifo(num_slots)
        self.free = list(range(num_slots))
        self.slot_of: dict[int, int] = {}

    def ask(self, number: int) -> bool:
        """Return whether it was there; from now on it is."""
        if number in self.slot_of:
            self.policy.hit(np.array([self.slot_of[number]]))
            return True
        if not self.free:
            slots, evicted = self.policy.reclaim(1)
            self.free = slots.tolist()
            kept = {n: slot for n, slot in self.slot_of.items() if slot not in self.free}
            assert len(self.slot_of) - len(kept) == evicted
            self.slot_of = kept
        slot = self.slot_of[number] = self.free.pop()
        self.policy.admit(np.array([slot]), signatures(number))
        return False

    def kill(self, number: int) -> None:
        assert self.policy.kill(np.array([self.slot_of.pop(number)])) == 1


def signatures(*numbers: int) -> Signatures:
    """Spread numbers over 32 bits as a hash would."""
    return (np.array(numbers, dtype=np.uint64) * np.uint64(2654435761)).astype(np.uint32)


def test_what_is_in_use_survives_a_scan_of_ten_times_the_capacity() -> None:
    cache = Cache(200)
    in_use = range(100)
    for number in [*in_use, *in_use]:
        cache.ask(number)
    for number in range(1000, 3000):
        assert not cache.ask(number)
    assert all(cache.ask(number) for number in in_use)


def test_what_comes_back_soon_is_kept_from_then_on() -> None:
    cache = Cache(100)
    for number in range(101):
        cache.ask(number)
    assert 0 not in cache.slot_of
    assert not cache.ask(0)  # remembered: it enters the main queue
    for number in range(1000, 1500):
        cache.ask(number)
    assert cache.ask(0)


def test_what_comes_back_late_is_as_good_as_new() -> None:
    cache = Cache(100)
    for number in range(500):
        cache.ask(number)
    assert not cache.ask(0)  # forgotten
    for number in range(1000, 1500):
        cache.ask(number)
    assert not cache.ask(0)


def test_what_is_no_longer_in_use_leaves_in_the_end() -> None:
    cache = Cache(100)
    for number in [*range(100)] * 3:
        cache.ask(number)
    for _ in range(4):
        for number in range(1000, 1100):
            cache.ask(number)
    assert sum(number in cache.slot_of for number in range(100)) < 10


def test_making_room_is_bounded_though_all_is_in_use() -> None:
    num_slots = 100_000
    policy = S3Fifo(num_slots)
    slots = np.arange(num_slots)
    policy.admit(slots, np.zeros(num_slots, dtype=np.uint32))
    policy.hit(slots)
    reclaimed, evicted = policy.reclaim(10)
    assert len(reclaimed) == evicted == 10


def test_the_dead_are_reclaimed_before_the_living() -> None:
    cache = Cache(100)
    for number in [*range(100)] * 2:
        cache.ask(number)
    for number in range(100, 150):
        cache.ask(number)  # the others move to the main queue
    survivors = set(cache.slot_of)
    dead = [number for number in survivors if number < 100][:40]
    for number in dead:
        cache.kill(number)
    for number in range(1000, 1040):
        cache.ask(number)
    assert survivors - set(dead) <= set(cache.slot_of)


def test_killing_twice_counts_once() -> None:
    policy = S3Fifo(10)
    slots = np.arange(3)
    policy.admit(slots, signatures(1, 2, 3))
    assert policy.kill(slots) == 3
    assert policy.kill(slots) == 0
    reclaimed, evicted = policy.reclaim(3)
    assert sorted(reclaimed.tolist()) == [0, 1, 2]
    assert evicted == 0


def test_it_reserves_what_it_says() -> None:
    assert S3Fifo(1000).nbytes == 1000 * BYTES_PER_SLOT


@settings(max_examples=100)
@given(st.integers(1, 40), st.lists(st.integers(0, 60), max_size=200), st.randoms())
def test_each_slot_is_in_the_queues_or_reclaimed_and_never_both(
    num_slots: int, numbers: list[int], random: np.random.Generator
) -> None:
    cache = Cache(num_slots)
    for number in numbers:
        if number in cache.slot_of and number % 7 == 0:
            cache.kill(number)
        else:
            cache.ask(number)
        used: list[int] = list(cache.slot_of.values())
        assert len(set(used)) == len(used)
        assert not set(used) & set(cache.free)
    if in_queues := num_slots - len(cache.free):
        slots, _ = cache.policy.reclaim(in_queues)
        assert_partition([*slots.tolist(), *cache.free], num_slots)


def assert_partition(slots: list[int], num_slots: int) -> None:
    assert sorted(slots) == list(range(num_slots))


def test_reclaiming_can_take_all() -> None:
    num_slots = 50
    policy = S3Fifo(num_slots)
    slots: Slots = np.arange(num_slots)
    policy.admit(slots, signatures(*range(num_slots)))
    for _ in range(3):
        policy.hit(slots)
    reclaimed, evicted = policy.reclaim(num_slots)
    assert sorted(reclaimed.tolist()) == list(range(num_slots))
    assert evicted == num_slots


@pytest.mark.parametrize("num_slots", [1, 2, 9])
def test_tiny_caches_work(num_slots: int) -> None:
    cache = Cache(num_slots)
    for number in range(30):
        assert not cache.ask(number)
        assert cache.ask(number)
        assert len(cache.slot_of) <= num_slots
