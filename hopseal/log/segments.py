"""The files of a journal: their names, the order in which they are one log, and which of them may be deleted.

Owns: names and the rule of retention. Does not own: opening or deleting them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CURRENT = "custody.log"
_CLOSED = re.compile(r"custody-([0-9]{20})\.log", re.ASCII)


@dataclass(frozen=True, slots=True)
class ClosedSegment:
    """A full file of a journal.

    Args:
        name: of the file.
        first_n: number of its first entry.
        end_n: number of the first entry of the file after it.
        newest_ms: time of its newest entry, milliseconds since 1970; None if one of its lines cannot be read.
    """

    name: str
    first_n: int
    end_n: int
    newest_ms: int | None


def choose_prunable(
    segments: Sequence[ClosedSegment], *, before_ms: int, covered: int
) -> tuple[tuple[ClosedSegment, ...], str]:
    """The full files that may be deleted, oldest first, and why the one after them may not; empty if there is none.

    Only a beginning of the log goes, so that what is left has no gap.

    Args:
        segments: every full file, oldest first.
        before_ms: each entry of a file must be older than this.
        covered: leaves under the published checkpoint, which must cover a file whole: the tree keeps its hashes.
    """
    chosen: list[ClosedSegment] = []
    for segment in segments:
        if segment.newest_ms is None:
            return tuple(chosen), f"{segment.name} is damaged: keep it for the auditor"
        if segment.newest_ms >= before_ms:
            return tuple(chosen), f"{segment.name} has newer entries"
        if segment.end_n > covered:
            return tuple(chosen), f"{segment.name} is not under the published checkpoint of {covered} entries"
        chosen.append(segment)
    return tuple(chosen), ""


def parse_closed_name(name: str) -> int | None:
    """The number of the first entry in the full file ``name``; None if it is another file."""
    found = _CLOSED.fullmatch(name)
    return int(found[1]) if found else None


def format_closed_name(first_n: int) -> str:
    """The name of the full file whose first entry has this number."""
    return f"custody-{first_n:020}.log"


def order_segments(names: Iterable[str]) -> tuple[str, ...]:
    """Those of ``names`` that are files of the log, oldest first; the one that grows is last."""
    listed = set(names)
    closed = sorted(name for name in listed if parse_closed_name(name) is not None)
    return (*closed, CURRENT) if CURRENT in listed else tuple(closed)
