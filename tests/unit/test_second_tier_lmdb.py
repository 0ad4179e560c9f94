"""What LMDB does beyond the contract: its bound, restarts, and files that something happened to."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb as lmdb_library
import numpy as np
import pytest

from e2rank_server.embedding_cache import lmdb
from e2rank_server.embedding_cache.keys import KEY_BYTES, TAG_BYTES
from e2rank_server.embedding_cache.lmdb import LmdbTier
from e2rank_server.embedding_cache.lmdb_segments import MIN_BYTES, Segment
from e2rank_server.embedding_cache.values import ValueCodec
from e2rank_server.errors import ConfigurationError

PAGE = 4096
CODEC = ValueCodec(384)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
async def tier(folder: Path) -> AsyncIterator[LmdbTier]:
    tier = LmdbTier(folder, MIN_BYTES)
    yield tier
    await tier.close()


def random_keys(number: int, tag: bytes = b"") -> list[bytes]:
    return [tag + os.urandom(KEY_BYTES - len(tag)) for _ in range(number)]


async def put(tier: LmdbTier, keys: list[bytes]) -> None:
    """Put values of 800 bytes that say whose they are."""
    await tier.put(keys, [key * 20 for key in keys])


async def known(tier: LmdbTier, keys: list[bytes]) -> list[bytes]:
    """Return the keys that are there, and check their values."""
    values = await tier.get(keys)
    for key, value in zip(keys, values, strict=True):
        assert value is None or value == key * 20
    return [key for key, value in zip(keys, values, strict=True) if value is not None]


async def settle(tier: LmdbTier) -> None:
    """Return when the writer has done what it was given before."""
    await tier.put([], [])


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("segment-*.lmdb"))


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in segments(folder))


# Eviction


async def test_it_stays_within_its_bytes_and_keeps_the_newest(tier: LmdbTier, folder: Path) -> None:
    keys: list[bytes] = []
    for _ in range(100):
        keys += random_keys(100)
        await put(tier, keys[-100:])
        assert disk_bytes(folder) <= MIN_BYTES
    kept = await known(tier, keys)
    assert kept == keys[-len(kept) :]
    assert len(segments(folder)) == 4
    # A small file is mostly pages that the next commit may use; a large one is half values.
    assert len(kept) >= 500


async def test_writing_the_same_entries_for_ever_does_not_evict_others(
    tier: LmdbTier, folder: Path
) -> None:
    others, keys = random_keys(20), random_keys(20)
    await put(tier, others)
    for _ in range(200):
        await put(tier, keys)
    assert await known(tier, others) == others
    assert disk_bytes(folder) < MIN_BYTES / 8


async def test_entries_that_are_asked_for_outlive_entries_that_are_not(tier: LmdbTier) -> None:
    asked, idle = random_keys(50), random_keys(50)
    await put(tier, asked + idle)
    for _ in range(60):
        await put(tier, random_keys(100))
        await tier.get(asked)
    await settle(tier)
    assert await known(tier, asked) == asked
    assert await known(tier, idle) == []


async def test_an_entry_that_is_purged_while_it_is_asked_for_is_not_written_again(
    tier: LmdbTier, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = os.urandom(TAG_BYTES)
    keys = random_keys(10, tag)
    await put(tier, keys)
    while len(segments(folder)) < 4:
        await put(tier, random_keys(50))
    may_delete = threading.Event()
    delete_some = lmdb._delete_some

    def wait_and_delete(segment: Segment, tag: bytes) -> bool:
        may_delete.wait(20)
        return delete_some(segment, tag)

    monkeypatch.setattr(lmdb, "_delete_some", wait_and_delete)
    purge = asyncio.create_task(tier.purge(tag))
    await asyncio.sleep(0)
    assert await known(tier, keys) == keys
    may_delete.set()
    await purge
    await settle(tier)
    assert await known(tier, keys) == []


async def test_an_entry_larger_than_a_segment_fails_and_the_next_one_does_not(
    tier: LmdbTier,
) -> None:
    with pytest.raises(lmdb_library.MapFullError):
        await tier.put(random_keys(1), [bytes(MIN_BYTES)])
    with pytest.raises(lmdb_library.MapFullError):
        await tier.check_health()
    keys = random_keys(10)
    await put(tier, keys)
    assert await known(tier, keys) == keys
    await tier.check_health()


async def test_a_namespace_is_purged_from_full_segments_too(tier: LmdbTier) -> None:
    tag = os.urandom(TAG_BYTES)
    keys: list[bytes] = []
    for _ in range(40):
        keys += random_keys(60, tag)
        await put(tier, keys[-60:] + random_keys(40))
    assert await known(tier, keys)
    await tier.purge(tag)
    assert await known(tier, keys) == []
    await put(tier, keys[:10])
    assert await known(tier, keys) == keys[:10]


async def test_pages_that_come_from_the_disk_are_read_in_a_thread(
    tier: LmdbTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = random_keys(300)
    await put(tier, keys)
    monkeypatch.setattr(lmdb, "_WARM_SECONDS", -1.0)
    assert await known(tier, random_keys(1) + keys) == keys


# Other processes and restarts

WRITER = """
import asyncio, sys
from pathlib import Path
from e2rank_server.embedding_cache.lmdb import LmdbTier

