"""What this node knows about processes and the components they are, were or claim.

Owns: the memory behind ``status`` and ``explain``, bounded. Does not own: deciding any of it
(``attestor.standing``) or its form on the admin socket (``attestor.status``).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from attestor.facts import ContainerFacts, Evidence, ProcessFacts, Unreadable
from attestor.items import Item
from attestor.peer import PinnedProcess
from attestor.standing import Standing, Standings
from attestor.states import State

MAX_GONE: Final = 256
MAX_CONTAINERS: Final = 4096
MAX_HISTORY: Final = 32

REFUSING: Final = frozenset({State.DRIFTED, State.REFUSED, State.SUSPENDED, State.RETIRED, State.UNREADABLE})


@dataclass(frozen=True, slots=True, order=True)
class ProcessKey:
    """What names one process for the life of the machine."""

    pidfd_inode: int
    pid: int
    start_ticks: int


def key_of(process: PinnedProcess) -> ProcessKey:
    """The key of a pinned process; where the kernel gives no inode, pid and start time tell it apart."""
    return ProcessKey(process.pidfd_inode, process.pid, process.start_ticks)


@dataclass(frozen=True, slots=True)
class Change:
    """One step in the life of a process as a component; ``items`` is what was approved and measured then."""

    at: float
    qualified: str
    state: State
    code: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """What is known about one process.

    Args:
        pid: in the attestor's pid namespace.
        instance: ``docker:<id>`` or ``cgroup:<path>``; empty while it could not be read.
        engine: empty outside containers.
        first_seen_at: epoch seconds.
        measured_at: epoch seconds; None while nothing was measured.
        posture: the highest level that held then; empty while it could not be read.
        svid_expires_at: by qualified name, epoch seconds; None: the upstream issues none.
    """

    key: ProcessKey
    pid: int
    uid: int
    first_seen_at: float
    exe_path: str = ""
    instance: str = ""
    engine: str = ""
    container_id: str = ""
    measured_at: float | None = None
    posture: str = ""
    standings: Standings = field(default_factory=dict)
    svid_expires_at: Mapping[str, int | None] = field(default_factory=dict)
    history: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """The newest refusal of a component, kept after the process is gone."""

    at: float
    code: str
    message: str
    pid: int


class Registry:
    """Records of live processes, of some that are gone, and what was attested where."""

    def __init__(self) -> None:
        self._live: dict[ProcessKey, Record] = {}
        self._gone: deque[Record] = deque(maxlen=MAX_GONE)
        self._last_refusals: dict[str, Refusal] = {}
        self._attested_in: OrderedDict[str, frozenset[str]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._live)

    def live(self) -> Iterator[Record]:
        """Records of processes that have not exited."""
        return iter(self._live.values())

    def gone(self) -> Iterator[Record]:
        """Records of processes that have exited, newest first."""
        return reversed(self._gone)

    def get(self, key: ProcessKey) -> Record | None:
        """The record of a live process."""
        return self._live.get(key)

    def last_refusal(self, qualified: str) -> Refusal | None:
        """The newest refusal of a component, or None."""
        return self._last_refusals.get(qualified)

    def seen_as(self, key: ProcessKey, container_id: str) -> frozenset[str]:
        """Components that this process, or a process of its container, was attested as."""
        return self.attested_as(key) | (
            self._attested_in.get(container_id, frozenset()) if container_id else frozenset()
        )

    def attested_as(self, key: ProcessKey) -> frozenset[str]:
        """Components that this process was attested as."""
        record = self._live.get(key)
        history = () if record is None else record.history
        return frozenset(change.qualified for change in history if change.state is State.ATTESTED)

    def admit(self, process: PinnedProcess, now: float) -> Record:
        """The record of ``process``, made now if there is none."""
        key = key_of(process)
        return self._live.setdefault(key, Record(key, process.pid, process.uid, now))

    def measured(self, key: ProcessKey, evidence: Evidence, instance: str) -> None:
        """Note what was measured about a process."""
        posture = "" if isinstance(evidence.posture, Unreadable) else evidence.posture.level.value
        record = replace(self._live[key], measured_at=evidence.measured_at, instance=instance, posture=posture)
        if isinstance(evidence.process, ProcessFacts):
            record = replace(record, uid=evidence.process.uid, exe_path=evidence.process.exe_path)
        if isinstance(evidence.container, ContainerFacts):
            record = replace(record, engine=evidence.container.engine, container_id=evidence.container.id)
        elif not isinstance(evidence.container, Unreadable):
            record = replace(record, engine="", container_id="")
        self._live[key] = record

    def stand(self, key: ProcessKey, standings: Standings, now: float) -> tuple[Standing, ...]:
        """Note what a process is now; returns the standings whose state or code changed."""
        record = self._live[key]
        changed = tuple(self._changed(record.standings, standings))
        steps = tuple(Change(now, each.qualified, each.state, each.code, each.items) for each in changed)
        self._live[key] = replace(record, standings=dict(standings), history=(*record.history, *steps)[-MAX_HISTORY:])
        for standing in changed:
            if standing.state is State.ATTESTED:
                self._remember(record.container_id, standing.qualified)
            elif standing.state in REFUSING:
                self._last_refusals[standing.qualified] = Refusal(now, standing.code, standing.message, record.pid)
        return changed

    def note_svid(self, pidfd_inode: int, qualified: str, expires_at: int | None) -> None:
        """Note when the SVID that a process was handed expires; None: there was none."""
        for key, record in self._live.items():
            if key.pidfd_inode == pidfd_inode:
                self._live[key] = replace(record, svid_expires_at={**record.svid_expires_at, qualified: expires_at})

    def end(self, key: ProcessKey) -> None:
        """The process exited or is not watched any more; it is kept among the gone if it was ever of interest."""
        record = self._live.pop(key, None)
        if record is not None and record.standings:
            self._gone.append(record)

    @staticmethod
    def _changed(before: Standings, after: Standings) -> Iterable[Standing]:
        for name, standing in after.items():
            known = before.get(name)
            if known is None or (known.state, known.code) != (standing.state, standing.code):
                yield standing

    def _remember(self, container_id: str, qualified: str) -> None:
        if not container_id:
            return
        self._attested_in[container_id] = self._attested_in.get(container_id, frozenset()) | {qualified}
        self._attested_in.move_to_end(container_id)
        if len(self._attested_in) > MAX_CONTAINERS:
            self._attested_in.popitem(last=False)
