"""The files of the Merkle log: tiles, the signed checkpoint, the published one.

Owns: their paths, and that what is written survives a crash before anything that depends on it is.
Does not own: what is in them.
Source: C2SP tlog-tiles.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from broker.audit.errors import LogStoreError
from hopseal.log.tiles import TILE_WIDTH, Tile, cut_tile

CHECKPOINT = "checkpoint"
SIGNED = "signed"
_FILE_MODE = 0o640
_FOLDER_MODE = 0o750
_UNFINISHED = ".unfinished"


class TileStore:
    """A folder of tiles.

    Args:
        folder: made by :meth:`make_folder`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make_folder(self) -> None:
        """Make the folder, durably.

        Raises:
            LogStoreError: it cannot be made.
        """
        try:
            self._make(self.folder)
        except OSError as error:
            raise LogStoreError(error) from error

    def read(self, tile: Tile) -> bytes:
        """A tile's bytes; a partial one also out of the full one that it grew into.

        Raises:
            LogStoreError: it cannot be read.
            TileError: the full tile is not of its width.
        """
        try:
            try:
                return (self.folder / tile.path).read_bytes()
            except FileNotFoundError:
                if tile.width == TILE_WIDTH:
                    raise
                return cut_tile(tile, (self.folder / Tile(tile.level, tile.index).path).read_bytes())
        except OSError as error:
            raise LogStoreError(error) from error

    def write_tiles(self, tiles: Iterable[tuple[Tile, bytes]]) -> None:
        """Write tiles durably.

        Raises:
            LogStoreError: some of them may not be there.
        """
        folders: set[Path] = set()
        try:
            for tile, data in tiles:
                path = self.folder / tile.path
                folders |= self._make(path.parent)
                write_file(path, data)
                folders.add(path.parent)
            for folder in folders:
                sync_folder(folder)
        except OSError as error:
            raise LogStoreError(error) from error

    def read_note(self, name: str) -> bytes | None:
        """A note that :meth:`write_note` wrote; None if it never did.

        Raises:
            LogStoreError: it cannot be read.
        """
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LogStoreError(error) from error

    def write_note(self, name: str, note: bytes) -> None:
        """Replace a note durably: after a crash it is the old or the new one.

        Raises:
            LogStoreError: it may be either.
        """
        try:
            write_file(self.folder / name, note)
            sync_folder(self.folder)
        except OSError as error:
            raise LogStoreError(error) from error

    def drop_partial(self, tiles: Iterable[Tile]) -> None:
        """Remove the partial tiles that grew into these full ones; what cannot be removed stays."""
        for tile in tiles:
            if tile.width == TILE_WIDTH:
                with suppress(OSError):
                    path = self.folder / tile.path
                    shutil.rmtree(path.with_name(path.name + ".p"))

    def _make(self, folder: Path) -> set[Path]:
        """The folders whose names are not durable yet, after making ``folder`` and what it is in."""
        if folder.is_dir():
            return set()
        changed = self._make(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir(_FOLDER_MODE)
        if folder == self.folder:
            sync_folder(folder.parent)
        return {*changed, folder.parent, folder}


def write_file(path: Path, data: bytes) -> None:
    """Replace a file; its bytes are durable, its name is once its folder is.

    Raises:
        OSError: it may be the old one.
    """
    unfinished = path.with_name(path.name + _UNFINISHED)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, _FILE_MODE)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    unfinished.replace(path)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data``: a disk that fills up takes a part of it first, and says nothing.

    Raises:
        OSError: a part of it may be there.
    """
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable.

    Raises:
        OSError: they may not be.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
