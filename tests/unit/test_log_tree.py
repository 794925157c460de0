"""Merkle trees and tiles at their bounds, and the text of leaves."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence

import pytest

from custody_calls import signer
from hopseal.custody.encoding import encode_b64url
from hopseal.custody.seal import parse_sealed, seal_statements
from hopseal.log.entries import LogError
from hopseal.log.leaf import (
    format_artifact_leaf,
    format_statement_leaf,
    leaf_of_artifact,
    leaf_of_certificate,
    leaf_of_line,
    leaf_of_statement,
    numbered_leaf_of_line,
)
from hopseal.log.tiles import Tile, TileError, hash_perfect, parse_tile_path, split_hashes, tile_hash_reader
from hopseal.log.tree import (
    EMPTY_ROOT,
    ProofError,
    build_consistency_proof,
    build_inclusion_proof,
    compute_tree_root,
    read_root,
    verify_consistency,
    verify_inclusion,
)
from vectors import pki

HASH = "A" * 43


def never(level: int, index: int) -> bytes:
    raise AssertionError


def test_the_empty_tree_has_the_hash_of_nothing_for_root() -> None:
    assert compute_tree_root([]) == read_root(0, never) == EMPTY_ROOT == hashlib.sha256(b"").digest()
    verify_consistency(0, EMPTY_ROOT, 5, bytes(32), ())


@pytest.mark.parametrize(("index", "size"), [(-1, 1), (1, 1), (0, 0)])
def test_there_is_no_proof_for_a_leaf_outside_the_tree(index: int, size: int) -> None:
    with pytest.raises(ProofError):
        build_inclusion_proof(index, size, never)
    with pytest.raises(ProofError):
        verify_inclusion(bytes(32), index, size, (), bytes(32))


@pytest.mark.parametrize(("old", "new"), [(-1, 1), (2, 1)])
def test_there_is_no_proof_that_a_tree_shrank(old: int, new: int) -> None:
    with pytest.raises(ProofError):
        build_consistency_proof(old, new, never)
    with pytest.raises(ProofError):
        verify_consistency(old, bytes(32), new, bytes(32), ())


@pytest.mark.parametrize(
    ("old", "old_root", "new", "new_root", "proof"),
    [
        (3, bytes(32), 3, EMPTY_ROOT, ()),
        (3, bytes(32), 3, bytes(32), (bytes(32),)),
        (0, bytes(32), 3, bytes(32), ()),
        (0, EMPTY_ROOT, 3, bytes(32), (bytes(32),)),
        (3, bytes(32), 5, bytes(32), ()),
    ],
)
def test_equal_and_empty_trees_need_equal_roots_and_others_a_proof(
    old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    with pytest.raises(ProofError):
        verify_consistency(old, old_root, new, new_root, proof)


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/1",
        "tile/0/0001",
        "tile/0/x000/001",
        "tile/0/001/002",
        "tile/0/x01/002",
        "tile/0/001.p/0",
        "tile/0/001.p/256",
        "tile/0/001.p/01",
        "tile/64/001",
        "tile/00/001",
        "tile/entry/001",
        "tile/-1/001",
        "tile/0/../001",
        "tile//001",
        "/tile/0/001",
        "tile/0/001/",
        "tile/0/001\n",
        "tile/0/" + "x001/" * 20 + "001",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
        "tile/0/٠٠١",
        "checkpoint",
        "",
    ],
)
def test_a_path_that_is_not_exactly_a_tiles_is_refused(path: str) -> None:
    with pytest.raises(TileError):
        parse_tile_path(path)


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(63, 999, 255), "tile/63/999.p/255"),
        (Tile(None, 1_234_067), "tile/entries/x001/x234/067"),
        (Tile(1, 1000, 1), "tile/1/x001/000.p/1"),
    ],
)
def test_tiles_lie_where_the_specification_says(tile: Tile, path: str) -> None:
    assert tile.path == path
    assert parse_tile_path(path) == tile


@pytest.mark.parametrize(("level", "index", "width"), [(64, 0, 1), (-1, 0, 1), (0, -1, 1), (0, 2**63, 1), (0, 0, 0)])
def test_no_tile_is_outside_the_tree(level: int, index: int, width: int) -> None:
    with pytest.raises(TileError):
        Tile(level, index, width)


@pytest.mark.parametrize(("level", "index"), [(-1, 0), (0, -1), (0, 3), (1, 1), (2, 0)])
def test_a_hash_that_the_tree_has_not_is_not_asked_for(level: int, index: int) -> None:
    with pytest.raises(TileError):
        tile_hash_reader(3, lambda _tile: bytes(96))(level, index)


def test_a_tile_of_another_length_is_refused() -> None:
    assert split_hashes(bytes(64), 2) == (bytes(32), bytes(32))
    with pytest.raises(TileError):
        split_hashes(bytes(64), 1)
    with pytest.raises(TileError):
        split_hashes(bytes(63), 2)
    assert hash_perfect((b"x" * 32,)) == b"x" * 32


def sealed(count: int = 1) -> tuple[str, ...]:
    return seal_statements([b'{"n":%d}' % n for n in range(count)], signer(pki.ORCHESTRATOR))


def line(**members: object) -> bytes:
    return json.dumps({"n": 3, "at_ms": 5, **members}, separators=(",", ":")).encode()


@pytest.mark.parametrize("kind", ["rec", "rcp", "obs", "cls", "att"])
@pytest.mark.parametrize("count", [1, 3])
def test_an_accepted_statement_has_its_hash_and_that_of_its_seal(kind: str, count: int) -> None:
    for text in sealed(count):
        statement = parse_sealed(text)
        expected = f"custody/v1 {kind} {statement.hash} {encode_b64url(statement.seal.key)}\n".encode()
        assert leaf_of_statement(kind, text) == expected
        assert leaf_of_line(line(type=kind, verdict="accepted", sealed=text)) == expected
        assert format_statement_leaf(kind, statement.hash, encode_b64url(statement.seal.key)) == expected


def test_a_refused_statement_is_an_artifact_whatever_it_claims_to_be() -> None:
    (text,) = sealed()
    for kind in ("rec", "rcp"):
        refused = line(type=kind, verdict="refused", sealed=text)
        assert leaf_of_line(refused) == leaf_of_artifact("refused", refused)
    unreadable = line(type="rec", verdict="refused", sealed=None)
    assert leaf_of_line(unreadable) == leaf_of_artifact("refused", unreadable)


@pytest.mark.parametrize("kind", ["bundle", "revoke", "start", "attest", "token"])
def test_any_other_line_is_hashed_as_it_stands(kind: str) -> None:
    text = line(type=kind, whatever={"deep": [[[[[1.5]]]]]})
    expected = f"custody/v1 {kind} {encode_b64url(hashlib.sha256(text).digest())}\n".encode()
    assert numbered_leaf_of_line(text) == (3, expected)


def test_a_certificate_has_the_hash_of_its_der() -> None:
    expected = f"custody/v1 cert {encode_b64url(hashlib.sha256(b'der').digest())}\n".encode()
    assert leaf_of_certificate(b"der") == expected
    assert leaf_of_line(line(type="cert", der=base64.b64encode(b"der").decode())) == expected


HEADER = encode_b64url(b'{"alg":"ES256","typ":"custody-seal+jwt","x5t#S256":"%s"}' % (b"A" * 42 + b"B"))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"type":"start","type":"bundle"}',
        line(),
        line(type=7),
        line(type="UPPER"),
        line(type="x" * 17),
        line(type="two words"),
        line(type="two\n"),
        line(type="refused"),
        line(type="rec", verdict="accepted"),
        line(type="rec", verdict="accepted", sealed="a.b.c"),
        line(type="rec", verdict="accepted", sealed="a..b.c.d\n"),
        line(type="rec", verdict="accepted", sealed="a..e30.c.d"),
        line(type="rec", verdict="accepted", sealed="a..A.c.d"),
        line(type="rec", verdict="accepted", sealed=f"a..{HEADER}.c.d"),
        line(type="cert"),
        line(type="cert", der="no base64"),
    ],
)
def test_a_line_without_a_defined_leaf_is_refused(text: bytes) -> None:
    with pytest.raises(LogError):
        leaf_of_line(text)


@pytest.mark.parametrize("n", [None, "1", 1.0, True, -1])
def test_a_line_without_a_number_is_refused(n: object) -> None:
    with pytest.raises(LogError):
        numbered_leaf_of_line(line(n=n, type="start") if n is not None else b'{"type":"start"}')


def test_leaves_are_made_of_hashes_and_the_types_of_their_kind() -> None:
    for bad in ("A" * 42, "A" * 43 + "\n", ""):
        with pytest.raises(LogError):
            format_statement_leaf("rec", bad, HASH)
        with pytest.raises(LogError):
            format_statement_leaf("rec", HASH, bad)
        with pytest.raises(LogError):
            format_artifact_leaf("cert", bad)
    for kind in ("cert", "refused", ""):
        with pytest.raises(LogError):
            format_statement_leaf(kind, HASH, HASH)
    for kind in ("rec", "Cert", "ce rt", ""):
        with pytest.raises(LogError):
            format_artifact_leaf(kind, HASH)
