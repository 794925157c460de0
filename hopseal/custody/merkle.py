"""RFC 6962 trees over statement hashes: roots, inclusion paths and their verification.

Theory: leaves are hashed behind 0x00, inner nodes behind 0x01, so neither passes for the other. A tree of n leaves
is built level by level; a last node without a sibling moves up unchanged. A path therefore has one sibling for each
level at which the node has one, and its length follows from (index, n) alone.

Source: RFC 6962 §2.1, RFC 9162 §2.1.3.2, custody-wire §4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from hopseal.custody.errors import malformed

_LEAF = b"\x00"
_NODE = b"\x01"


def hash_leaf(data: bytes) -> bytes:
    """The leaf hash of ``data``, 32 bytes."""
    return sha256(_LEAF + data).digest()


def hash_node(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node, 32 bytes."""
    return sha256(_NODE + left + right).digest()


def build_tree(leaves: Sequence[bytes]) -> tuple[bytes, tuple[tuple[bytes, ...], ...]]:
    """The root over ``leaves`` (hashes, at least one) and the inclusion path of each, leaf to root."""
    paths: list[list[bytes]] = [[] for _ in leaves]
    level = list(leaves)
    height = 0
    while len(level) > 1:
        for leaf, path in enumerate(paths):
            sibling = (leaf >> height) ^ 1
            if sibling < len(level):
                path.append(level[sibling])
        level = _level_above(level)
        height += 1
    return level[0], tuple(map(tuple, paths))


def build_root(leaves: Sequence[bytes]) -> bytes:
    """The root over ``leaves`` (hashes, at least one), for trees of any size."""
    level = list(leaves)
    while len(level) > 1:
        level = _level_above(level)
    return level[0]


def compute_root(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that ``path`` leads to from ``leaf`` at ``index`` of ``size`` leaves.

    Raises:
        CustodyError: [malformed] if ``index`` is not below ``size`` or the path has another length than these two give.
    Source: RFC 9162 §2.1.3.2.
    """
    if not 0 <= index < size:
        raise malformed("leaf index is outside the tree")
    position, last, node = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise malformed("inclusion path is too long")
        position, last, node = climb(position, last, node, sibling)
    if last:
        raise malformed("inclusion path is too short")
    return node


def climb(position: int, last: int, node: bytes, sibling: bytes) -> tuple[int, int, bytes]:
    """One step up a path: ``position`` and ``last`` of the next level that has a sibling, and the node there.

    Args:
        position: of ``node`` in its level.
        last: position of the last node of that level, above 0.
        node: a hash.
        sibling: the path's next hash.

    Source: RFC 9162 §2.1.3.2.
    """
    if position & 1 or position == last:
        node = sha256(_NODE + sibling + node).digest()
        while not position & 1 and position:
            position, last = position >> 1, last >> 1
    else:
        node = sha256(_NODE + node + sibling).digest()
    return position >> 1, last >> 1, node


def _level_above(level: list[bytes]) -> list[bytes]:
    pairs = [level[start : start + 2] for start in range(0, len(level), 2)]
    return [hash_node(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
