"""The tree as it grows at its right edge, in memory: no more than one partial tile for each level.

Owns: turning leaves into tiles. Does not own: where tiles are kept (``tile_store``) or leaves come from (``journal``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from broker.audit.errors import LogContradictionError
from hopseal.custody.merkle import hash_leaf
from hopseal.errors import BugError
from hopseal.log.tiles import TILE_HEIGHT, TILE_WIDTH, Tile, decode_entries, encode_entries, hash_perfect, split_hashes
from hopseal.log.tree import read_root


class GrowingTree:
    """A tree of some size; :meth:`add` makes it larger.

    Args:
        size: number of leaves.
        load: gives a tile of the tree of that size.

    Raises:
        LogContradictionError: entries and hashes of the last tile do not fit.
        TileError: a tile is not of its width.
    """

    def __init__(self, size: int, load: Callable[[Tile], bytes]) -> None:
        self.size = size
        self._edges: list[list[bytes]] = []
        self._entries: list[bytes] = []
        level = 0
        while count := size >> TILE_HEIGHT * level:
            index, width = divmod(count, TILE_WIDTH)
            self._edges.append(list(split_hashes(load(Tile(level, index, width)), width)) if width else [])
            level += 1
        if width := size % TILE_WIDTH:
            self._entries = list(decode_entries(load(Tile(None, size // TILE_WIDTH, width)), width))
            if [hash_leaf(entry) for entry in self._entries] != self._edges[0]:
                raise LogContradictionError("the last entries are not those of the last hashes")

    @property
    def root(self) -> bytes:
        """The root hash."""
        return read_root(self.size, self._read)

    def add(self, leaves: Iterable[bytes]) -> list[tuple[Tile, bytes]]:
        """Every tile that is new or larger with these further leaves, with its bytes."""
        before = self.size
        tiles: list[tuple[Tile, bytes]] = []
        further = iter(leaves)
        while part := tuple(islice(further, TILE_WIDTH - len(self._entries))):
            self._entries += part
            self.size += len(part)
            tiles += self._push(0, list(map(hash_leaf, part)))
        if self.size > before:
            tiles += self._partial_tiles(before)
        return tiles

    def _push(self, level: int, hashes: list[bytes]) -> Iterator[tuple[Tile, bytes]]:
        """The tiles that become full with further hashes at ``level``, no more than it has room for."""
        if level == len(self._edges):
            self._edges.append([])
        edge = self._edges[level]
        edge += hashes
        if len(edge) < TILE_WIDTH:
            return
        index = (self.size >> TILE_HEIGHT * (level + 1)) - 1
        if level == 0:
            yield Tile(None, index), encode_entries(self._entries)
            self._entries.clear()
        yield Tile(level, index), b"".join(edge)
        full = hash_perfect(tuple(edge))
        edge.clear()
        yield from self._push(level + 1, [full])

    def _partial_tiles(self, before: int) -> Iterator[tuple[Tile, bytes]]:
        for level, edge in enumerate(self._edges):
            count = self.size >> TILE_HEIGHT * level
            if not edge or count == before >> TILE_HEIGHT * level:
                continue
            index = count // TILE_WIDTH
            if level == 0:
                yield Tile(None, index, len(self._entries)), encode_entries(self._entries)
            yield Tile(level, index, len(edge)), b"".join(edge)

    def _read(self, level: int, index: int) -> bytes:
        """A perfect subtree at the right edge: all that the root is made of lies in partial tiles."""
        tile_level, inner = divmod(level, TILE_HEIGHT)
        tile, offset = divmod(index << inner, TILE_WIDTH)
        if tile != self.size >> TILE_HEIGHT * (tile_level + 1):
            raise BugError("tree_edge", "a hash away from the right edge was asked for", detail=f"{level}, {index}")
        return hash_perfect(tuple(self._edges[tile_level][offset : offset + (1 << inner)]))
