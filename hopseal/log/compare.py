"""Two or more logs against each other: what one node says it sent and the other does not say it received, and back.

Owns: the comparison of what logs claim. Does not own: whether any statement holds, or was logged in time (``audit``):
this finds what to look at, in seconds and over whole logs.
Source: custody-wire §11.7.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from hopseal.custody.observation import Observation
from hopseal.custody.outcome import Outcome
from hopseal.custody.receipt import Receipt
from hopseal.custody.record import Record
from hopseal.custody.statement import parse_sealed_statement
from hopseal.errors import HopsealError
from hopseal.log.collect import SourceLog
from hopseal.log.entries import Direction, RecordEntry, StatementEntry, parse_entry
from hopseal.log.without_custody import may_lack_custody


class Difference(StrEnum):
    """What two logs do not agree on."""

    NOT_RECEIVED = "not_received"
    NOT_SENT = "not_sent"
    NO_RECEIPT = "no_receipt"
    RECEIPT_NOT_RECEIVED = "receipt_not_received"
    RECEIPT_NOT_SENT = "receipt_not_sent"
    RECEIPTS_DIFFER = "receipts_differ"
    REPLAYED = "replayed"
    JTI_REUSED = "jti_reused"


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One difference, about one record.

    Args:
        kind: what it is.
        record: statement hash of the record.
        iss, aud, cid, op, iat: its claims, unverified; None if no log has the record.
        logs: where its traces are.
    """

    kind: Difference
    record: str
    iss: str | None
    aud: str | None
    cid: str | None
    op: str | None
    iat: int | None
    logs: tuple[str, ...]


@dataclass(slots=True)
class _Traces:
    """What all logs hold about one record."""

    record: Record | None = None
    sent: list[str] = field(default_factory=list)
    received: list[str] = field(default_factory=list)
    refused: bool = False
    answered: dict[str, Outcome] = field(default_factory=dict)
    receipt_sent: list[str] = field(default_factory=list)
    receipt_received: list[str] = field(default_factory=list)
    observed: bool = False


@dataclass(slots=True)
class _Table:
    traces: dict[str, _Traces] = field(default_factory=dict)
    uses: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    homes: dict[str, set[str]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)

    def read(self, log: SourceLog) -> None:
        for _, text in log.lines():
            try:
                entry = parse_entry(text)
                if isinstance(entry, RecordEntry) and not entry.accepted:
                    self.refused.add(entry.jti or "")
                elif isinstance(entry, RecordEntry | StatementEntry) and entry.accepted and entry.sealed:
                    self._take(log.origin, entry.direction, entry.sealed)
            except HopsealError:
                continue

    def _take(self, origin: str, direction: Direction, sealed: str) -> None:
        statement = parse_sealed_statement(sealed)
        claims = statement.claims
        is_sent = direction is Direction.SENT
        if isinstance(claims, Record):
            traces = self.traces.setdefault(statement.hash, _Traces())
            traces.record = claims
            (traces.sent if is_sent else traces.received).append(origin)
            self.uses.setdefault((str(claims.iss), claims.jti), set()).add(statement.hash)
            self.homes.setdefault(str(claims.iss) if is_sent else claims.aud, set()).add(origin)
        elif isinstance(claims, Receipt):
            traces = self.traces.setdefault(claims.outcome.rec, _Traces())
            traces.answered[statement.hash] = claims.outcome
            (traces.receipt_sent if is_sent else traces.receipt_received).append(origin)
            home = claims.outcome.iss if is_sent else claims.outcome.aud
            self.homes.setdefault(str(home), set()).add(origin)
        elif isinstance(claims, Observation):
            self.traces.setdefault(claims.outcome.rec, _Traces()).observed = True


def compare_logs(logs: Sequence[SourceLog]) -> tuple[Disagreement, ...]:
    """Every difference between ``logs``, by time; components that none of them serves are not missed."""
    table = _Table()
    for log in logs:
        table.read(log)
    found = [each for hash_, traces in table.traces.items() for each in _differences(hash_, traces, table)]
    return tuple(sorted(found, key=lambda each: (each.iat or 0, each.record, each.kind)))


def _differences(record_hash: str, traces: _Traces, table: _Table) -> Iterator[Disagreement]:
    record = traces.record
    for kind in (*_of_record(traces, table), *_of_receipts(traces, table)):
        logs = dict.fromkeys((*traces.sent, *traces.received, *traces.receipt_sent, *traces.receipt_received))
        yield Disagreement(
            kind,
            record_hash,
            str(record.iss) if record else None,
            record.aud if record else None,
            record.cid if record else None,
            record.op if record else None,
            record.iat if record else None,
            tuple(logs),
        )


def _of_record(traces: _Traces, table: _Table) -> Iterable[Difference]:
    record = traces.record
    if record is None:
        yield Difference.NOT_SENT
        return
    was_refused = record.jti in table.refused or any(each.fin == "deny" for each in traces.answered.values())
    if not traces.received and record.aud in table.homes and not was_refused:
        yield Difference.NOT_RECEIVED
    if not traces.sent and str(record.iss) in table.homes:
        yield Difference.NOT_SENT
    if len(traces.received) > 1 or len(traces.sent) > 1:
        yield Difference.REPLAYED
    if len(table.uses[str(record.iss), record.jti]) > 1:
        yield Difference.JTI_REUSED
    is_without_custody = traces.observed and may_lack_custody(record) and not traces.received
    if not traces.answered and record.aud.startswith("spiffe://") and not is_without_custody:
        yield Difference.NO_RECEIPT


def _of_receipts(traces: _Traces, table: _Table) -> Iterable[Difference]:
    if len({(each.st, each.cd, each.rsb, each.fin) for each in traces.answered.values()}) > 1:
        yield Difference.RECEIPTS_DIFFER
    for outcome in list(traces.answered.values())[:1]:
        if not traces.receipt_received and str(outcome.aud) in table.homes:
            yield Difference.RECEIPT_NOT_RECEIVED
        if not traces.receipt_sent and str(outcome.iss) in table.homes:
            yield Difference.RECEIPT_NOT_SENT
