"""Statements of a bundle by their hash, with what the steps before found: what the cross-checks look things up in.

Owns: one entry for each statement, whatever number of sealed texts (twins) it has; the indexes over them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hopseal.custody.outcome import Outcome
from hopseal.custody.record import Record
from hopseal.log.audit.codes import AuditCode, is_missing
from hopseal.log.audit.statements import ReadStatement
from hopseal.log.audit.steps import Entry, StatementReport
from hopseal.log.entries import Direction
from hopseal.log.judge import Finding
from hopseal.log.without_custody import may_lack_custody

CROSS_STEP = 7


@dataclass(slots=True)
class Facts:
    """One statement and what is known about it.

    Args:
        statement: one of its forms.
        finding: the first that any form has; None if all hold.
        missing: what would be needed and is not there.
        entries: where logs are proven to hold it, in any form.
        at: T, the earliest; None if none is proven.
    """

    statement: ReadStatement
    finding: Finding | None
    missing: list[str]
    entries: list[Entry]
    at: int | None

    @property
    def hash(self) -> str:
        """The statement hash."""
        return self.statement.hash

    @property
    def holds(self) -> bool:
        """Whether no step found anything wrong, or anything missing."""
        return self.finding is None

    @property
    def is_refused(self) -> bool:
        """Whether a step found something wrong, and not only missing."""
        return self.finding is not None and not is_missing(self.finding.code)

    def refuse(self, code: AuditCode | str, detail: str) -> None:
        """Note what a cross-check found, unless an earlier step found something."""
        if not self.is_refused:
            self.finding = Finding(CROSS_STEP, str(code), detail)

    def lacks(self, what: str) -> None:
        """Note that ``what`` is missing."""
        if what not in self.missing:
            self.missing.append(what)

    def places(self, direction: Direction) -> list[tuple[str, int]]:
        """Log entries that hold it as sent, or as received."""
        return [(each.witnessed.origin, each.witnessed.index) for each in self.entries if each.direction is direction]

    def merge(self, report: StatementReport) -> None:
        """Take in the report on another form: every form must hold, and the earliest T counts."""
        self.finding = self.finding or report.finding
        for what in report.missing:
            self.lacks(what)
        self.entries += [each for each in report.entries if each not in self.entries]
        self.at = min((each for each in (self.at, report.at) if each is not None), default=None)


@dataclass(slots=True)
class FactTable:
    """Every statement of a bundle.

    Args:
        by_hash: by statement hash.
        children: records by the hash of the record that they continue.
        about: receipts, observations and closing statements by the hash of their record.
        records: every record.
    """

    by_hash: dict[str, Facts] = field(default_factory=dict)
    children: dict[str, list[Facts]] = field(default_factory=dict)
    about: dict[str, list[Facts]] = field(default_factory=dict)
    records: list[tuple[Facts, Record]] = field(default_factory=list)

    def add(self, statement: ReadStatement, report: StatementReport) -> None:
        """Take in one sealed text and its report."""
        known = self.by_hash.get(statement.hash)
        if known is not None:
            known.merge(report)
            return
        facts = Facts(statement, report.finding, list(report.missing), list(report.entries), report.at)
        self.by_hash[statement.hash] = facts
        if (record := statement.record) is not None:
            self.records.append((facts, record))
            if record.prev is not None:
                self.children.setdefault(record.prev, []).append(facts)
        if statement.subject is not None:
            self.about.setdefault(statement.subject, []).append(facts)

    def record(self, statement_hash: str) -> Record | None:
        """The record with this hash, if it is here."""
        facts = self.by_hash.get(statement_hash)
        return facts.statement.record if facts else None

    def observations(self, statement_hash: str, iss: str) -> list[Facts]:
        """What ``iss`` says that it saw of the answer to this record."""
        about = self.about.get(statement_hash, ())
        return [each for each in about if each.statement.kind == "obs" and str(each.statement.iss) == iss]

    def is_without_custody(self, facts: Facts, record: Record) -> bool:
        """Whether the callee knows nothing of custody: its caller asked for no receipt, and nothing here is by it."""
        if not may_lack_custody(record) or self.receipts(facts.hash) or facts.places(Direction.RECEIVED):
            return False
        return not record.aud.startswith("spiffe://") or bool(self.observations(facts.hash, str(record.iss)))

    def receipts(self, statement_hash: str) -> list[tuple[Facts, Outcome]]:
        """The receipts that name this record, observations not among them."""
        about = ((each, each.statement.receipt) for each in self.about.get(statement_hash, ()))
        return [(each, receipt) for each, receipt in about if receipt is not None]


def build_table(pairs: Iterable[tuple[ReadStatement, StatementReport]]) -> FactTable:
    """The table of all ``pairs``."""
    table = FactTable()
    for statement, report in pairs:
        table.add(statement, report)
    return table
