"""What every second tier of the embedding cache promises. Add one to `tiers` to test it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from e2rank_server.embedding_cache.keys import KEY_BYTES, TAG_BYTES
from e2rank_server.embedding_cache.lmdb import LmdbTier
from e2rank_server.embedding_cache.protocol import SecondTier
from e2rank_server.embedding_cache.valkey import ValkeyTier
from tests.fake_second_tier import FakeSecondTier
from tests.valkey_server import ValkeyProcess, running_valkey

OpenTier = Callable[[], SecondTier]


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyProcess]:
    with running_valkey() as process:
        yield process


@pytest.fixture(params=["fake", "lmdb", "valkey"])
async def tiers(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenTier]:
    """Open the same, at first empty, tier each time it is called."""
    if request.param == "valkey":
        valkey: ValkeyProcess = request.getfixturevalue("valkey")
        valkey.execute("FLUSHALL")
    values: dict[bytes, bytes] = {}
    async with AsyncExitStack() as stack:

        def open_tier() -> SecondTier:
            tier: SecondTier
            match request.param:
                case "fake":
                    tier = FakeSecondTier(values)
                case "lmdb":
                    tier = LmdbTier(tmp_path / "cache", 256 << 20)
                case _:
                    tier = ValkeyTier(valkey.url)
            stack.push_async_callback(tier.close)
            return tier

        yield open_tier


@pytest.fixture
def tier(tiers: OpenTier) -> SecondTier:
    return tiers()


def random_keys(number: int, tag: bytes = b"") -> list[bytes]:
    return [tag + os.urandom(KEY_BYTES - len(tag)) for _ in range(number)]


async def test_what_was_put_is_found_in_the_order_of_the_keys(tier: SecondTier) -> None:
    one, two, unknown = random_keys(3)
    await tier.put([one, two], [b"first", b"second"])
    assert list(await tier.get([two, unknown, one, two])) == [b"second", None, b"first", b"second"]


async def test_an_empty_tier_knows_nothing(tier: SecondTier) -> None:
    assert list(await tier.get(random_keys(3))) == [None, None, None]


async def test_no_keys_are_keys_like_any_other(tier: SecondTier) -> None:
    await tier.put([], [])
    assert list(await tier.get([])) == []


async def test_putting_again_replaces(tier: SecondTier) -> None:
    key = os.urandom(KEY_BYTES)
    await tier.put([key], [b"old"])
    await tier.put([key], [b"new"])
    assert list(await tier.get([key])) == [b"new"]


async def test_keys_and_values_may_hold_any_bytes(tier: SecondTier) -> None:
    keys = [bytes([byte]) * KEY_BYTES for byte in range(256)]
    values = [bytes([255 - byte, byte]) * 20 for byte in range(256)]
    await tier.put(keys, values)
    assert list(await tier.get(keys)) == values


@pytest.mark.parametrize("value", [b"", b"\0", os.urandom(64 << 10)], ids=["none", "one", "64KiB"])
async def test_values_of_all_sizes_come_back_whole(tier: SecondTier, value: bytes) -> None:
    keys = random_keys(5)
    await tier.put(keys, [value] * 5)
    assert list(await tier.get(keys)) == [value] * 5


async def test_ten_thousand_keys_go_in_one_call(tier: SecondTier) -> None:
    keys = random_keys(10_000)
    values = [key * 2 for key in keys]
    await tier.put(keys, values)
    found = await tier.get([*keys, *random_keys(100)])
    assert list(found) == [*values, *[None] * 100]


async def test_a_purge_deletes_one_namespace_and_no_other(tier: SecondTier) -> None:
    # Among them characters that mean something in a pattern, and the tags next to the purged one.
    tags = [b"*" * 16, b"?" * 16, b"[a-z]" * 3 + b"*", b"\\" * 16, b"\0" * 16, b"\xff" * 16]
    tags += [b"*" * 15 + b"+", b"*" * 15 + b")"]
    keys = {tag: random_keys(20, tag) for tag in tags}
    for of_tag in keys.values():
        await tier.put(of_tag, of_tag)
    for number, tag in enumerate(tags, 1):
        await tier.purge(tag)
        for other in tags[:number]:
            assert list(await tier.get(keys[other])) == [None] * 20
        for other in tags[number:]:
            assert list(await tier.get(keys[other])) == keys[other]


async def test_a_large_namespace_is_purged_whole(tier: SecondTier) -> None:
    tag = os.urandom(TAG_BYTES)
    keys, others = random_keys(3000, tag), random_keys(100)
    await tier.put(keys + others, keys + others)
    await tier.purge(tag)
    assert list(await tier.get(keys)) == [None] * 3000
    assert list(await tier.get(others)) == others


async def test_a_namespace_that_is_not_there_is_purged_without_ado(tier: SecondTier) -> None:
    await tier.purge(os.urandom(TAG_BYTES))


async def test_tasks_that_write_and_read_at_once_see_whole_values(tier: SecondTier) -> None:
    keys = random_keys(200)

    async def write(number: int) -> None:
        await tier.put(keys, [bytes([number]) * 800] * len(keys))

    async def read() -> None:
        for value in await tier.get(keys):
            assert value is None or value == value[:1] * 800

    await asyncio.gather(*(write(number) for number in range(8)), *(read() for _ in range(32)))
    await read()
    assert None not in await tier.get(keys)


async def test_entries_outlive_the_tier_that_wrote_them(tiers: OpenTier) -> None:
    keys = random_keys(100)
    first = tiers()
    await first.put(keys, keys)
    await first.close()
    assert list(await tiers().get(keys)) == keys


async def test_one_that_works_is_healthy(tier: SecondTier) -> None:
    await tier.check_health()
    await tier.put(random_keys(1), [b"value"])
    await tier.check_health()


async def test_closing_twice_does_no_harm(tier: SecondTier) -> None:
    await tier.close()
    await tier.close()
