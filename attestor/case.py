"""The case of one process: its newest evidence, what follows from it, and the verdict that is published.

Owns: the step from evidence to verdict, noted in the registry and the log. Never waits.
Does not own: measuring and when (``attestor.tracking``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from attestor.approved import ApprovedSet
from attestor.facts import Evidence, ProcessFacts
from attestor.items import Item, Outcome
from attestor.latest import Latest
from attestor.matching import Decision, build_matches, decide, wanted_config
from attestor.peer import PinnedProcess
from attestor.registry import Record, Registry, key_of
from attestor.selectors import instance_of, measured_selectors
from attestor.standing import Standing, decide_refusal, judge, mark, message_of
from attestor.states import Finding, State
from attestor.verdict import Attested, Refused, Verdict
from hopseal.errors import BugError, DeniedError

_log = structlog.get_logger("hopseal.attestor")


_MAX_UNCOVERED = 3  # measurements in a row that the documents may outrun before what is missing is unreadable


class Observer(Protocol):
    """What counts: ``attestor.metrics.Metrics``."""

    def verdict_reached(self, verdict: str, code: str) -> None:
        """A new verdict was published."""

    def component_changed(self, standing: Standing) -> None:
        """A process became something else as regards one component."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What every case is decided with.

    Args:
        approved: holds a value from the start.
        clock: epoch seconds.
        is_entered: whether the process was put into its container from outside.
        keep: told each change of a process as a component, with the digest of the documents in force; never waits.
    """

    approved: Latest[ApprovedSet]
    registry: Registry
    observer: Observer
    clock: Callable[[], float]
    is_entered: Callable[[Evidence], bool]
    keep: Callable[[Record, Standing, str], None]

    def approved_now(self) -> ApprovedSet:
        """The newest approved set."""
        approved = self.approved.value
        if approved is None:
            raise BugError("approved_missing", "nothing was said about what is approved")
        return approved


class Case:
    """Evidence and verdicts of one process; ``verdicts`` ends with the first refusal."""

    def __init__(self, process: PinnedProcess, bench: Bench) -> None:
        self.key = key_of(process)
        self.verdicts: Latest[Verdict] = Latest()
        self.evidence: Evidence | None = None
        self._pid = process.pid
        self._uid = process.uid
        self._bench = bench
        self._decided_for: ApprovedSet | None = None
        self._held: Mapping[str, Standing] = {}
        self._reading_again = False
        self._asked_for: frozenset[tuple[str, ...]] = frozenset()
        self._uncovered = 0
        bench.registry.admit(process, bench.clock())

    @property
    def is_final(self) -> bool:
        """The last verdict was a refusal."""
        return isinstance(self.verdicts.value, Refused)

    @property
    def is_current(self) -> bool:
        """Decided for what is approved now."""
        return self._decided_for is self._bench.approved.value

    def ask_for_config(self) -> frozenset[tuple[str, ...]]:
        """The sets of files that a decision needs now; the measurement that follows is for these."""
        self._asked_for = wanted_config(self._bench.approved_now(), self._uid)
        return self._asked_for

    def covers_config(self) -> bool:
        """Whether the newest measurement was for every set of files that a decision needs now."""
        return self.evidence is not None and wanted_config(self._bench.approved_now(), self._uid) <= self._asked_for

    def take_evidence(self, evidence: Evidence, *, is_served: bool) -> bool:
        """Decide on new evidence; True asks for another measurement first.

        That is when files are needed that were not asked for, and once before an attested process is refused
        because something could not be read.

        Args:
            evidence: just measured.
            is_served: somebody got a verdict on the evidence before; another program is then a change.
        """
        before, self.evidence = self.evidence if is_served else None, evidence
        if isinstance(evidence.process, ProcessFacts):
            self._uid = evidence.process.uid
        change = None if before is None else _identity_change(before, evidence)
        self._bench.registry.measured(self.key, evidence, _instance_or_empty(evidence))
        if change is not None:
            self.end(Finding.DIFFERS, f"{change.name}_changed", item=change)
            return False
        if not self.covers_config() and self._uncovered < _MAX_UNCOVERED:
            # The documents or the process's user changed while it was measured.
            self._uncovered += 1
            return True
        self._uncovered = 0
        return self.decide_again()

    def decide_again(self) -> bool:
        """Decide on the newest evidence for what is approved now; see :meth:`take_evidence`."""
        evidence = self.evidence
        if evidence is None:
            raise BugError("evidence_missing", "a decision was asked for before anything was measured")
        bench, record = self._bench, self._record()
        approved = bench.approved_now()
        now = bench.clock()
        registry = bench.registry
        seen_as, attested_as = registry.seen_as(self.key, record.container_id), registry.attested_as(self.key)
        decision = decide(evidence, approved, seen_as, attested_as)
        after = judge(decision, record.standings, now)
        unusable = self._unusable(evidence)
        if unusable:
            attested = {name: each for name, each in after.items() if each.state is State.ATTESTED}
            after |= mark(attested, Finding.UNREADABLE, unusable, now)
        refusal = decide_refusal(self._held, after, decision)
        if self._deserves_second_reading(refusal):
            self._reading_again = True
            return True
        self._reading_again = False
        self._decided_for = approved
        self._note(after)
        if refusal is not None:
            self._publish(self._explained(refusal, approved))
        else:
            self._held = after
            self._publish_attested(evidence, decision)
        return False

    def end(self, finding: Finding, code: str, *, item: Item | None = None, retry: bool = False) -> None:
        """Refuse for something that concerns the whole process; nothing follows it."""
        after = mark(self._record().standings, finding, code, self._bench.clock(), item)
        self._note(after)
        states = {each.state for each in after.values()}
        fallback = {Finding.ENDED: State.GONE, Finding.UNREADABLE: State.UNREADABLE}.get(finding, State.REFUSED)
        state = State.DRIFTED if State.DRIFTED in states else fallback
        self._publish(Refused(state, code, message_of(code), retry))

    def _record(self) -> Record:
        record = self._bench.registry.get(self.key)
        if record is None:
            raise BugError("record_missing", "a process is watched and not on record")
        return record

    def _unusable(self, evidence: Evidence) -> str:
        """The code for which nothing may be attested although items hold; empty if there is none."""
        if self._bench.is_entered(evidence):
            return "container_entered"
        try:
            instance_of(evidence)
        except DeniedError as error:
            return error.code
        return ""

    def _deserves_second_reading(self, refusal: Refused | None) -> bool:
        unreadable = refusal is not None and refusal.state is State.UNREADABLE and refusal.code != "container_entered"
        return unreadable and bool(self._held) and not self._reading_again

    def _explained(self, refusal: Refused, approved: ApprovedSet) -> Refused:
        if refusal.state is State.UNKNOWN and not approved.has_documents:
            return Refused(State.UNKNOWN, "documents_unavailable", message_of("documents_unavailable"), retry=True)
        return refusal

    def _publish_attested(self, evidence: Evidence, decision: Decision) -> None:
        matches = build_matches(decision, measured_selectors(evidence))
        instance = instance_of(evidence)
        last = self.verdicts.value
        if isinstance(last, Attested):
            if (last.matches, last.instance) == (matches, instance):
                return
            self._publish(Attested(matches, instance, last.generation + 1))
        else:
            self._publish(Attested(matches, instance, 1))

    def _publish(self, verdict: Verdict) -> None:
        if self.is_final:
            return
        if isinstance(verdict, Refused):
            self._bench.observer.verdict_reached(verdict.state, verdict.code)
            if verdict.state is not State.GONE:
                _log.info("process_refused", pid=self._pid, uid=self._uid, state=verdict.state, code=verdict.code)
            self.verdicts.publish(verdict, final=True)
            return
        self._bench.observer.verdict_reached("attested", "attested")
        self.verdicts.publish(verdict)

    def _note(self, after: Mapping[str, Standing]) -> None:
        for standing in self._bench.registry.stand(self.key, after, self._bench.clock()):
            self._bench.observer.component_changed(standing)
            self._bench.keep(self._record(), standing, self._bench.approved_now().documents_sha256)
            _log.info(
                "component_state",
                component=standing.qualified,
                pid=self._pid,
                state=standing.state,
                code=standing.code,
                items=[
                    {"item": each.name, "approved": each.approved, "measured": each.measured, "detail": each.detail}
                    for each in standing.items
                    if each.outcome is not Outcome.HOLDS
                ],
            )


def _instance_or_empty(evidence: Evidence) -> str:
    try:
        return instance_of(evidence)
    except DeniedError:
        return ""


def _identity_change(before: Evidence, after: Evidence) -> Item | None:
    """What says that this is no longer the program, or no longer the place, that was measured first."""
    first, now = before.process, after.process
    if isinstance(first, ProcessFacts) and isinstance(now, ProcessFacts) and first.exe != now.exe:
        approved, measured = (str(facts.exe_sha256) for facts in (first, now))
        return Item("exe", (approved,), (measured,), Outcome.DIFFERS, "exe_changed", "executed another program")
    instances = (_instance_or_empty(before), _instance_or_empty(after))
    if all(instances) and instances[0] != instances[1]:
        return Item("instance", instances[:1], instances[1:], Outcome.DIFFERS, "instance_changed", "moved elsewhere")
    return None
