"""Calls whose other end knows nothing of custody: what a log holds of them instead of a receipt.

Owns: which records are of such calls, and the journal's lines about calls that no record tells of. Whatever they say
is the word of one side: it proves what that side's broker saw, and nothing about the other.
Source: custody-wire §7.1 (last item) and §10.
"""

from __future__ import annotations

from collections.abc import Iterable

from hopseal.custody.record import Record
from hopseal.log.entries import CallEntry, LogEntry

_SPIFFE = "spiffe://"


def may_lack_custody(record: Record) -> bool:
    """Whether the caller asked nobody for a receipt: the callee is no component, or one that makes none."""
    return not record.aud.startswith(_SPIFFE) or not record.rr


def calls_of(entries: Iterable[LogEntry], cid: str) -> tuple[CallEntry, ...]:
    """The lines about calls without a record that belong to chain ``cid``: what led to it, and its tunnels."""
    return tuple(entry for entry in entries if isinstance(entry, CallEntry) and entry.cid == cid)
