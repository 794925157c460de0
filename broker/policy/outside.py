"""What documents permit towards parties without custody, as Cedar text. Pure.

Rules:
1. A peer is the component with its SPIFFE ID, a service outside the external ``host:port``.
2. A tunnel is permitted only where the service is opaque, and then nothing else is.
3. ``*.name`` stands for every host below ``name``, at one port.
4. Whoever may call without custody is permitted exactly that: the same peer with a record is judged as any other.

Source: docs/egress.md.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.policy.cedar import escape, match, policy, quote, uid
from hopseal.documents.model import Component, DocumentSet, ExternalCall, Sensitivity

_ID = "Hopseal::Component::{}"


def compile_outside(component: Component, compile_operations: Callable[[tuple[str, ...]], str]) -> list[str]:
    """The permissions of ``component`` to call, and those of others to call it."""
    policies: list[str] = []
    for peer in component.peers:
        resource = f"resource == {_ID.format(quote(str(peer.spiffe_id)))}"
        condition = f"when {{ {compile_operations(peer.operations)} }}" if peer.operations else ""
        name = f"{component.qualified} calls {peer.spiffe_id}"
        policies.append(policy("permit", name, f"principal == {uid(component)}", resource, condition))
    policies += [_compile_external(component, each, compile_operations) for each in component.externals]
    return policies


def unrecorded(component: Component) -> str:
    """The condition that the caller is one of those that need no custody record."""
    listed = " || ".join(match("context.caller", pattern) for pattern in component.accept_plain) or "false"
    return f"(!context.recorded && ({listed}))"


def external_entities(documents: DocumentSet) -> list[dict[str, object]]:
    """Each service outside that a document lists, with the highest sensitivity that any of them gives it."""
    levels = tuple(Sensitivity)
    found: dict[tuple[str, int], Sensitivity | None] = {}
    for each in (external for component in documents.components for external in component.externals):
        known = found.get((each.host, each.port))
        given = [level for level in (known, each.sensitivity) if level is not None]
        found[each.host, each.port] = max(given, key=levels.index, default=None)
    return [
        {
            "uid": {"type": "Hopseal::External", "id": f"{host}:{port}"},
            "attrs": {"host": host, "port": port}
            | ({"sensitivity": str(level), "sensitivity_level": levels.index(level)} if level is not None else {}),
            "parents": [],
        }
        for (host, port), level in found.items()
    ]


def _compile_external(
    component: Component, call: ExternalCall, compile_operations: Callable[[tuple[str, ...]], str]
) -> str:
    terms = ['context.protocol == "connect"' if call.opaque else 'context.protocol != "connect"']
    if call.operations:
        terms.append(f"({compile_operations(call.operations)})")
    if call.host.startswith("*"):
        resource = "resource is Hopseal::External"
        below = "".join(map(escape, call.authority.removeprefix("*")))
        terms.insert(0, f'context.callee like "*{below}"')
    else:
        resource = f"resource == Hopseal::External::{quote(call.authority)}"
    name = f"{component.qualified} calls {call.authority}"
    condition = f"when {{ {' && '.join(terms)} }}"
    return policy("permit", name, f"principal == {uid(component)}", resource, condition)