async def main(folder, max_bytes, first, last):
    tier = LmdbTier(Path(folder), int(max_bytes))
    for number in range(int(first), int(last)):
        keys = [b"%020d%020d" % (number, at) for at in range(100)]
        await tier.put(keys, [key * 20 for key in keys])
        print(number, flush=True)
    await tier.close()

asyncio.run(main(*sys.argv[1:]))
"""


@contextmanager
def writer(folder: Path, max_bytes: int, first: int, last: int) -> Iterator[subprocess.Popen[str]]:
    """Run a process that puts batches of 100 and says the number of each that it has put."""
    arguments = [str(folder), str(max_bytes), str(first), str(last)]
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def batch(number: int) -> list[bytes]:
    return [b"%020d%020d" % (number, at) for at in range(100)]


async def test_all_that_was_put_before_a_kill_is_there_after_it(folder: Path) -> None:
    with writer(folder, 64 << 20, 0, 1_000_000) as process:
        assert process.stdout is not None
        last = -1
        while last < 30:
            last = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
    last = max([last, *(int(line) for line in rest)])
    tier = LmdbTier(folder, 64 << 20)
    for number in range(last + 1):
        assert await known(tier, batch(number)) == batch(number)
    unfinished = await known(tier, batch(last + 1))
    assert unfinished in ([], batch(last + 1))
    await put(tier, unfinished)
    await tier.close()


async def test_processes_see_each_others_entries_and_segments(tier: LmdbTier, folder: Path) -> None:
    mine = random_keys(50)
    await put(tier, mine)
    before = segments(folder)
    with writer(folder, MIN_BYTES, 0, 1) as process:
        process.wait()
    assert await known(tier, batch(0)) == batch(0)
    with writer(folder, MIN_BYTES, 1, 60) as process:
        process.wait()
    assert process.returncode == 0
    assert not set(before) & set(segments(folder))  # all that was known here is gone
    await known(tier, batch(59))  # notices that
    await settle(tier)
    assert await known(tier, batch(59)) == batch(59)
    assert await known(tier, mine) == []
    await put(tier, mine)
    assert await known(tier, mine) == mine
    assert disk_bytes(folder) <= MIN_BYTES


async def test_a_smaller_bound_takes_hold_with_the_next_segment(folder: Path) -> None:
    tier = LmdbTier(folder, 4 * MIN_BYTES)
    for _ in range(60):
        await put(tier, random_keys(100))
    await tier.close()
    assert disk_bytes(folder) > MIN_BYTES
    tier = LmdbTier(folder, MIN_BYTES)
    keys = random_keys(100)
    await put(tier, keys)
    assert await known(tier, keys) == keys
    assert disk_bytes(folder) <= MIN_BYTES
    await tier.close()


# What it refuses to open


def test_too_few_bytes_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="1000 bytes, expected at least 4194304"):
        LmdbTier(folder, 1000)


def test_a_folder_that_cannot_be_made_is_refused(folder: Path) -> None:
    folder.write_bytes(b"a file")
    with pytest.raises(ConfigurationError, match="cache: File exists"):
        LmdbTier(folder, MIN_BYTES)


async def test_a_folder_that_is_open_in_this_process_is_refused(
    tier: LmdbTier, folder: Path
) -> None:
    keys = random_keys(10)
    await put(tier, keys)
    with pytest.raises(ConfigurationError, match="already open in this process"):
        LmdbTier(folder, MIN_BYTES)
    assert await known(tier, keys) == keys


async def written(folder: Path, keys: list[bytes]) -> Path:
    """Return the only segment of a closed tier that holds the keys' encoded vectors."""
    tier = LmdbTier(folder, 64 << 20)
    await tier.put(keys, CODEC.encode(keys, vectors(keys)))
    await tier.close()
    [segment] = segments(folder)
    return segment


def vectors(keys: list[bytes]) -> np.ndarray:
    return np.stack([np.random.default_rng(list(key)).normal(size=384) for key in keys]).astype(
        "f4"
    )


async def test_a_newer_format_is_refused(folder: Path) -> None:
    segment = await written(folder, random_keys(1))
    with lmdb_library.open(str(segment), subdir=False) as env, env.begin(write=True) as txn:
        txn.put(b"format", b"2")
    with pytest.raises(ConfigurationError, match=r"format 2 is newer than 1.*move it away"):
        LmdbTier(folder, 64 << 20)
    assert segments(folder) == [segment]


# Files that something happened to


