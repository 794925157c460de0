"""Approved against measured, item by item: why a component or a process is what it is. Pure.

Owns: the JSON shape of ``/v1/explain``. Does not own: comparing (``attestor.matching``) or measuring.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attestor.approved import Approval, ApprovedSet
from attestor.facts import Evidence, Unreadable
from attestor.items import Item, Outcome
from attestor.matching import ComponentResult, compare
from attestor.registry import Record, Registry
from attestor.standing import Standing
from attestor.states import REASONS, Finding, Layer, Reason, State
from attestor.status import summarize


def explain_component(registry: Registry, approval: Approval) -> dict[str, Any]:
    """Why the component is what it is, by the process that says most about it now.

    That is a live one that is not attested, else a live attested one, else the last one that is gone.
    """
    name = approval.qualified
    live = [record for record in registry.live() if name in record.standings]
    summary = summarize(approval, (record.standings[name] for record in live))
    record = _telling(name, live) or next((each for each in registry.gone() if name in each.standings), None)
    if record is None:
        return _answer(name, summary.state, summary.since, summary.code, pid=None)
    standing = record.standings[name]
    if live:
        return _explain(record, standing)
    # A process that is gone says why it was refused, if it was; else only that nothing runs.
    refusal = registry.last_refusal(name)
    step = next(
        (each for each in reversed(record.history) if each.qualified == name and each.code != "process_exited"), None
    )
    items = step.items if step is not None else standing.items
    answer = _answer(name, summary.state, summary.since, summary.code, pid=record.pid, items=items)
    if refusal is not None:
        answer["last_refusal"] = {"at": refusal.at, "code": refusal.code, "message": refusal.message}
    return {**answer, "history": _history(record, name)}


def explain_process(
    registry: Registry, approved: ApprovedSet, evidence: Evidence, pid: int, record: Record | None
) -> dict[str, Any]:
    """Why the process is what it is, by what was measured just now.

    A process that claims nothing is compared with the component that it is closest to.
    """
    seen_as = registry.seen_as(record.key, record.container_id) if record is not None else frozenset()
    results = [compare(evidence, approval, seen_as) for approval in approved.approvals]
    claimed = [result for result in results if result.finding is not Finding.NO_DOCUMENT]
    if record is not None and record.standings:
        standing = max(record.standings.values(), key=lambda each: (each.state is not State.ATTESTED, each.since))
        return _explain(record, standing)
    # Of equally close ones a documented component says more than the broker.
    lead = max(claimed or results, key=lambda each: (each.best.closeness, each.approval.role != ""), default=None)
    if lead is None:
        code = "no_document" if approved.has_documents else "documents_unavailable"
        return _answer(None, State.UNKNOWN, None, code, pid=pid)
    state, code = _fresh_state(lead)
    return _from_result(lead, state, code, pid)


def explain_entered(pid: int) -> dict[str, Any]:
    """The answer about a process that was put into its container from outside."""
    return _answer(None, State.UNREADABLE, None, "container_entered", pid=pid)


def explain_unreadable(pid: int, why: Unreadable) -> dict[str, Any]:
    """The answer about a process of which nothing could be measured."""
    answer = _answer(None, State.UNREADABLE, None, why.code, pid=pid)
    return {**answer, "message": why.detail, "remedy": why.remedy or answer["remedy"]}


def item_json(item: Item) -> dict[str, Any]:
    """One item as the admin socket shows it."""
    return {
        "item": item.name,
        "approved": list(item.approved),
        "measured": list(item.measured),
        "holds": item.outcome is Outcome.HOLDS,
        "code": item.code,
        "detail": item.detail,
    }


def _telling(name: str, records: Iterable[Record]) -> Record | None:
    return max(
        records,
        key=lambda record: (record.standings[name].state is not State.ATTESTED, record.standings[name].since),
        default=None,
    )


def _explain(record: Record, standing: Standing) -> dict[str, Any]:
    answer = _answer(
        standing.qualified, standing.state, standing.since, standing.code, pid=record.pid, items=standing.items
    )
    if standing.state is State.ATTESTED and record.svid_expires_at.get(standing.qualified, 0) is None:
        none = REASONS["svid_none"]
        answer |= {"code": "svid_none", "message": none.message, "layer": none.layer, "remedy": none.remedy}
    if standing.result is not None and len(standing.result.alternatives) > 1:
        answer["alternatives"] = _alternatives(standing.result)
    return {**answer, "history": _history(record, standing.qualified)}


def _from_result(result: ComponentResult, state: State, code: str, pid: int) -> dict[str, Any]:
    name = result.approval.qualified
    answer = _answer(name if state is not State.UNKNOWN else None, state, None, code, pid=pid, items=result.best.items)
    if len(result.alternatives) > 1:
        answer["alternatives"] = _alternatives(result)
    return {**answer, "closest": name}


def _fresh_state(result: ComponentResult) -> tuple[State, str]:
    if result.item is not None:
        return (State.UNREADABLE if result.finding is Finding.UNREADABLE else State.REFUSED), result.item.code
    return {
        Finding.HOLDS: (State.ATTESTED, "attested"),
        Finding.SUSPENDED: (State.SUSPENDED, "agent_suspended"),
        Finding.RETIRED: (State.RETIRED, "agent_retired"),
    }.get(result.finding, (State.UNKNOWN, "no_document"))


def _answer(
    component: str | None,
    state: State,
    since: float | None,
    code: str,
    *,
    pid: int | None,
    items: Iterable[Item] = (),
) -> dict[str, Any]:
    listed = list(items)
    reason = _reason(code, listed)
    return {
        "component": component,
        "state": state,
        "since": since,
        "code": code,
        "message": reason.message,
        "layer": reason.layer,
        "remedy": reason.remedy,
        "pid": pid,
        "items": [item_json(item) for item in listed],
    }


def _reason(code: str, items: list[Item]) -> Reason:
    if code in REASONS:
        return REASONS[code]
    item = next((each for each in items if each.code == code), None)
    unreadable = REASONS["evidence_unreadable"]
    if item is None:
        return unreadable
    message = f"{item.name} could not be read: {item.detail}" if item.detail else unreadable.message
    return Reason(Layer.EVIDENCE, message, item.remedy or unreadable.remedy)


def _alternatives(result: ComponentResult) -> list[list[dict[str, Any]]]:
    return [[item_json(item) for item in alternative.items] for alternative in result.alternatives]


def _history(record: Record, name: str) -> list[dict[str, Any]]:
    return [
        {"at": each.at, "state": each.state, "code": each.code, "items": [item_json(item) for item in each.items]}
        for each in record.history
        if each.qualified == name
    ]
