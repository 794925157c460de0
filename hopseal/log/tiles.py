"""Tiles of a Merkle log: their paths, contents, and any hash of the tree out of them.

Theory: a tile of level L holds up to 256 hashes, each that of a perfect subtree of 256^L leaves; the levels between are
hashed again when they are needed. A tree of a given size is therefore a fixed list of full tiles, which never change,
and at most one partial tile for each level at its right edge.

Owns: names and bytes. Does not own: reading or writing files, proofs (``tree``).
Source: C2SP tlog-tiles.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from hopseal.custody.merkle import hash_node
from hopseal.errors import InvalidError
from hopseal.log.tree import HASH_BYTES, MAX_TREE_SIZE, HashReader

TILE_WIDTH = 256
TILE_HEIGHT = 8
MAX_LEVEL = 63
MAX_ENTRY_BYTES = 65_535
_PATH = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*)([0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII)


class TileError(InvalidError):
    """A tile, or its path, is not what the tree of that size has (code ``tile_invalid``)."""

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__("tile_invalid", message, detail=detail)


@dataclass(frozen=True, slots=True)
class Tile:
    """Which tile: of hashes at ``level``, or of entries if that is None.

    Args:
        level: 0 to 63, or None for an entry bundle.
        index: position among the tiles of that level.
        width: how many hashes or entries it holds; 256 if it is full.
    """

    level: int | None
    index: int
    width: int = TILE_WIDTH

    def __post_init__(self) -> None:
        if self.level is not None and not 0 <= self.level <= MAX_LEVEL:
            raise TileError("there is no such level", detail=str(self.level))
        if not 0 <= self.index <= MAX_TREE_SIZE or not 1 <= self.width <= TILE_WIDTH:
            raise TileError("there is no such tile", detail=f"{self.index}, width {self.width}")

    @property
    def path(self) -> str:
        """The path below the log's prefix, for example ``tile/0/x001/x234/067.p/8``."""
        level = "entries" if self.level is None else str(self.level)
        partial = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{level}/{_format_index(self.index)}{partial}"


def parse_tile_path(path: str) -> Tile:
    """The tile that ``path`` names.

    Raises:
        TileError: it is not exactly the path of a tile.
    """
    found = _PATH.fullmatch(path) if len(path) <= 64 else None
    if found is None:
        raise TileError("not the path of a tile")
    kind, groups, last, width = found.groups()
    level = None if kind == "entries" else int(kind)
    tile = Tile(level, int(groups.replace("x", "").replace("/", "") + last), int(width) if width else TILE_WIDTH)
    # One name for each tile: no superfluous x000, no .p/256.
    if tile.path != path:
        raise TileError("not the only path of a tile")
    return tile


def tiles_of(size: int, since: int = 0) -> Iterator[Tile]:
    """Every tile, of hashes and of entries, that the tree of ``size`` has and that of ``since`` leaves has not."""
    level = 0
    while size >> TILE_HEIGHT * level:
        count, before = size >> TILE_HEIGHT * level, since >> TILE_HEIGHT * level
        for index in range(before // TILE_WIDTH, -(-count // TILE_WIDTH)):
            width = min(TILE_WIDTH, count - index * TILE_WIDTH)
            if index * TILE_WIDTH + width > before:
                if level == 0:
                    yield Tile(None, index, width)
                yield Tile(level, index, width)
        level += 1


def encode_entries(entries: Iterable[bytes]) -> bytes:
    """The bytes of an entry bundle.

    Raises:
        TileError: an entry is too long for its length prefix.
    """
    parts = []
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            raise TileError("an entry is too long", detail=f"{len(entry)} bytes")
        parts += [len(entry).to_bytes(2), entry]
    return b"".join(parts)


def decode_entries(data: bytes, width: int) -> tuple[bytes, ...]:
    """The ``width`` entries of a bundle.

    Raises:
        TileError: it holds another number, or does not end with one.
    """
    entries = []
    offset = 0
    while offset < len(data):
        start = offset + 2
        offset = start + int.from_bytes(data[offset:start])
        if start > len(data) or offset > len(data):
            raise TileError("an entry bundle is cut off")
        entries.append(data[start:offset])
    if len(entries) != width:
        raise TileError("an entry bundle has another width", detail=f"{len(entries)} entries, not {width}")
    return tuple(entries)


def split_hashes(data: bytes, width: int) -> tuple[bytes, ...]:
    """The ``width`` hashes of a tile.

    Raises:
        TileError: the tile has another length.
    """
    if len(data) != width * HASH_BYTES:
        raise TileError("a tile has another width", detail=f"{len(data)} bytes, not {width * HASH_BYTES}")
    return tuple(data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES))


def cut_tile(tile: Tile, full: bytes) -> bytes:
    """The bytes of the partial ``tile``, out of those of the full tile that it grew into.

    Raises:
        TileError: ``full`` is no full tile.
    """
    if tile.level is None:
        return encode_entries(decode_entries(full, TILE_WIDTH)[: tile.width])
    return b"".join(split_hashes(full, TILE_WIDTH)[: tile.width])


def hash_perfect(hashes: tuple[bytes, ...]) -> bytes:
    """The hash of the perfect subtree over ``hashes``, of which there is a power of two."""
    level = list(hashes)
    while len(level) > 1:
        level = [hash_node(left, right) for left, right in zip(level[::2], level[1::2], strict=True)]
    return level[0]


def tile_hash_reader(size: int, load: Callable[[Tile], bytes]) -> HashReader:
    """Reads the hashes of the tree of ``size`` leaves out of its tiles.

    Args:
        size: of the tree; a partial tile is asked for at the width that it has in that tree.
        load: gives a tile's bytes; it is asked again each time, so it may keep what it loaded.
    """

    def read(level: int, index: int) -> bytes:
        tile_level, inner = divmod(level, TILE_HEIGHT)
        if level < 0 or index < 0 or (index + 1) << level > size:
            raise TileError("the hash is not in the tree", detail=f"level {level}, index {index}, size {size}")
        first = index << inner
        position, offset = divmod(first, TILE_WIDTH)
        count = size >> TILE_HEIGHT * tile_level
        tile = Tile(tile_level, position, min(TILE_WIDTH, count - position * TILE_WIDTH))
        hashes = split_hashes(load(tile), tile.width)
        return hash_perfect(hashes[offset : offset + (1 << inner)])

    return read


def _format_index(index: int) -> str:
    groups = [f"{index % 1000:03d}"]
    while index := index // 1000:
        groups.insert(0, f"x{index % 1000:03d}")
    return "/".join(groups)
