"""Attacks on the layers of policies: who may only narrow cannot widen, and nobody speaks in the broker's name."""

from __future__ import annotations

import contextlib
import http.server
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker._dataplane import DataPlaneError
from dataplane_nodes import Component, Node, Seen, answer, call, pair

EVERYTHING = '@id("everything") permit(principal, action, resource);'
NO_MCP = '@id("no mcp") forbid(principal, action, resource) when { context.path == "/mcp" };'
RAIL = '@id("elsewhere") @guardrail("reach") permit(principal, action, resource) when { context.path != "/mcp" };'
LATE = '@id("too late") @guardrail("reach") permit(principal, action, resource);'

Pair = tuple[Node, Node, Component]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Pair]:
    with pair(tmp_path) as made:
        yield made


def put(node: Node, *sets: tuple[str, str, str], observe: tuple[str, ...] = ()) -> None:
    texts = [{"name": name, "layer": layer, "observe": name in observe, "pieces": [text]} for name, layer, text in sets]
    node.plane.set_policy_sets(json.dumps(texts), "{}")


def denied(nodes: Pair, side: str) -> None:
    a, _b, tool = nodes
    reached = len(tool.seen)
    refused = call(a)
    assert (refused.status, refused.code) == (403, "policy_denied" if side == "caller" else "custody_forbidden")
    assert len(tool.seen) == reached


@pytest.mark.parametrize("constraint", [NO_MCP, RAIL], ids=["forbid", "guard rail"])
@pytest.mark.parametrize("side", ["caller", "callee"])
def test_no_permit_of_an_operator_overrides_an_administrator(nodes: Pair, side: str, constraint: str) -> None:
    node = nodes[0] if side == "caller" else nodes[1]
    others = [("documents", "documents", EVERYTHING), ("mine.cedar", "operator", EVERYTHING)]
    put(node, *others)
    assert call(nodes[0]).status == 200
    put(node, *others, ("admin/a.cedar", "admin", constraint))
    denied(nodes, side)
    # A set of the operators that bears the name of the administrators' changes nothing about its layer.
    put(node, *others, ("admin/a.cedar", "admin", constraint), ("admin/a.cedar", "operator", EVERYTHING))
    denied(nodes, side)


@pytest.mark.parametrize("side", ["caller", "callee"])
def test_a_guard_rail_permits_nothing_by_itself(nodes: Pair, side: str) -> None:
    put(nodes[0] if side == "caller" else nodes[1], ("admin/a.cedar", "admin", LATE))
    denied(nodes, side)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        ("operator", LATE),
        ("operator", LATE.replace("permit", "forbid")),
        ("documents", LATE),
        ("admin", EVERYTHING),
        ("root", NO_MCP),
    ],
)
def test_a_set_that_claims_more_than_its_layer_may_is_refused_whole(nodes: Pair, layer: str, text: str) -> None:
    _a, b, _tool = nodes
    put(b, ("mine.cedar", "operator", EVERYTHING), ("admin/a.cedar", "admin", RAIL))
    with pytest.raises(DataPlaneError, match="policy_invalid"):
        put(b, ("mine.cedar", "operator", EVERYTHING), ("new.cedar", layer, text))
    denied(nodes, "callee")


@pytest.mark.parametrize("side", ["caller", "callee"])
def test_a_set_that_only_observes_opens_nothing(nodes: Pair, side: str) -> None:
    node = nodes[0] if side == "caller" else nodes[1]
    put(node, ("mine.cedar", "operator", EVERYTHING), observe=("mine.cedar",))
    denied(nodes, side)
    put(
        node,
        ("mine.cedar", "operator", EVERYTHING),
        ("admin/a.cedar", "admin", RAIL),
        ("admin/b.cedar", "admin", LATE),
        observe=("admin/b.cedar",),
    )
    denied(nodes, side)


@pytest.mark.parametrize("observed", ["documents", "mine.cedar"])
def test_what_suspends_an_agent_is_enforced_whatever_is_observed(nodes: Pair, observed: str) -> None:
    suspended = '@id("crm is suspended") forbid(principal, action, resource);'
    put(
        nodes[1],
        ("documents", "documents", ""),
        ("mine.cedar", "operator", EVERYTHING),
        ("status", "documents", suspended),
        observe=(observed,),
    )
    denied(nodes, "callee")


def test_no_component_speaks_of_decisions(tmp_path: Path) -> None:
    def respond(handler: http.server.BaseHTTPRequestHandler, _seen: Seen) -> None:
        answer(handler, b"{}", 403, {"Hopseal-Decision": "forged.1", "Content-Type": "application/problem+json"})

    with pair(tmp_path) as (a, _b, tool):
        tool.respond = respond
        got = call(a, headers={"Hopseal-Decision": "forged.1"})
        assert (got.status, got.headers.get("hopseal-decision")) == (403, None)


@pytest.mark.parametrize("path", ["//mcp", "/x/../mcp", "/%6Dcp", "/%6dcp", "/mcp/.", "/mcp%2F"])
def test_no_spelling_of_a_path_escapes_a_rule(nodes: Pair, path: str) -> None:
    a, _b, tool = nodes
    put(a, ("mine.cedar", "operator", EVERYTHING), ("admin/a.cedar", "admin", NO_MCP))
    got = call(a, path=path)
    assert (got.status, got.code) == (400, "path_invalid")
    assert not tool.seen


def test_a_policy_cannot_be_made_to_name_another_set(nodes: Pair) -> None:
    """An @id that looks like another's stays in its own set, and a denial names the set."""
    a, b, _tool = nodes
    put(
        b, ("mine.cedar", "operator", EVERYTHING), ("evil.cedar", "operator", NO_MCP.replace("no mcp", 'x\\" of admin'))
    )
    denied(nodes, "callee")
    told = b.wait_for_call(direction="in", code="custody_forbidden")
    assert told["detail"].endswith("of evil.cedar")
    with contextlib.suppress(KeyError):
        assert json.loads(call(a).body)["decision"]
