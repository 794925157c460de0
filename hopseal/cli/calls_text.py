"""Calls that no record tells of, for people and as JSON."""

from __future__ import annotations

from typing import Any

from hopseal.log.entries import CallEntry


def call_json(call: CallEntry) -> dict[str, Any]:
    """One line of a log about such a call."""
    return {
        "n": call.n,
        "at_ms": call.at_ms,
        "custody": call.custody,
        "kind": call.kind,
        "phase": call.phase,
        "direction": str(call.direction),
        "verdict": "accepted" if call.accepted else "refused",
        "code": call.code,
        "caller": call.iss,
        "callee": call.aud,
        "operation": call.op,
        "decision": call.dec,
        "status": call.st,
        "end": call.fin,
        "why": call.why,
        "sent": call.sent,
        "received": call.received,
        "address": call.address,
    }


def describe_call(call: CallEntry) -> str:
    """Who called whom, in one line."""
    return f"{call.iss} → {call.aud}  {call.op or '?'}"


def describe_tunnel(call: CallEntry) -> str:
    """What passed through a tunnel, in one line."""
    where = f" at {call.address}" if call.address else ""
    return f"tunnel: {call.sent} bytes out, {call.received} bytes back{where}, {call.fin} ({call.why})"
