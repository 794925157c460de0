"""A journal beside the Merkle log that was made of it: which entries are not what was signed.

Owns: the comparison. Does not own: reading files; the checkpoint's signatures, which say whose word is compared
with; logs of several nodes against each other (``compare``).
It finds a changed, removed or added line anywhere, whatever its checksum says: leaves are compared with the level-0
tiles, and those with the checkpoint's root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from hopseal.custody.merkle import hash_leaf
from hopseal.log.checkpoint import Checkpoint
from hopseal.log.entries import LogError
from hopseal.log.leaf import leaf_of_line
from hopseal.log.tiles import TILE_WIDTH, Tile, TileError, split_hashes
from hopseal.log.tree import compute_tree_root


@dataclass(frozen=True, slots=True)
class JournalCheck:
    """What came of it.

    Args:
        size: leaves under the checkpoint.
        first: number of the oldest entry in the journal; None if there is none.
        unsigned: entries that the checkpoint does not cover yet.
        changed: numbers of entries that are not those of the log.
        missing: numbers of entries that the journal should hold and does not.
        tiles_problem: why the tiles are not those of the checkpoint; empty if they are.
    """

    size: int
    first: int | None
    unsigned: int
    changed: tuple[int, ...]
    missing: tuple[int, ...]
    tiles_problem: str

    @property
    def holds(self) -> bool:
        """Whether the journal is the one that was signed; older entries may have been pruned."""
        return not (self.changed or self.missing or self.tiles_problem)


def check_journal(
    lines: Iterable[tuple[int, bytes]], checkpoint: Checkpoint, load: Callable[[Tile], bytes]
) -> JournalCheck:
    """The journal's readable lines, by number and JSON text in order, against the tree of ``checkpoint``."""
    size = checkpoint.size
    changed: list[int] = []
    seen: set[int] = set()
    unsigned = 0
    first: int | None = None
    for n, text in lines:
        first = n if first is None else min(first, n)
        if n >= size:
            unsigned += 1
            continue
        if n in seen or not _is_leaf(text, n, size, load):
            changed.append(n)
        seen.add(n)
    missing = tuple(n for n in range(first or 0, size) if n not in seen)
    return JournalCheck(size, first, unsigned, tuple(changed), missing, _check_tiles(checkpoint, load))


def _is_leaf(text: bytes, n: int, size: int, load: Callable[[Tile], bytes]) -> bool:
    try:
        return hash_leaf(leaf_of_line(text)) == _hashes(n // TILE_WIDTH, size, load)[n % TILE_WIDTH]
    except (LogError, TileError):
        return False


def _check_tiles(checkpoint: Checkpoint, load: Callable[[Tile], bytes]) -> str:
    try:
        root = compute_tree_root(_leaf_hashes(checkpoint.size, load))
    except TileError as error:
        return f"{error.message}: {error.detail}" if error.detail else error.message
    return "" if root == checkpoint.root else "the tiles have another root than the checkpoint"


def _leaf_hashes(size: int, load: Callable[[Tile], bytes]) -> Iterator[bytes]:
    for index in range(-(-size // TILE_WIDTH)):
        yield from _hashes(index, size, load)


def _hashes(index: int, size: int, load: Callable[[Tile], bytes]) -> tuple[bytes, ...]:
    width = min(TILE_WIDTH, size - index * TILE_WIDTH)
    return split_hashes(load(Tile(0, index, width)), width)
