"""The config root, against RFC 6962 computed by hand."""

from __future__ import annotations

import hashlib

import pytest

from attestor.collectors.config import config_root
from attestor.collectors.config_paths import ConfigUnreadable, check_declared

EMPTY_FILE = "sha256:" + hashlib.sha256().hexdigest()


def leaf(path: str, content: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + path.encode() + b"\x00" + hashlib.sha256(content).digest()).digest()


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def test_no_files_give_the_hash_of_nothing() -> None:
    assert config_root({}) == EMPTY_FILE


def test_one_file_gives_its_leaf() -> None:
    assert config_root({"/a": digest(b"x")}) == "sha256:" + leaf("/a", b"x").hex()


def test_five_files_give_the_tree_of_the_rfc() -> None:
    a, b, c, d, e = (leaf(f"/{name}", name.encode()) for name in "abcde")
    expected = node(node(node(a, b), node(c, d)), e)
    assert config_root({f"/{name}": digest(name.encode()) for name in "edcba"}) == "sha256:" + expected.hex()


def test_files_are_sorted_by_bytes_and_not_by_code_units_or_folders() -> None:
    paths = ["/a-b", "/a/b", "/a.b", "/A", "/\U0001f600", "/\uffee"]
    ordered = sorted(paths, key=str.encode)
    assert ordered == ["/A", "/a-b", "/a.b", "/a/b", "/\uffee", "/\U0001f600"]
    level = [leaf(path, b"") for path in ordered]
    expected = node(node(node(level[0], level[1]), node(level[2], level[3])), node(level[4], level[5]))
    assert config_root(dict.fromkeys(paths, EMPTY_FILE)) == "sha256:" + expected.hex()


def test_the_path_counts_and_so_does_every_byte_of_content() -> None:
    roots = {config_root({"/a": digest(b"x")}), config_root({"/b": digest(b"x")}), config_root({"/a": digest(b"y")})}
    assert len(roots) == 3


@pytest.mark.parametrize(
    "value", ["", "sha256:", "ab" * 32, "sha256:" + "AB" * 32, EMPTY_FILE + "\n", "sha512:" + "ab" * 32]
)
def test_a_malformed_digest_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="sha256"):
        config_root({"/a": value})


@pytest.mark.parametrize(
    "path", ["", "a", "a/b", "//", "//a", "/a//b", "/a/", "/./a", "/a/.", "/..", "/a/../b", "/a\0b", "/\udcff"]
)
def test_a_path_that_is_not_absolute_and_canonical_is_refused(path: str) -> None:
    with pytest.raises(ConfigUnreadable):
        check_declared(path)


@pytest.mark.parametrize("path", ["/", "/a", "/a/b.c", "/a b", "/...", "/a/..b", "/\u00e9", "/a\nb"])
def test_a_canonical_path_is_accepted(path: str) -> None:
    check_declared(path)
