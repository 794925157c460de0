"""Policies that fail, lack something or are very many: every doubt is a denial, on both sides. Threats §5 "Cedar"."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker._dataplane import DataPlaneError
from custody_refusals import refused_in, statements_in
from dataplane_nodes import PERMIT_ALL, Component, Node, call, pair
from hopseal.log.entries import RecordEntry

pytestmark = pytest.mark.process

Pair = tuple[Node, Node, Component]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Pair]:
    with pair(tmp_path) as made:
        yield made


DOUBTFUL = {
    "attribute that nobody sets": "permit(principal, action, resource) when { context.absent == 1 };",
    "prohibition on an attribute that nobody sets": "forbid(principal, action, resource) when { context.absent == 1 };",
    "type confused": 'permit(principal, action, resource) when { context.hop like "0*" };',
    "overflow": "permit(principal, action, resource) when { context.hop + 9223372036854775807 + 1 > 0 };",
    "entity that nobody knows": 'permit(principal, action, resource) when { principal.owner == "me" };',
}


@pytest.mark.parametrize("name", DOUBTFUL)
@pytest.mark.parametrize("side", ["caller", "callee"])
def test_a_policy_that_cannot_be_evaluated_denies_beside_one_that_permits(nodes: Pair, name: str, side: str) -> None:
    a, b, tool = nodes
    judge = a if side == "caller" else b
    judge.plane.set_policies(PERMIT_ALL + DOUBTFUL[name], "[]")
    denied_on(side, nodes)
    judge.plane.set_policies(PERMIT_ALL, "[]")
    assert call(a).status == 200
    assert len(tool.seen) == 1


def records(node: Node) -> list[RecordEntry]:
    return [each for each in statements_in(node.log_dir) if isinstance(each, RecordEntry)]


def denied_on(side: str, nodes: Pair) -> None:
    """The call is denied there and nowhere else; nothing reaches the tool; the denial is told and logged."""
    a, b, tool = nodes
    reached = len(tool.seen)
    if side == "caller":
        before = [records(node) for node in (a, b)]
        assert call(a).code == "policy_denied"
        assert [records(node) for node in (a, b)] == before
        a.wait_for_call(direction="out", code="policy_denied")
    else:
        with refused_in(b.log_dir, "custody_forbidden"):
            assert call(a).code == "custody_forbidden"
        b.wait_for_call(direction="in", code="custody_forbidden")
    assert len(tool.seen) == reached


@pytest.mark.parametrize("count", [1, 100, 10_000])
def test_among_any_number_of_policies_one_decides(nodes: Pair, count: int) -> None:
    a, b, tool = nodes
    others = "".join(
        f'@id("p{n}") permit(principal == Hopseal::Component::"spiffe://example.org/other/{n}", action, resource);'
        for n in range(count - 1)
    )
    for node in (a, b):
        node.plane.set_policies(others + PERMIT_ALL, "[]")
    assert call(a).status == 200
    assert len(tool.seen) == 1
    b.plane.set_policies(others + '@id("no") forbid(principal, action, resource);' + PERMIT_ALL, "[]")
    denied_on("callee", nodes)
    b.plane.set_policies(others, "[]")
    denied_on("callee", nodes)
    a.plane.set_policies(others, "[]")
    denied_on("caller", nodes)


@pytest.mark.parametrize("text", ["permit(", "", PERMIT_ALL + "allow all;"], ids=["cut", "empty", "unknown"])
def test_a_bad_reload_opens_nothing(nodes: Pair, text: str) -> None:
    """What does not parse changes nothing; what parses and permits nothing denies."""
    _a, b, _tool = nodes
    b.plane.set_policies('@id("no") forbid(principal, action, resource);', "[]")
    if text:
        with pytest.raises(DataPlaneError):
            b.plane.set_policies(text, "[]")
    else:
        b.plane.set_policies(text, "[]")
    denied_on("callee", nodes)


@pytest.mark.parametrize("side", ["caller", "callee"])
def test_a_body_over_the_limit_is_denied_before_any_policy_sees_it(tmp_path: Path, side: str) -> None:
    with pair(tmp_path) as (a, _b, tool):
        path = tool.path.with_name("small")
        small = {"body_limit_bytes": 1000}
        judge = a
        if side == "caller":
            judge = Node(path / "a", a.authority, settings=small).start()
            judge.route(tool=_b.port)
        else:
            _b.stop()
            judge = Node(path / "b", a.authority, None, {"tool": tool.path}, small).start()
            a.route(tool=judge.port)
        try:
            caller = judge if side == "caller" else a
            got = call(caller, body=b"x" * 1001)
            assert got.code == "body_too_large"
            assert not tool.seen
            judge.wait_for_call(code="body_too_large")
        finally:
            judge.stop()
