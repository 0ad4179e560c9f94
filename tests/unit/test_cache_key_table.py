import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from e2rank_server.embedding_cache.key_table import KeyTable, Slots, signatures_of, words_of
from e2rank_server.embedding_cache.keys import KEY_BYTES, TAG_BYTES

NUM_SLOTS = 48
LANES_OF_TWO_BUCKETS = 16


def random_key(number: int) -> bytes:
    return np.random.default_rng(number).bytes(KEY_BYTES)


def colliding_key(number: int, tag: bytes = b"t" * TAG_BYTES) -> bytes:
    """Make a key of the same hashes as all others of this tag; only the whole tells them apart."""
    model = number.to_bytes(8, "little")
    digest = bytes(a ^ b for a, b in zip(tag, model + bytes(8), strict=True))
    return tag + model + digest


def slots(*numbers: int) -> Slots:
    return np.array(numbers, dtype=np.int64)


def test_it_finds_what_was_inserted_and_nothing_else() -> None:
    table = KeyTable(NUM_SLOTS)
    names = [random_key(number) for number in range(NUM_SLOTS)]
    assert not len(table.insert(words_of(names), np.arange(NUM_SLOTS)))
    wanted = [names[7], random_key(1000), names[0], names[7]]
    assert table.find(words_of(wanted)).tolist() == [7, -1, 0, 7]
    table.remove(slots(7, 0))
    assert table.find(words_of([*wanted, names[1]])).tolist() == [-1, -1, -1, -1, 1]


def test_keys_of_equal_hashes_are_told_apart() -> None:
    table = KeyTable(NUM_SLOTS)
    names = [colliding_key(number) for number in range(4)]
    table.insert(words_of(names[:3]), slots(5, 6, 7))
    assert table.find(words_of(names)).tolist() == [5, 6, 7, -1]
    table.remove(slots(6))
    assert table.find(words_of(names)).tolist() == [5, -1, 7, -1]


def test_where_both_buckets_are_full_one_entry_gives_way() -> None:
    table = KeyTable(NUM_SLOTS)
    names = [colliding_key(number) for number in range(40)]
    displaced = table.insert(words_of(names), np.arange(40))
    remaining = np.setdiff1d(np.arange(40), displaced)
    assert len(remaining) <= LANES_OF_TWO_BUCKETS
    found = table.find(words_of(names))
    np.testing.assert_array_equal(found[remaining], remaining)
    assert (found[displaced] == -1).all()
    assert len(set(displaced.tolist())) == len(displaced)


def test_removing_a_displaced_entry_leaves_its_successor() -> None:
    table = KeyTable(NUM_SLOTS)
    names = [colliding_key(number) for number in range(40)]
    displaced = table.insert(words_of(names), np.arange(40))
    before = table.find(words_of(names))
    table.remove(displaced)
    np.testing.assert_array_equal(table.find(words_of(names)), before)


def test_a_key_of_zeros_is_a_key() -> None:
    table = KeyTable(NUM_SLOTS)
    zeros = words_of([bytes(KEY_BYTES)])
    assert table.find(zeros).tolist() == [-1]
    table.insert(zeros, slots(3))
    assert table.find(zeros).tolist() == [3]


def test_slots_under_a_tag_are_those_of_its_keys_in_the_range() -> None:
    table = KeyTable(NUM_SLOTS)
    tag = b"n" * TAG_BYTES
    names = [tag + random_key(number)[TAG_BYTES:] for number in range(10)]
    names += [random_key(number) for number in range(10, 20)]
    table.insert(words_of(names), np.arange(20))
    assert table.slots_under(tag, 0, NUM_SLOTS).tolist() == list(range(10))
    assert table.slots_under(tag, 4, 8).tolist() == [4, 5, 6, 7]
    table.remove(slots(5))
    assert table.slots_under(tag, 4, 8).tolist() == [4, 6, 7]


def test_signatures_depend_on_namespace_and_text() -> None:
    tags, digests = (
        [random_key(number)[:16] for number in range(first, first + 2)] for first in (0, 2)
    )
    names = [tag + bytes(8) + digest for tag in tags for digest in digests]
    assert len(set(signatures_of(words_of(names)).tolist())) == 4


@settings(max_examples=100)
@given(st.data())
def test_it_equals_a_dict(data: st.DataObject) -> None:
    """Insert and remove in batches; an entry that gave way is gone from both."""
    table, model = KeyTable(NUM_SLOTS), dict[bytes, int]()
    universe = [random_key(number) for number in range(60)]
    universe += [colliding_key(number) for number in range(30)]
    for _ in range(data.draw(st.integers(1, 6))):
        free = sorted(set(range(NUM_SLOTS)) - set(model.values()))
        candidates = [name for name in universe if name not in model]
        new = data.draw(st.lists(st.sampled_from(candidates), unique=True, max_size=len(free)))
        if new:
            taken = free[: len(new)]
            displaced = table.insert(words_of(new), slots(*taken))
            model.update(zip(new, taken, strict=True))
            model = {k: slot for k, slot in model.items() if slot not in displaced.tolist()}
        if model:
            leaving = data.draw(st.lists(st.sampled_from(sorted(model)), unique=True))
            table.remove(slots(*(model.pop(name) for name in leaving)))
        expected = [model.get(name, -1) for name in universe]
        assert table.find(words_of(universe)).tolist() == expected
