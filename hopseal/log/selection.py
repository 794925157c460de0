"""Which chains somebody asks for: by chain, task, component, user or time.

Owns: the question, and answering it for one record and one chain. Does not own: reading logs. Values of records are
unverified here: a selection finds evidence, it judges none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hopseal.custody.record import Record
from hopseal.log.entries import CallEntry


@dataclass(frozen=True, slots=True)
class Selection:
    """The chains that fit every given kind of value; of one kind, any value.

    Task and user are the root's, which only some log entries hold: they are asked of the chain, the others of a record.

    Args:
        cids: chain IDs.
        tasks: task IDs.
        components: SPIFFE IDs, or ``agent/component``, of callers or callees.
        users: ``sub`` of the user on whose behalf.
        since: NumericDate seconds, included; None for no bound.
        until: NumericDate seconds, included; None for no bound.
    """

    cids: frozenset[str] = frozenset()
    tasks: frozenset[str] = frozenset()
    components: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    since: int | None = None
    until: int | None = None

    def fits_record(self, record: Record) -> bool:
        """Whether a record fits by itself: chain, time and who takes part."""
        return (
            (not self.cids or record.cid in self.cids)
            and (self.since is None or record.iat >= self.since)
            and (self.until is None or record.iat <= self.until)
            and (not self.components or any(map(self._names, _parties(record))))
        )

    def fits_call(self, cid: str | None, at: int, call: CallEntry) -> bool:
        """Whether a call without a record fits: such a call has no task and no user."""
        return (
            not self.tasks
            and not self.users
            and (not self.cids or cid in self.cids)
            and (self.since is None or at >= self.since)
            and (self.until is None or at <= self.until)
            and (not self.components or any(map(self._names, (call.iss, call.aud))))
        )

    def fits_chain(self, task: str | None, user: str | None) -> bool:
        """Whether what the root of a chain says fits: its task, and the user on whose behalf."""
        return (not self.tasks or task in self.tasks) and (not self.users or user in self.users)

    def _names(self, spiffe_id: str) -> bool:
        return spiffe_id in self.components or any(spiffe_id.endswith(f"/{each}") for each in self.components)


def _parties(record: Record) -> tuple[str, str]:
    return str(record.iss), record.aud


@dataclass(slots=True)
class ChainNotes:
    """Task and user of every chain, as far as its root was seen."""

    notes: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)

    def add(self, records: Iterable[Record]) -> None:
        """Remember what roots among ``records`` say."""
        for each in records:
            if each.task is not None:
                self.notes.setdefault(each.cid, (each.task.id, each.obo.sub if each.obo else None))

    def get(self, cid: str) -> tuple[str | None, str | None]:
        """Task and user of a chain."""
        return self.notes.get(cid, (None, None))
