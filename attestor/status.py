"""What operators see: the node's components, their processes, and what is wrong. Pure.

Owns: the JSON shape of ``/v1/status``. Does not own: the facts (``attestor.registry``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from attestor.approved import Approval, ApprovedSet
from attestor.registry import Record, Refusal, Registry
from attestor.standing import Standing, message_of
from attestor.states import State
from hopseal.documents.model import AgentStatus
from hopseal.selectors import Posture

MAX_UNKNOWN = 256

_STATUS_STATE = {AgentStatus.SUSPENDED: State.SUSPENDED, AgentStatus.RETIRED: State.RETIRED}


@dataclass(frozen=True, slots=True)
class Summary:
    """What a component is on this node, of all its processes."""

    state: State
    code: str
    since: float | None


def component_status(registry: Registry, approved: ApprovedSet) -> list[dict[str, Any]]:
    """One entry for each approved component, the brokers included."""
    by_component = _by_component(registry)
    return [
        _component(each, by_component[each.qualified], registry.last_refusal(each.qualified))
        for each in approved.approvals
    ]


def unknown_status(registry: Registry) -> list[dict[str, Any]]:
    """Live processes that asked for an identity and are and claim no component; the newest first, bounded."""
    unknown = [record for record in registry.live() if not record.standings and record.measured_at is not None]
    unknown.sort(key=lambda record: record.first_seen_at, reverse=True)
    return [
        {"pid": each.pid, "exe": each.exe_path, "uid": each.uid, "since": each.first_seen_at}
        for each in unknown[:MAX_UNKNOWN]
    ]


def summarize(approval: Approval, standings: Iterable[Standing]) -> Summary:
    """Attested if a process is; else suspended or retired if the agent is; else what happened last."""
    known = list(standings)
    attested = [each for each in known if each.state is State.ATTESTED]
    if attested:
        return Summary(State.ATTESTED, "attested", min(each.since for each in attested))
    newest = max(known, key=lambda each: each.since, default=None)
    if approval.status in _STATUS_STATE:
        state = _STATUS_STATE[approval.status]
        return Summary(state, f"agent_{state}", newest.since if newest is not None else None)
    if newest is None:
        return Summary(State.GONE, "not_running", None)
    return Summary(newest.state, newest.code, newest.since)


def _component(approval: Approval, records: list[Record], refusal: Refusal | None) -> dict[str, Any]:
    name = approval.qualified
    summary = summarize(approval, (record.standings[name] for record in records))
    return {
        "component": name,
        "spiffe_id": str(approval.spiffe_id),
        "role": str(approval.role),
        "state": summary.state,
        "since": summary.since,
        "code": summary.code,
        "message": message_of(summary.code),
        "svid": approval.svid,
        "instances": [_instance(name, group) for group in _by_instance(name, records)],
        "last_refusal": None
        if refusal is None
        else {"at": refusal.at, "code": refusal.code, "message": refusal.message},
    }


def _instance(name: str, records: list[Record]) -> dict[str, Any]:
    standing = max((record.standings[name] for record in records), key=lambda each: each.since)
    first = records[0]
    measured = [record.measured_at for record in records if record.measured_at is not None]
    expiries = [at for record in records if (at := record.svid_expires_at.get(name)) is not None]
    return {
        "instance": first.instance,
        "pids": sorted(record.pid for record in records),
        "state": standing.state,
        "since": standing.since,
        "code": standing.code,
        "message": standing.message,
        "engine": first.engine or None,
        "container_id": first.container_id or None,
        "measured_at": min(measured, default=None),
        "posture": _least_posture(records),
        "svid_expires_at": min(expiries, default=None),
    }


def _least_posture(records: list[Record]) -> str | None:
    """The level that holds for all of them; None if that of one is not known."""
    if not all(record.posture for record in records):
        return None
    return min((Posture(record.posture) for record in records), key=lambda level: level.rank).value


def _by_component(registry: Registry) -> Mapping[str, list[Record]]:
    found: defaultdict[str, list[Record]] = defaultdict(list)
    for record in registry.live():
        for name in record.standings:
            found[name].append(record)
    return found


def _by_instance(name: str, records: list[Record]) -> Iterable[list[Record]]:
    """One group for each instance and state: a drifted worker hides neither behind attested ones nor they behind it."""
    found: defaultdict[tuple[str, State], list[Record]] = defaultdict(list)
    for record in records:
        found[record.instance, record.standings[name].state].append(record)
    return found.values()
