"""Laws of the Merkle log: trees and tiles against the definitions of RFC 6962, written down as they stand there."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopseal.custody.merkle import hash_leaf
from hopseal.log.tiles import (
    MAX_ENTRY_BYTES,
    Tile,
    TileError,
    decode_entries,
    encode_entries,
    parse_tile_path,
    tile_hash_reader,
    tiles_of,
)
from hopseal.log.tree import (
    HashReader,
    ProofError,
    build_consistency_proof,
    build_inclusion_proof,
    compute_tree_root,
    read_root,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [f"custody/v1 cert {n}\n".encode() for n in range(70_001)]


def mth(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    k = split(len(leaves))
    return sha256(b"\1" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    return [*path(m, leaves[:k]), mth(leaves[k:])] if m < k else [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: Sequence[bytes], known: bool) -> list[bytes]:
    if m == len(leaves):
        return [] if known else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], known), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def memory(leaves: Sequence[bytes]) -> HashReader:
    return lambda level, index: mth(leaves[index << level : (index + 1) << level])


def flipped(data: bytes, bit: int) -> bytes:
    return bytes(byte ^ (1 << bit % 8 if n == bit // 8 else 0) for n, byte in enumerate(data))


sizes = st.integers(0, 300)


@given(st.data(), sizes.filter(bool))
def test_inclusion_proofs_are_those_of_the_definition_and_any_flipped_bit_is_found(data: st.DataObject, n: int) -> None:
    leaves, m = LEAVES[:n], data.draw(st.integers(0, n - 1))
    proof = build_inclusion_proof(m, n, memory(leaves))
    assert list(proof) == path(m, leaves)
    leaf, root = hash_leaf(leaves[m]), mth(leaves)
    assert read_root(n, memory(leaves)) == root
    assert compute_tree_root(map(hash_leaf, leaves)) == root
    verify_inclusion(leaf, m, n, proof, root)
    bit = data.draw(st.integers(0, 255))
    hashes = [leaf, *proof, root]
    position = data.draw(st.integers(0, len(hashes) - 1))
    hashes[position] = flipped(hashes[position], bit)
    with pytest.raises(ProofError):
        verify_inclusion(hashes[0], m, n, hashes[1:-1], hashes[-1])


@given(st.data(), sizes)
def test_consistency_proofs_are_those_of_the_definition_and_any_flipped_bit_is_found(
    data: st.DataObject, n: int
) -> None:
    leaves, m = LEAVES[:n], data.draw(st.integers(0, n))
    proof = build_consistency_proof(m, n, memory(leaves))
    assert list(proof) == (subproof(m, leaves[:n], True) if 0 < m < n else [])
    old, new = mth(leaves[:m]), mth(leaves)
    verify_consistency(m, old, n, new, proof)
    hashes = [old, *proof, new]
    position = data.draw(st.integers(0, len(hashes) - 1))
    if m == 0 and position == 1:
        return  # whatever follows, an empty log is its beginning
    hashes[position] = flipped(hashes[position], data.draw(st.integers(0, 255)))
    with pytest.raises(ProofError):
        verify_consistency(m, hashes[0], n, hashes[-1], hashes[1:-1])


@given(st.data(), sizes.filter(bool))
def test_a_proof_for_one_place_or_size_proves_no_other(data: st.DataObject, n: int) -> None:
    leaves = LEAVES[:n]
    m, other = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, 2 * n))
    if other != m:
        with pytest.raises(ProofError):
            verify_inclusion(hash_leaf(leaves[m]), other, n, build_inclusion_proof(m, n, memory(leaves)), mth(leaves))
    proof = build_consistency_proof(m, n, memory(leaves))
    for changed in (proof[:-1], (*proof, bytes(32))):
        if m and changed != proof:
            with pytest.raises(ProofError):
                verify_consistency(m, mth(leaves[:m]), n, mth(leaves), changed)


@given(st.integers(0, 2**40), st.one_of(st.none(), st.integers(0, 63)), st.integers(1, 256))
def test_each_tile_has_one_path_that_reads_back(index: int, level: int | None, width: int) -> None:
    tile = Tile(level, index, width)
    assert parse_tile_path(tile.path) == tile


@given(st.text(alphabet="0123456789x/.pentrisl\n\0%", max_size=40))
def test_what_is_no_tile_path_is_refused(text: str) -> None:
    try:
        tile = parse_tile_path(f"tile/{text}")
    except TileError:
        return
    assert tile.path == f"tile/{text}"


@given(st.lists(st.binary(max_size=300), max_size=256))
def test_entry_bundles_read_back_and_no_prefix_of_one_does(entries: list[bytes]) -> None:
    data = encode_entries(entries)
    assert list(decode_entries(data, len(entries))) == entries
    for cut in range(len(data)):
        with pytest.raises(TileError):
            decode_entries(data[:cut], len(entries))


@given(st.binary(max_size=600), st.integers(0, 256))
def test_any_bytes_are_a_bundle_of_that_width_or_refused(data: bytes, width: int) -> None:
    try:
        entries = decode_entries(data, width)
    except TileError:
        return
    assert encode_entries(entries) == data
    assert len(entries) == width


def tiled(leaves: Sequence[bytes]) -> dict[Tile, bytes]:
    """Every tile of the tree, each hash by the definition."""
    found = {}
    for tile in tiles_of(len(leaves)):
        if tile.level is None:
            found[tile] = encode_entries(leaves[tile.index * 256 :][: tile.width])
            continue
        span = 256**tile.level
        starts = range(tile.index * 256 * span, (tile.index * 256 + tile.width) * span, span)
        found[tile] = b"".join(mth(leaves[start : start + span]) for start in starts)
    return found


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 512, 513, 1000, 65_536, 65_793])
def test_every_root_and_proof_comes_out_of_the_tiles(size: int) -> None:
    leaves = LEAVES[:size]
    tiles = tiled(leaves)
    read = tile_hash_reader(size, tiles.__getitem__)
    root = mth(leaves)
    assert read_root(size, read) == root
    for index in {0, 1, 254, 255, 256, size // 2, size - 2, size - 1} & set(range(size)):
        verify_inclusion(hash_leaf(leaves[index]), index, size, build_inclusion_proof(index, size, read), root)
    for old in {1, 2, 255, 256, 257, size // 3, size - 1} & set(range(1, size)):
        verify_consistency(old, mth(leaves[:old]), size, root, build_consistency_proof(old, size, read))


def test_the_tiles_of_the_specifications_example() -> None:
    tiles = list(tiles_of(70_000))
    hashes = [tile for tile in tiles if tile.level is not None]
    assert sum(tile.level == 0 and tile.width == 256 for tile in hashes) == 273
    partial = [(tile.level, tile.width) for tile in hashes if tile.width < 256]
    assert partial == [(0, 112), (1, 17), (2, 1)]
    assert [(tile.level, tile.width) for tile in tiles_of(256)] == [(None, 256), (0, 256), (1, 1)]
    assert sum(tile.level is None for tile in tiles) == 274


@given(st.lists(st.integers(0, 70_000), max_size=6).map(sorted))
def test_growing_in_steps_gives_every_tile_of_the_last_size(steps: list[int]) -> None:
    grown = {tile for old, new in pairwise([0, *steps]) for tile in tiles_of(new, old)}
    assert set(tiles_of(steps[-1] if steps else 0)) <= grown


def test_bounds_of_entries() -> None:
    assert decode_entries(encode_entries([b"x" * MAX_ENTRY_BYTES]), 1) == (b"x" * MAX_ENTRY_BYTES,)
    with pytest.raises(TileError):
        encode_entries([b"x" * (MAX_ENTRY_BYTES + 1)])
