"""Reading whom a component may call, and who may call it without custody.

Owns: the entries of ``calls`` and of ``acceptFrom``. Does not own: whether those named exist, and whether they know
custody (``hopseal.documents.checks``).
"""

from __future__ import annotations

from dataclasses import dataclass

from hopseal.documents.grammar import GrammarError, parse_caller, parse_external, parse_label, parse_operation
from hopseal.documents.model import Call, Custody, ExternalCall, PeerCall, Sensitivity
from hopseal.documents.values import parsed_texts, read_choice
from hopseal.errors import HopsealError
from hopseal.ids import SpiffeId
from hopseal.settings import Section

_SPIFFE = "spiffe://"
_NOBODY = SpiffeId.parse("spiffe://invalid/nobody")


@dataclass(frozen=True, slots=True)
class ReadCalls:
    """The calls of one component, each with where it stands."""

    components: tuple[tuple[Call, Section], ...]
    peers: tuple[tuple[PeerCall, Section], ...]
    externals: tuple[tuple[ExternalCall, Section], ...]


def read_calls(sections: tuple[Section, ...], agent: str) -> ReadCalls:
    """The entries of ``calls``, by whom they call."""
    components: list[tuple[Call, Section]] = []
    peers: list[tuple[PeerCall, Section]] = []
    externals: list[tuple[ExternalCall, Section]] = []
    for section in sections:
        if "external" in section:
            externals.append((_read_external(section), section))
        elif section.text("to").startswith(_SPIFFE):
            peers.append((_read_peer(section), section))
        else:
            components.append((_read_component(section, agent), section))
    return ReadCalls(tuple(components), tuple(peers), tuple(externals))


def read_accept_from(section: Section) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Patterns of callers: those that bring custody, and those that need not."""
    full: list[str] = []
    plain: list[str] = []
    for entry in section.texts_or_sections("acceptFrom"):
        if isinstance(entry, Section):
            text = entry.parsed("id", parse_caller, "")
            custody = read_choice(entry, "custody", Custody, default=Custody.FULL)
            (full if custody is Custody.FULL else plain).append(text)
            continue
        line, text = entry
        try:
            full.append(parse_caller(text))
        except HopsealError as error:
            section.mistake("acceptFrom", error.message, error.remedy, line=line)
    for text in sorted({text for text in full + plain if text and (full + plain).count(text) > 1}):
        section.mistake("acceptFrom", f"{text!r} is listed twice", "remove one")
    return tuple(full), tuple(filter(None, plain))


def _read_component(section: Section, agent: str) -> Call:
    to_agent, to_component = section.parsed("to", lambda text: _parse_callee(text, agent), ("", ""))
    custody = read_choice(section, "custody", Custody, default=Custody.FULL)
    return Call(to_agent, to_component, _read_operations(section), custody)


def _read_peer(section: Section) -> PeerCall:
    spiffe_id = section.parsed("to", SpiffeId.parse, _NOBODY)
    if read_choice(section, "custody", Custody, default=Custody.FULL) is Custody.FULL:
        section.mistake(
            "custody",
            "a peer that no document describes is called without custody",
            "write custody: none, or call it by its name",
        )
    return PeerCall(spiffe_id, section.parsed("name", _parse_name, ""), _read_operations(section))


def _read_external(section: Section) -> ExternalCall:
    host, port = section.parsed("external", parse_external, ("", 443))
    opaque = section.flag("opaque", default=False)
    if opaque and host.startswith("*"):
        section.mistake("external", "a tunnel leads to one host", "name it in full")
    if opaque and "operations" in section:
        section.mistake("operations", "nothing is known of what passes through a tunnel", "remove it, or opaque")
    sensitivity = read_choice(section, "sensitivity", Sensitivity) if "sensitivity" in section else None
    for key in ("to", "custody"):
        if key in section:
            section.mistake(key, "is not said of an external service", "remove it")
    return ExternalCall(host, port, () if opaque else _read_operations(section), sensitivity, opaque)


def _read_operations(section: Section) -> tuple[str, ...]:
    if "operations" in section and section.is_empty("operations"):
        section.mistake("operations", "allows nothing", "list patterns, or leave it out to allow every operation")
    return parsed_texts(section, "operations", parse_operation)


def _parse_callee(text: str, agent: str) -> tuple[str, str]:
    """Agent and component in ``component`` (of the same agent) or ``component.agent``: as callers name them."""
    component, dot, other = text.partition(".")
    return (parse_label(other) if dot else agent), parse_label(component)


def _parse_name(text: str) -> str:
    """A host name: what the component writes in ``Host`` to call the peer."""
    for label in text.split("."):
        parse_label(label)
    if len(text) > 200:
        raise GrammarError("name is too long", "use at most 200 characters")
    return text
