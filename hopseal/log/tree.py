"""The Merkle tree of a log: roots, inclusion and consistency proofs, made and verified.

Theory: a tree of n leaves is made of *perfect* subtrees of 2^level leaves that begin at a multiple of their size; the
hash of such a one never changes again. Everything here asks for these hashes through a :data:`HashReader` and for
nothing else, so a tree can lie in tiles, in memory or behind a network.

Owns: RFC 6962's trees of any size. Does not own: where hashes are kept (``tiles``), what a leaf says (``leaf``).
Inclusion paths are verified by the same code as those of seals (``hopseal.custody.merkle``).
Source: RFC 6962 §2.1, RFC 9162 §2.1.3 and §2.1.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from hopseal.custody.encoding import sha256
from hopseal.custody.errors import CustodyError
from hopseal.custody.merkle import compute_root, hash_node
from hopseal.errors import InvalidError

HashReader = Callable[[int, int], bytes]
"""``read(level, index)``: the hash of the perfect subtree over the leaves from ``index << level``, 2^level of them."""

EMPTY_ROOT = sha256(b"")
HASH_BYTES = 32
MAX_TREE_SIZE = 2**63 - 1  # C2SP tlog-tiles: levels up to 63; signed 64-bit sizes as every implementation has them


class ProofError(InvalidError):
    """A proof does not show what it should (code ``proof_invalid``)."""

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__("proof_invalid", message, detail=detail)


def read_root(size: int, read: HashReader) -> bytes:
    """The root of the tree over the first ``size`` leaves."""
    return _read_range(0, size, read) if size else EMPTY_ROOT


def compute_tree_root(leaf_hashes: Iterable[bytes]) -> bytes:
    """The root of the tree over all ``leaf_hashes``, which are taken one by one."""
    perfect: list[tuple[int, bytes]] = []  # by level, which falls to the right
    for leaf_hash in leaf_hashes:
        level, node = 0, leaf_hash
        while perfect and perfect[-1][0] == level:
            level, node = level + 1, hash_node(perfect.pop()[1], node)
        perfect.append((level, node))
    if not perfect:
        return EMPTY_ROOT
    root = perfect.pop()[1]
    while perfect:
        root = hash_node(perfect.pop()[1], root)
    return root


def build_inclusion_proof(index: int, size: int, read: HashReader) -> tuple[bytes, ...]:
    """The sibling hashes from leaf ``index`` to the root of the tree of ``size`` leaves.

    Raises:
        ProofError: the tree has no such leaf.
    """
    if not 0 <= index < size:
        raise ProofError("the leaf is not in the tree", detail=f"leaf {index} of {size}")
    return tuple(_inclusion(index, 0, size, read))


def build_consistency_proof(old: int, new: int, read: HashReader) -> tuple[bytes, ...]:
    """The hashes that show the tree of ``old`` leaves to be the beginning of that of ``new``; none if equal or empty.

    Raises:
        ProofError: ``old`` is more than ``new``.
    """
    if not 0 <= old <= new:
        raise ProofError("a tree does not shrink", detail=f"{old} leaves, then {new}")
    return tuple(_consistency(old, 0, new, read, is_known=True)) if 0 < old < new else ()


def verify_inclusion(leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Return if ``proof`` leads from the leaf's hash to ``root``.

    Raises:
        ProofError: it does not.
    Source: RFC 9162 §2.1.3.2.
    """
    try:
        computed = compute_root(leaf_hash, index, size, proof)
    except CustodyError as error:
        raise ProofError(
            "an inclusion proof has another length than leaf and size give", detail=error.detail
        ) from error
    if computed != root:
        raise ProofError("an inclusion proof leads to another root")


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Return if ``proof`` shows that the tree of ``old`` leaves is the beginning of that of ``new``.

    Raises:
        ProofError: it does not.
    Source: RFC 9162 §2.1.4.2.
    """
    if not 0 <= old <= new:
        raise ProofError("a tree does not shrink", detail=f"{old} leaves, then {new}")
    if old in {new, 0}:
        if proof or (old == new and old_root != new_root) or (old == 0 and old_root != EMPTY_ROOT):
            raise ProofError("two trees of one size, or an empty one, need equal roots and no proof")
        return
    if _compute_roots(old, old_root, new, list(proof)) != (old_root, new_root):
        raise ProofError("a consistency proof leads to other roots")


def _compute_roots(old: int, old_root: bytes, new: int, path: list[bytes]) -> tuple[bytes, bytes]:
    if old & (old - 1) == 0:
        # A perfect old tree is itself the first hash, and is not sent.
        path.insert(0, old_root)
    if not path:
        raise ProofError("a consistency proof is empty")
    position, last = old - 1, new - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofError("a consistency proof is too long")
        if position & 1 or position == last:
            first, second = hash_node(sibling, first), hash_node(sibling, second)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            second = hash_node(second, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise ProofError("a consistency proof is too short")
    return first, second


def _read_range(start: int, end: int, read: HashReader) -> bytes:
    """MTH(D[start:end]) for a range of RFC 6962's splitting: a perfect one begins at a multiple of its size."""
    count = end - start
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return read(level, start >> level)
    middle = start + _split(count)
    return hash_node(_read_range(start, middle, read), _read_range(middle, end, read))


def _inclusion(index: int, start: int, end: int, read: HashReader) -> list[bytes]:
    """PATH of RFC 6962 §2.1.1, over D[start:end]."""
    if end - start == 1:
        return []
    middle = start + _split(end - start)
    if index < middle:
        return [*_inclusion(index, start, middle, read), _read_range(middle, end, read)]
    return [*_inclusion(index, middle, end, read), _read_range(start, middle, read)]


def _consistency(old: int, start: int, end: int, read: HashReader, *, is_known: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962 §2.1.2, over D[start:end]; ``old`` counts from the log's first leaf."""
    if old == end:
        return [] if is_known else [_read_range(start, end, read)]
    middle = start + _split(end - start)
    if old <= middle:
        return [*_consistency(old, start, middle, read, is_known=is_known), _read_range(middle, end, read)]
    return [*_consistency(old, middle, end, read, is_known=False), _read_range(start, middle, read)]


def _split(count: int) -> int:
    """The largest power of two below ``count``, which is at least 2."""
    return 1 << (count - 1).bit_length() - 1
