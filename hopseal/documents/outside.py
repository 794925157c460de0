"""What documents get wrong about parties without custody.

Owns: that only a party which is not Hopseal is called or accepted without, and that names outside are no names inside.
Security: a component whose key a broker holds always brings custody; a document that says otherwise would let its
record be left away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hopseal.documents.model import Custody

if TYPE_CHECKING:
    from hopseal.documents.read import ReadComponent
    from hopseal.settings import Section

BROKER_HOST = "hopseal.local"  # where the broker itself answers on its socket


def check_outside(components: Sequence[ReadComponent]) -> None:
    """Record what is wrong in ``components`` about parties without custody."""
    known = {each.component.qualified: each.component for each in components}
    ids = {str(each.component.spiffe_id): each.component for each in components}
    hosts = {each.component.host for each in components}
    for each in components:
        for call, section in each.calls.components:
            callee = known.get(call.qualified)
            if call.custody is Custody.NONE and callee is not None and callee.is_brokered:
                _report_brokered(section, "custody", callee.qualified)
            if "name" in section:
                section.mistake("name", "a documented component has its own", "remove it")
        for text in each.component.accept_plain:
            if text in ids and ids[text].is_brokered:
                _report_brokered(each.section, "acceptFrom", ids[text].qualified)
        siblings = {name for name, other in known.items() if other.agent == each.component.agent}
        taken = hosts | {name.partition("/")[2] for name in siblings} | {BROKER_HOST}
        _check_peers(each, set(ids), taken)
        _check_externals(each, taken)


def _report_brokered(section: Section, key: str, qualified: str) -> None:
    section.mistake(
        key, f"{qualified} speaks custody: a broker holds its key", "leave custody out, or give it svid: workload-api"
    )


def _check_peers(each: ReadComponent, documented: set[str], taken: set[str]) -> None:
    seen: set[str] = set()
    for call, section in each.calls.peers:
        spiffe_id = str(call.spiffe_id)
        if spiffe_id in documented:
            section.mistake("to", f"{spiffe_id} is documented", "call it by its name")
        if call.name in taken:
            section.mistake("name", f"{call.name!r} is the name of a component here", "choose another one")
        for value, key in ((spiffe_id, "to"), (call.name, "name")):
            if value and value in seen:
                section.mistake(key, f"{value} is listed twice", "list its operations in one entry")
            seen.add(value)


def _check_externals(each: ReadComponent, taken: set[str]) -> None:
    seen: set[str] = set()
    peers = {call.name for call, _ in each.calls.peers}
    for call, section in each.calls.externals:
        if call.host in taken | peers:
            section.mistake("external", f"{call.host!r} is the name of a component here", "remove it")
        if call.host and call.authority in seen:
            section.mistake("external", f"{call.authority} is listed twice", "list its operations in one entry")
        seen.add(call.authority)
