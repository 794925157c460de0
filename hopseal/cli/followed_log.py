"""Log files that are read on and on: the broker's custody log over all its files, and the daemons' own in JSON.

Owns: finding the next file when one is full, whole lines. Does not own: what is printed (``logs``).
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TextIO

from hopseal.cli.log_folders import journal_of
from hopseal.errors import UnavailableError
from hopseal.log.segments import CURRENT, order_segments

_CRC_CHARS = 9  # eight hex digits and a space before the JSON of a custody log line
_SILENT_TYPES = frozenset({"cert", "bundle"})


class FollowedLog:
    """A log file, or the files of a log one after the other, also those that come later."""

    def __init__(self, stack: ExitStack, path: Path) -> None:
        self._stack = stack
        path = journal_of(path)
        self._folder = path if path.is_dir() else None
        self._file = self._open(path if self._folder is None else self._folder / self._names()[0])

    def entries(self) -> Iterator[dict[str, Any]]:
        """The complete entries from where the last call ended."""
        while True:
            # Looked for first: a file is full, for good, once there is a later one.
            later = self._later()
            yield from _entries(self._file)
            if later is None:
                return
            self._file.close()
            self._file = self._open(later)

    def _later(self) -> Path | None:
        """The file after the open one, which may have been renamed since."""
        if self._folder is None:
            return None
        opened = os.fstat(self._file.fileno())
        names = self._names()
        for name, following in itertools.pairwise(names):
            with suppress(FileNotFoundError):
                if os.path.samestat((self._folder / name).stat(), opened):
                    return self._folder / following
        return None

    def _names(self) -> tuple[str, ...]:
        try:
            names = () if self._folder is None else order_segments(each.name for each in self._folder.iterdir())
        except OSError as error:
            raise _unreadable(self._folder or Path(), error) from error
        return names or (CURRENT,)

    def _open(self, file: Path) -> TextIO:
        try:
            return self._stack.enter_context(file.open(encoding="utf-8", errors="replace"))
        except OSError as error:
            raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> UnavailableError:
    return UnavailableError(
        "log_unreadable",
        f"{file}: {error.strerror}",
        remedy="name a readable log with --log, or run it as the broker's user",
    )


def _entries(file: TextIO) -> Iterator[dict[str, Any]]:
    """The complete entries from here on; an unfinished line is left for the next time."""
    while True:
        before = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(before)
            return
        entry = _parse(line)
        if entry is not None and entry.get("type") not in _SILENT_TYPES and not entry.get("continues"):
            yield entry


def _parse(line: str) -> dict[str, Any] | None:
    text = line if line.startswith("{") else line[_CRC_CHARS:]
    try:
        entry = json.loads(text)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
