from pathlib import Path

import pytest

from e2rank_server.embedding_cache.keys import (
    DIGEST_BYTES,
    KEY_BYTES,
    SECRET_BYTES,
    TAG_BYTES,
    cache_keys,
    load_or_create_secret,
    namespace_tag,
    text_digest,
)
from e2rank_server.errors import ConfigurationError

SECRET = b"s" * 32


def key(
    text: str = "text",
    *,
    title: str | None = None,
    secret: bytes = SECRET,
    fingerprint: str = "fingerprint",
    namespace: str = "namespace",
    epoch: int = 0,
) -> bytes:
    tag = namespace_tag(secret, namespace, epoch)
    return cache_keys(tag, secret, fingerprint, [text_digest(secret, title, text)])[0]


def test_a_key_is_a_tag_a_model_and_a_digest_and_repeatable() -> None:
    assert len(key()) == KEY_BYTES == 40
    assert key() == key()
    assert key()[:TAG_BYTES] == namespace_tag(SECRET, "namespace", 0)
    assert key()[-DIGEST_BYTES:] == text_digest(SECRET, None, "text")


def test_each_part_changes_the_key() -> None:
    variants = [
        key(),
        key("other"),
        key(title="title"),
        key(secret=b"t" * 32),
        key(fingerprint="other"),
        key(namespace="other"),
        key(epoch=1),
    ]
    assert len(set(variants)) == len(variants)


def test_text_cannot_move_between_parts() -> None:
    assert key("bc", title="a") != key("c", title="ab")
    assert key("", title="ab") != key("ab", title="")
    assert key(namespace="n", epoch=11) != key(namespace="n1", epoch=1)
    same = {
        namespace_tag(SECRET, "x", 0)[:8],
        text_digest(SECRET, None, "x")[:8],
        key(fingerprint="x")[TAG_BYTES:-DIGEST_BYTES],
    }
    assert len(same) == 3  # each hash has a purpose of its own


def test_no_title_is_an_empty_one() -> None:
    assert text_digest(SECRET, None, "text") == text_digest(SECRET, "", "text")


def test_keys_come_in_the_order_of_the_digests() -> None:
    tag = namespace_tag(SECRET, "n", 0)
    digests = [text_digest(SECRET, None, text) for text in ("one", "two", "", "ünï")]
    assert cache_keys(tag, SECRET, "f", digests) == [
        cache_keys(tag, SECRET, "f", [digest])[0] for digest in digests
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