async def believed(folder: Path, keys: list[bytes], *, recovers: bool = True) -> int:
    """Open a tier, read and write, and return how many vectors were right; none may be wrong.

    `recovers` if all that is written then is found: in a damaged tree some may not be.
    """
    tier = LmdbTier(folder, 64 << 20)
    expected = vectors(keys).astype(np.float16).astype(np.float32)
    out = np.zeros((len(keys), 384), dtype=np.float32)
    is_believed = CODEC.decode(keys, await tier.get(keys), out)
    np.testing.assert_array_equal(out[is_believed], expected[is_believed])
    await settle(tier)
    await tier.put(keys, CODEC.encode(keys, vectors(keys)))
    is_found = CODEC.decode(keys, await tier.get(keys), out)
    np.testing.assert_array_equal(out[is_found], expected[is_found])
    assert is_found.all() or not recovers
    await tier.close()
    return int(np.count_nonzero(is_believed))


async def test_a_flipped_byte_in_a_value_is_a_miss_of_that_value(folder: Path) -> None:
    keys = random_keys(100)
    segment = await written(folder, keys)
    content = bytearray(segment.read_bytes())
    [value] = CODEC.encode(keys[7:8], vectors(keys[7:8]))
    # LMDB copies a page to change it: an older copy may be there, too.
    while (at := content.find(value)) >= 0:
        content[at + 300] ^= 0x10
    segment.write_bytes(content)
    assert await believed(folder, keys) == 99


async def test_a_file_that_is_no_database_is_moved_aside_and_said_loudly(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = random_keys(10)
    segment = await written(folder, keys)
    segment.write_bytes(b"rubbish" * 10_000)
    assert await believed(folder, keys) == 0
    assert (folder / "corrupt.lmdb").read_bytes() == b"rubbish" * 10_000
    [record] = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert "is corrupt" in record.getMessage()


async def test_a_database_of_something_else_is_moved_aside(folder: Path) -> None:
    keys = random_keys(10)
    segment = await written(folder, keys)
    segment.unlink()
    with lmdb_library.open(str(segment), subdir=False) as env, env.begin(write=True) as txn:
        txn.put(b"other", b"things")
    assert await believed(folder, keys) == 0
    assert (folder / "corrupt.lmdb").exists()


async def test_only_the_last_corrupt_file_is_kept(folder: Path) -> None:
    for content in (b"one" * 5000, b"two" * 5000):
        (await written(folder, random_keys(10))).write_bytes(content)
        await LmdbTier(folder, 64 << 20).close()
    assert (folder / "corrupt.lmdb").read_bytes() == b"two" * 5000
    assert len(list(folder.glob("corrupt*"))) == 1


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
async def test_a_file_cut_short_is_not_read_beyond_its_end(folder: Path, share: float) -> None:
    keys = random_keys(300)
    segment = await written(folder, keys)
    os.truncate(segment, int(segment.stat().st_size * share))
    assert await believed(folder, keys) < 300


@pytest.mark.parametrize("seed", range(6))
async def test_pages_overwritten_at_random_never_give_a_wrong_vector(
    folder: Path, seed: int
) -> None:
    chance = random.Random(seed)
    keys = random_keys(300)
    segment = await written(folder, keys)
    content = bytearray(segment.read_bytes())
    for _ in range(chance.choice([1, 3, 20])):
        # In the first bytes of a page is what says where everything else in it is.
        at = chance.randrange(len(content) // PAGE) * PAGE + chance.randrange(64)
        content[at] = chance.randrange(256)
    segment.write_bytes(content)
    await believed(folder, keys, recovers=False)


async def test_a_file_whose_root_says_that_it_is_huge_is_moved_aside(folder: Path) -> None:
    keys = random_keys(10)
    segment = await written(folder, keys)
    content = bytearray(segment.read_bytes())
    for root in (0, PAGE):
        content[root + 136 + 5] = 0xFF  # in the number of the last page
    segment.write_bytes(content)
    assert await believed(folder, keys) == 0
    assert (folder / "corrupt.lmdb").exists()


# A full disk


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Have writes beyond a file size fail, as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_on_a_full_disk_it_is_away_for_writing_and_reads_on(tier: LmdbTier) -> None:
    keys = random_keys(50)
    await put(tier, keys)
    with largest_file(300_000):
        with pytest.raises((lmdb_library.Error, OSError)):
            await put(tier, random_keys(400))
        assert await known(tier, keys) == keys
        with pytest.raises((lmdb_library.Error, OSError)):
            await tier.check_health()
    more = random_keys(100)
    await put(tier, more)
    assert await known(tier, keys + more) == keys + more
    await tier.check_health()


async def test_on_a_disk_that_is_full_from_the_start_nothing_is_left_behind(
    tier: LmdbTier, folder: Path
) -> None:
    with largest_file(PAGE):
        with pytest.raises((lmdb_library.Error, OSError)):
            await put(tier, random_keys(1))
        assert await known(tier, random_keys(1)) == []
        assert segments(folder) == []
    keys = random_keys(1)
    await put(tier, keys)
    assert await known(tier, keys) == keys


async def test_a_folder_that_vanishes_is_away(tier: LmdbTier, folder: Path) -> None:
    await put(tier, random_keys(1))
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(OSError, match="No such file"):
        await tier.check_health()
    with pytest.raises(OSError, match="No such file"):
        await put(tier, random_keys(1))
