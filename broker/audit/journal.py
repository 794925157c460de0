"""The journal behind the data plane's back: its lines, in order, as far as they are durable.

Owns: finding an entry by its number, following into the next file. Does not own: writing, which only the data plane
does; how far the journal is durable, which the caller says.

Race: behind the last durable line there may be one that is being written, or that failed and will be overwritten, or
zeros, into which lines are written. So
nothing that was read beyond the durable end is kept: every call reads again from the end of the last line it gave.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from broker.audit.errors import LogContradictionError, LogStoreError
from hopseal.log.entries import LogError, read_payload
from hopseal.log.leaf import numbered_leaf_of_line
from hopseal.log.segments import CURRENT, order_segments, parse_closed_name

_CHUNK_BYTES = 1 << 20
_MAX_LINE_BYTES = 1 << 20
_LOOKS = 3
_NUMBER = re.compile(rb'[0-9a-f]{8} \{"n":([0-9]{1,20}),')


class Journal:
    """Reads the leaves of a journal; used by one thread at a time.

    Args:
        folder: of the journal's files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor = -1
        self._offset = 0
        self._next_n = -1

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._next_n = -1, -1

    def first_n(self) -> int | None:
        """The number of the oldest entry that is still there; None if there is no entry.

        Raises:
            LogStoreError: the files cannot be read.
        """
        try:
            for name in self._names():
                with (self._folder / name).open("rb") as file:
                    found = _NUMBER.match(file.readline(64))
                if found is not None:
                    return int(found[1])
        except OSError as error:
            raise LogStoreError(error) from error
        return None

    def read_leaves(self, start: int, end: int) -> Iterator[bytes]:
        """The leaves of entries ``start`` to ``end``, which is not included and up to which all are durable.

        Raises:
            LogContradictionError: an entry is not where it should be, or its line cannot be read.
            LogStoreError: the files cannot be read.
        """
        if start >= end:
            return
        try:
            if self._next_n != start:
                self._seek(start)
            while self._next_n < end:
                yield from self._read_file(end)
                if self._next_n < end:
                    self._enter(self._next_n)
        except OSError as error:
            self.close()
            raise LogStoreError(error) from error

    def _read_file(self, end: int) -> Iterator[bytes]:
        """Leaves up to ``end`` or the last whole line of the open file."""
        for line in self._lines():
            try:
                n, leaf = numbered_leaf_of_line(read_payload(line[:-1]))
            except LogError as error:
                raise self._contradiction(error.message) from error
            if n != self._next_n:
                raise self._contradiction(f"entry {n} stands in its place")
            self._offset += len(line)
            self._next_n += 1
            yield leaf
            if self._next_n == end:
                return

    def _lines(self) -> Iterator[bytes]:
        """Whole lines from where the last call ended."""
        offset, rest = self._offset, b""
        while chunk := os.pread(self._descriptor, _CHUNK_BYTES, offset):
            offset += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line + b"\n"
            if rest.startswith(b"\0"):
                return  # space that is written ahead: no line has a zero byte
            if len(rest) > _MAX_LINE_BYTES:
                raise self._contradiction("a line has no end")

    def _seek(self, start: int) -> None:
        """Stand before entry ``start``."""
        self._enter(start)
        for line in self._lines():
            found = _NUMBER.match(line)
            if found is not None and int(found[1]) >= start:
                break
            self._offset += len(line)
        self._next_n = start

    def _enter(self, n: int) -> None:
        """Open the file that holds entry ``n``, at its beginning; not the one that was just read to its end."""
        for _ in range(_LOOKS):
            descriptor = os.open(self._folder / self._name_of(n), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            if self._descriptor < 0 or self._next_n != n or not os.path.sameopenfile(self._descriptor, descriptor):
                self.close()
                self._descriptor, self._offset, self._next_n = descriptor, 0, n
                return
            # A full file gets its name between our two looks at names: look again.
            os.close(descriptor)
        raise self._contradiction("it is said to be durable and is not there")

    def _name_of(self, n: int) -> str:
        names = self._names()
        if CURRENT in names and self._begins_before(CURRENT, n):
            return CURRENT
        closed = [name for name in names if (first_n := parse_closed_name(name)) is not None and first_n <= n]
        return closed[-1] if closed else CURRENT

    def _names(self) -> tuple[str, ...]:
        return order_segments(path.name for path in self._folder.iterdir())

    def _begins_before(self, name: str, n: int) -> bool:
        try:
            with (self._folder / name).open("rb") as file:
                found = _NUMBER.match(file.readline(64))
        except FileNotFoundError:
            return False
        return found is not None and int(found[1]) <= n

    def _contradiction(self, why: str) -> LogContradictionError:
        n = self._next_n
        self.close()
        return LogContradictionError(f"the journal does not hold entry {n}", detail=why)
