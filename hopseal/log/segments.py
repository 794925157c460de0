"""The files of a journal: their names, and the order in which they are one log.

Owns: names. Does not own: opening them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

CURRENT = "custody.log"
_CLOSED = re.compile(r"custody-([0-9]{20})\.log", re.ASCII)


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
