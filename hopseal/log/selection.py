"""Which chains somebody asks for: by chain, task, component, user or time.

Owns: the question, and answering it for one record. Does not own: reading logs. Values of records are unverified here:
a selection finds evidence, it judges none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hopseal.custody.record import Record


@dataclass(frozen=True, slots=True)
class Selection:
    """The chains with a record that fits every given kind of value; of one kind, any value.

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

    def fits(self, records: Sequence[Record]) -> bool:
        """Whether a record with its ancestors, oldest first, fits; it stands last."""
        newest = records[-1]
        return (
            (not self.cids or newest.cid in self.cids)
            and (self.since is None or newest.iat >= self.since)
            and (self.until is None or newest.iat <= self.until)
            and (not self.tasks or any(each.task is not None and each.task.id in self.tasks for each in records))
            and (not self.users or any(each.obo is not None and each.obo.sub in self.users for each in records))
            and (not self.components or any(map(self._names, _parties(newest))))
        )

    def _names(self, spiffe_id: str) -> bool:
        return spiffe_id in self.components or any(spiffe_id.endswith(f"/{each}") for each in self.components)


def _parties(record: Record) -> tuple[str, str]:
    return str(record.iss), record.aud
