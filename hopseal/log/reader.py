"""A whole log out of its bytes: entries, damage, torn tail; and finding chains in it.

Owns: what counts as damage. Whatever cannot be read at the very end is a torn write, which was never acknowledged and
which the writer cuts off when it starts again; it is told apart as ``torn_bytes``. Zeros behind it are space that is
written ahead. Everything else is damage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from hopseal.custody.errors import CustodyError
from hopseal.custody.record import Record, parse_sealed_record
from hopseal.log.entries import LogEntry, LogError, RecordEntry, StartEntry, parse_line


@dataclass(frozen=True, slots=True)
class Damage:
    """Something is wrong at the byte ``offset`` of the log, or of one ``file`` of it."""

    offset: int
    message: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class LogContents:
    """A log as far as it can be read.

    Args:
        entries: every readable entry, in order.
        damage: lines that cannot be read, and gaps in the numbering.
        torn_bytes: length of an unfinished write at the end.
    """

    entries: tuple[LogEntry, ...]
    damage: tuple[Damage, ...]
    torn_bytes: int

    @property
    def node(self) -> str:
        """The node that wrote the log; empty if it has no start entry."""
        return next((entry.node for entry in self.entries if isinstance(entry, StartEntry)), "")


def read_log(data: bytes) -> LogContents:
    """What the bytes of a log hold; never raises."""
    return read_files([("", data)])


def read_files(files: Sequence[tuple[str, bytes]]) -> LogContents:
    """What the files of one log hold, given by name and oldest first; never raises.

    Only the last one can end in a torn write: the writer repairs an end before it begins the next file.
    """
    entries: list[LogEntry] = []
    damage: list[Damage] = []
    unread: list[Damage] = []
    torn_bytes = 0
    for name, data in files:
        damage.extend(unread)
        unread.clear()
        offset = end = 0
        for line in _lines(data):
            try:
                entry = _complete(line)
            except LogError as error:
                unread.append(Damage(offset, error.message, name))
            else:
                damage.extend(unread)
                unread.clear()
                if entries and entry.n != entries[-1].n + 1:
                    damage.append(Damage(offset, f"entry {entry.n} follows entry {entries[-1].n}", name))
                entries.append(entry)
                end = offset + len(line)
            offset += len(line)
        torn_bytes = max(0, len(data.rstrip(b"\0")) - end)
    return LogContents(tuple(entries), tuple(damage), torn_bytes)


def find_chains(
    entries: Iterable[LogEntry], *, cid: str | None = None, jti: str | None = None, task: str | None = None
) -> tuple[str, ...]:
    """The ``cid`` of every chain with an accepted record that fits all given values, oldest first."""
    found: dict[str, None] = {}
    for entry in entries:
        if not isinstance(entry, RecordEntry) or not entry.accepted or entry.cid is None:
            continue
        if (cid is not None and entry.cid != cid) or (jti is not None and entry.jti != jti):
            continue
        if task is None or task in _task_ids(entry):
            found[entry.cid] = None
    return tuple(found)


def records_of(entry: RecordEntry) -> Iterator[Record]:
    """The readable records of an entry, ancestors first; nothing about them is verified."""
    for text in (*entry.ancestors, *([entry.sealed] if entry.sealed else [])):
        try:
            yield parse_sealed_record(text).record
        except CustodyError:
            continue


def _task_ids(entry: RecordEntry) -> set[str]:
    return {record.task.id for record in records_of(entry) if record.task is not None}


def _complete(line: bytes) -> LogEntry:
    if not line.endswith(b"\n"):
        raise LogError("the line has no end")
    return parse_line(line[:-1])


def _lines(data: bytes) -> Iterator[bytes]:
    """Lines with their newline; ``bytes.splitlines`` would also split at carriage returns."""
    start = 0
    while start < len(data):
        end = data.find(b"\n", start) + 1 or len(data)
        yield data[start:end]
        start = end
