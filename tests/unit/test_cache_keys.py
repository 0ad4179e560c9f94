from pathlib import Path

import pytest

from e2rank_server.embedding_cache.keys import (
    KEY_BYTES,
    SECRET_BYTES,
    cache_keys,
    load_or_create_secret,
)
from e2rank_server.errors import ConfigurationError

SECRET = b"s" * 32


def key(
    text: str = "text",
    *,
    secret: bytes = SECRET,
    fingerprint: str = "fingerprint",
    namespace: str = "namespace",
    epoch: int = 0,
) -> bytes:
    return cache_keys(secret, fingerprint, namespace, epoch, [text])[0]


def test_a_key_is_128_bits_and_repeatable() -> None:
    assert len(key()) == KEY_BYTES == 16
    assert key() == key()


def test_each_part_changes_the_key() -> None:
    variants = [
        key(),
        key("other"),
        key(secret=b"t" * 32),
        key(fingerprint="other"),
        key(namespace="other"),
        key(epoch=1),
    ]
    assert len(set(variants)) == len(variants)


def test_text_cannot_move_between_parts() -> None:
    keys = {
        key("c", fingerprint="ab", namespace=""),
        key("c", fingerprint="a", namespace="b"),
        key("bc", fingerprint="a", namespace=""),
        key("", fingerprint="a", namespace="bc"),
    }
    assert len(keys) == 4


def test_keys_come_in_the_order_of_the_texts() -> None:
    texts = ["one", "two", "", "ünï"]
    assert cache_keys(SECRET, "f", "n", 0, texts) == [
        cache_keys(SECRET, "f", "n", 0, [text])[0] for text in texts
    ]


def test_the_secret_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    file = tmp_path / "data" / "secret"
    first = load_or_create_secret(file)
    assert len(first) == SECRET_BYTES
    assert load_or_create_secret(file) == first
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_a_file_that_is_no_secret_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"short")
    with pytest.raises(ConfigurationError, match="5 bytes, expected 32"):
        load_or_create_secret(file)


def test_an_unwritable_folder_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigurationError, match="cache secret"):
        load_or_create_secret(tmp_path / "file" / "secret")
