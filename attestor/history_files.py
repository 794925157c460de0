"""Files of state changes, two for each component; blocking.

Owns: their names, format, bounds and repair. Does not own: what a change is, or when one is written
(``attestor.history``).

``<folder>/<agent>.<component>.jsonl``, one JSON object a line, oldest first. A file that is full becomes
``….jsonl.1`` in place of the one before it, so a component that keeps changing pushes out its own past and
nobody else's. Files are appended to and never rewritten: a crash can tear the last line and nothing before
it; the next line then begins on a line of its own, and readers count what they cannot read.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hopseal.documents.grammar import LABEL_PATTERN

SEGMENT_BYTES: Final = 262_144
MAX_LINE_BYTES: Final = 16_384
MAX_COMPONENTS: Final = 4096
TAIL_BYTES: Final = 32_768  # of each component, where all are asked for
_FILE_MODE, _FOLDER_MODE = 0o600, 0o700
_NAME = re.compile(rf"({LABEL_PATTERN})/({LABEL_PATTERN})", re.ASCII)


@dataclass(frozen=True, slots=True)
class ReadHistory:
    """What files hold.

    Args:
        changes: oldest first.
        unreadable: lines that a crash or somebody else left.
    """

    changes: tuple[Mapping[str, Any], ...]
    unreadable: int


class HistoryFiles:
    """The files in ``folder``, which is made when it is first needed."""

    def __init__(
        self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES, max_components: int = MAX_COMPONENTS
    ) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._max_components = max_components

    def append(self, qualified: str, changes: Iterable[Mapping[str, Any]]) -> None:
        """Add ``changes``; on disk when it returns.

        Raises:
            OSError: not all of them are.
        """
        data = b"".join(map(_line, changes))
        path = self._path(qualified)
        self._folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        is_new = not path.exists()
        if is_new:
            self._make_room()
        elif path.stat().st_size + len(data) > self._segment_bytes:
            path.replace(_older(path))
            is_new = True
        _append(path, data)
        if is_new:
            _sync_folder(self._folder)

    def read(self, qualified: str, limit: int) -> ReadHistory:
        """The newest ``limit`` changes of one component; none if there is no file, or no such name.

        Raises:
            OSError: a file is there and cannot be read.
        """
        if _NAME.fullmatch(qualified) is None:
            return ReadHistory((), 0)
        path = self._path(qualified)
        return _parse(_read(_older(path)) + _read(path), limit)

    def read_all(self, limit: int) -> ReadHistory:
        """The newest ``limit`` changes of all components together; raises like :meth:`read`."""
        found: list[Mapping[str, Any]] = []
        unreadable = 0
        for path in self._folder.glob("*.jsonl"):
            part = _parse(_read(path, TAIL_BYTES), limit)
            found += part.changes
            unreadable += part.unreadable
        found.sort(key=lambda change: float(change["at"]))
        return ReadHistory(tuple(found[-limit:]), unreadable)

    def _path(self, qualified: str) -> Path:
        # Neither label has a dot, so no two components share a name.
        return self._folder / f"{qualified.replace('/', '.')}.jsonl"

    def _make_room(self) -> None:
        """Forget components that changed longest ago; documents name them no more, or nothing happens to them."""
        files = list(self._folder.glob("*.jsonl"))
        surplus = len(files) - self._max_components + 1
        if surplus > 0:
            files.sort(key=lambda path: path.stat().st_mtime_ns)
            for path in files[:surplus]:
                _older(path).unlink(missing_ok=True)
                path.unlink(missing_ok=True)


def _older(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def _line(change: Mapping[str, Any]) -> bytes:
    line = json.dumps(change, separators=(",", ":"), default=str).encode() + b"\n"
    if len(line) <= MAX_LINE_BYTES:
        return line
    # The state and its code always fit; what was measured may not, and half of it would mislead.
    short = {**change, "items": [], "items_left_out": len(change["items"])}
    return json.dumps(short, separators=(",", ":"), default=str).encode() + b"\n"


def _append(path: Path, data: bytes) -> None:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, _FILE_MODE)
    try:
        found = os.fstat(descriptor)
        if stat.S_IMODE(found.st_mode) != _FILE_MODE:
            os.fchmod(descriptor, _FILE_MODE)
        if found.st_size and os.pread(descriptor, 1, found.st_size - 1) != b"\n":
            data = b"\n" + data
        while data:
            data = data[os.write(descriptor, data) :]
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, tail_bytes: int | None = None) -> bytes:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if tail_bytes is None or size <= tail_bytes:
                return file.read()
            file.seek(size - tail_bytes)
            return file.read().partition(b"\n")[2]  # from the first whole line on
    except FileNotFoundError:
        return b""


def _parse(data: bytes, limit: int) -> ReadHistory:
    changes: list[Mapping[str, Any]] = []
    unreadable = 0
    for line in data.splitlines():
        try:
            change = json.loads(line)
            float(change["at"])
        except (ValueError, TypeError, KeyError, RecursionError):
            unreadable += 1
            continue
        changes.append(change)
    return ReadHistory(tuple(changes[-limit:]), unreadable)
