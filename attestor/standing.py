"""What one process is, component by component, and what that says to its callers. Pure.

Owns: from a decision and what was known before to states, codes and a verdict.
Does not own: the comparison (``attestor.matching``) or the table of states (``attestor.states``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from attestor.items import Item, Outcome, name_changed_files
from attestor.matching import ComponentResult, Decision
from attestor.states import REASONS, Finding, State, next_state
from attestor.verdict import Refused


@dataclass(frozen=True, slots=True)
class Standing:
    """What a process is as regards one component.

    Args:
        qualified: ``agent/component``.
        since: epoch seconds of the last change of state or code.
        items: of the alternative that holds or is closest, as last compared.
        result: the whole comparison; None once the documents do not name the component any more.
        held_files: the files of ``config`` when it held last.
    """

    qualified: str
    state: State
    code: str
    since: float
    items: tuple[Item, ...]
    result: ComponentResult | None
    held_files: tuple[tuple[str, str], ...] = ()

    @property
    def message(self) -> str:
        """One sentence that is safe for the caller."""
        return message_of(self.code)


Standings = Mapping[str, Standing]


def message_of(code: str) -> str:
    """The sentence of a reason code; evidence codes share one."""
    return REASONS[code if code in REASONS else "evidence_unreadable"].message


def judge(decision: Decision, before: Standings, now: float) -> dict[str, Standing]:
    """The standings after ``decision``: one for each component that the process is, claims or was.

    A component that the process merely claimed once, and claims no more, is dropped.
    """
    after: dict[str, Standing] = {}
    for result in decision.results:
        name = result.approval.qualified
        after[name] = _advance(name, before.get(name), result.finding, result, now)
    for name, standing in before.items():
        if name not in after:
            left = _advance(name, standing, Finding.NO_DOCUMENT, None, now)
            if left.state is not State.UNKNOWN:
                after[name] = left
    return after


def mark(before: Standings, finding: Finding, code: str, now: float, item: Item | None = None) -> dict[str, Standing]:
    """Every standing after something that concerns the whole process, such as its exit."""
    after = {}
    for name, standing in before.items():
        state = next_state(standing.state, finding)
        changed = (state, code) != (standing.state, standing.code)
        items = standing.items if item is None else (*(i for i in standing.items if i.name != item.name), item)
        since = now if changed else standing.since
        after[name] = replace(standing, state=state, code=code, since=since, items=tuple(items))
    return after


def decide_refusal(before: Standings, after: Standings, decision: Decision) -> Refused | None:
    """The refusal that follows, or None if the process is attested.

    A component that was held and is lost refuses the process even if it is another component still:
    whoever holds a stream got keys under the old verdict and has to ask again.
    """
    lost = (
        after.get(name)
        for name, standing in before.items()
        if standing.state is State.ATTESTED and not _is_attested(after.get(name))
    )
    for standing in lost:
        if standing is not None:
            return Refused(standing.state, standing.code, standing.message)
    if any(map(_is_attested, after.values())):
        return None
    lead = decision.lead
    if lead is not None:
        standing = after[lead.approval.qualified]
        return Refused(standing.state, standing.code, standing.message)
    drifted = next((each for each in after.values() if each.state is State.DRIFTED), None)
    if drifted is not None:
        return Refused(drifted.state, drifted.code, drifted.message)
    return Refused(State.UNKNOWN, "no_document", message_of("no_document"))


def _is_attested(standing: Standing | None) -> bool:
    return standing is not None and standing.state is State.ATTESTED


def _advance(
    name: str, before: Standing | None, finding: Finding, result: ComponentResult | None, now: float
) -> Standing:
    state = next_state(State.UNKNOWN if before is None else before.state, finding)
    code = _code(state, before, result)
    unchanged = before is not None and (before.state, before.code) == (state, code)
    since = before.since if before is not None and unchanged else now
    if result is None:
        return Standing(name, state, code, since, () if before is None else before.items, None)
    held = _held_files(result.best.items, () if before is None else before.held_files)
    items = tuple(name_changed_files(each, held) if _is_changed(each, held) else each for each in result.best.items)
    return Standing(name, state, code, since, items, result, held)


def _held_files(items: tuple[Item, ...], before: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    return next((each.files for each in items if each.files and each.outcome is Outcome.HOLDS), before)


def _is_changed(item: Item, held: tuple[tuple[str, str], ...]) -> bool:
    return bool(held and item.files) and item.outcome is Outcome.DIFFERS


def _code(state: State, before: Standing | None, result: ComponentResult | None) -> str:
    if state is State.DRIFTED:
        return _drift_code(before, result)
    item = result.item if result is not None else None
    if state in {State.REFUSED, State.UNREADABLE} and item is not None:
        return item.code
    return _STATE_CODES.get(state, "evidence_unreadable")


_STATE_CODES = {
    State.ATTESTED: "attested",
    State.UNKNOWN: "no_document",
    State.SUSPENDED: "agent_suspended",
    State.RETIRED: "agent_retired",
    State.GONE: "process_exited",
}


def _drift_code(before: Standing | None, result: ComponentResult | None) -> str:
    """``<item>_changed`` if the process changed, ``documents_changed`` if what is approved did."""
    item = result.item if result is not None else None
    if item is None or before is None:
        return "documents_changed"
    known = next((each for each in before.items if each.name == item.name), None)
    if before.state is State.DRIFTED and known is not None and known.outcome is Outcome.DIFFERS:
        return before.code
    if known is not None and known.measured != item.measured:
        return f"{item.name}_changed"
    return "documents_changed"
