"""A report as a data-flow graph: calls, what continues what, and which answer a call is based on.

Owns: the graph and its two texts. Text out of claims is quoted: it can name a node, never make one.
Source: custody-wire §7.2 and §8.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from hopseal.log.audit.report import AuditReport, ChainAudit, HopAudit, Verdict

_COLOURS = {
    Verdict.VERIFIED: "#2e7d32",
    Verdict.OBSERVED: "#1565c0",
    Verdict.INCOMPLETE: "#b26a00",
    Verdict.REFUSED: "#c62828",
}
_AGENTS = "/agents/"


class EdgeKind(StrEnum):
    """What an edge means."""

    CALLS = "calls"
    BASED_ON = "based on"
    CONTINUES = "continues"


@dataclass(frozen=True, slots=True)
class Node:
    """One call; ``verdict`` is None if it was not judged."""

    id: str
    label: str
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Edge:
    """From an earlier call to the one that follows from it."""

    source: str
    target: str
    kind: EdgeKind


@dataclass(frozen=True, slots=True)
class Graph:
    """Calls and what leads to what."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


def build_graph(report: AuditReport, *, judged: bool) -> Graph:
    """The graph of every chain in a report; edges to calls that are not here are left out."""
    hops = [hop for chain in report.chains for hop in chain.hops()]
    names = {hop.sealed.hash: f"n{number}" for number, hop in enumerate(hops)}
    nodes = tuple(Node(names[hop.sealed.hash], _label(hop), hop.verdict if judged else None) for hop in hops)
    edges = (edge for chain in report.chains for edge in _edges(chain))
    known = (each for each in edges if each.source in names and each.target in names)
    return Graph(nodes, tuple(Edge(names[each.source], names[each.target], each.kind) for each in known))


def format_dot(graph: Graph) -> str:
    """The graph for Graphviz."""
    lines = ["digraph custody {", '  rankdir=LR; node [shape=box, fontname="sans-serif"];']
    for node in graph.nodes:
        colour = f', color="{_COLOURS[node.verdict]}"' if node.verdict else ""
        lines.append(f'  {node.id} [label="{_quote_dot(node.label)}"{colour}];')
    for edge in graph.edges:
        style = "" if edge.kind is EdgeKind.CALLS else f' [style=dashed, label="{edge.kind}"]'
        lines.append(f"  {edge.source} -> {edge.target}{style};")
    return "\n".join([*lines, "}", ""])


def format_mermaid(graph: Graph) -> str:
    """The graph for Mermaid."""
    lines = ["flowchart LR"]
    lines += [f'  {node.id}["{_quote_mermaid(node.label)}"]' for node in graph.nodes]
    for edge in graph.edges:
        arrow = "-->" if edge.kind is EdgeKind.CALLS else f"-. {edge.kind} .->"
        lines.append(f"  {edge.source} {arrow} {edge.target}")
    for verdict, colour in _COLOURS.items():
        of_kind = [node.id for node in graph.nodes if node.verdict is verdict]
        if of_kind:
            lines += [f"  classDef {verdict} stroke:{colour}", f"  class {','.join(of_kind)} {verdict}"]
    return "\n".join([*lines, ""])


def short_id(spiffe_id: str) -> str:
    """``agent/component`` of a SPIFFE ID of the usual form, else the text itself."""
    return spiffe_id.partition(_AGENTS)[2] or spiffe_id


def _edges(chain: ChainAudit) -> Iterator[Edge]:
    for hop in chain.hops():
        record, own = hop.sealed.record, hop.sealed.hash
        if record.prev is not None:
            yield Edge(record.prev, own, EdgeKind.CALLS)
        if record.cont is not None:
            yield Edge(record.cont.rec, own, EdgeKind.CONTINUES)
        for cited in hop.based_on:
            if cited.record is not None:
                yield Edge(cited.record, own, EdgeKind.BASED_ON)


def _label(hop: HopAudit) -> str:
    record = hop.sealed.record
    answers = ", ".join(str(each.outcome.st) for each in hop.answers) or "no answer"
    custody = ", no custody" if hop.is_observed else ""
    return f"{short_id(str(record.iss))} → {short_id(record.aud)}\n{record.op or '?'}: {answers}{custody}"


def _quote_dot(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return "".join(each for each in escaped if each.isprintable())


def _quote_mermaid(text: str) -> str:
    lines = (
        "".join(each if each.isalnum() or each in " ./→:-_," else f"#{ord(each)};" for each in line)
        for line in text.split("\n")
    )
    return "<br/>".join(lines)
