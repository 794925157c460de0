"""SPIFFE peers that are not Hopseal, called and calling, through the real data plane."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane_nodes import Component, Connection, Node, answer_without_end, call, exchange, spiffe_id, statements
from dataplane_peer import Message, connected, context, http_request, send
from dataplane_server import Peer
from hopseal.custody.observation import Observation
from hopseal.custody.statement import parse_sealed_statement
from hopseal.log.entries import CallEntry, Direction, RecordEntry, StatementKind
from outside_servers import PlainPeer, describe
from svid_authority import Authority
from waiting import wait_until

LEDGER = "spiffe://example.org/ledger"
EDGE = "spiffe://example.org/edge/gateway"


@contextlib.contextmanager
def calling(folder: Path, authority: Authority, outside: dict[str, dict]) -> Iterator[Node]:
    node = Node(folder / "a", authority).start()
    try:
        describe(node, outside)
        yield node
    finally:
        node.stop()


def ledger() -> dict[str, dict]:
    return {"orchestrator": {"peers": [{"name": "ledger", "spiffe_id": LEDGER}]}}


@contextlib.contextmanager
def serving(folder: Path, authority: Authority, *, may_start: tuple[str, ...] = ()) -> Iterator[tuple[Node, Component]]:
    """A node with the tool, which accepts the edge's components without custody."""
    folder.mkdir(exist_ok=True)
    path = folder / "tool.sock"
    with Component(path) as tool:
        node = Node(folder / "b", authority, caller="tool", listens={"tool": path}).start()
        try:
            describe(node, {"tool": {"accepts": ["spiffe://example.org/edge/*"]}}, may_start=may_start)
            yield node, tool
        finally:
            node.stop()


def calls(node: Node) -> list[CallEntry]:
    return [each for each in node.log().entries if isinstance(each, CallEntry)]


@pytest.mark.parametrize("alpn", ["h2", "http/1.1", None])
def test_an_undocumented_peer_is_called_with_our_svid_and_without_custody(tmp_path: Path, alpn: str | None) -> None:
    authority = Authority()
    with PlainPeer(authority, alpn=alpn) as peer, calling(tmp_path, authority, ledger()) as node:
        node.plane.set_routes(json.dumps({LEDGER: [f"127.0.0.1:{peer.port}"]}))
        got = call(node, "ledger", "/entries")
        assert (got.status, got.body) == (200, b"from outside")
        assert peer.clients == [spiffe_id("orchestrator")]
        (request,) = peer.requests
        assert not [name for name, _ in request.headers if name.startswith("custody")]
        (record,) = (each for each in node.log().entries if isinstance(each, RecordEntry))
        assert (record.aud, record.direction) == (LEDGER, Direction.SENT)
        (entry,) = statements(node, Direction.SENT, StatementKind.OBSERVATION)
        seen = parse_sealed_statement(entry.sealed or "").claims
        assert isinstance(seen, Observation)
        assert (seen.host, seen.outcome.st) == (f"127.0.0.1:{peer.port}", 200)
        event = node.wait_for_call(direction="out", code="ok")
        assert (event["custody"], event["kind"], event["callee"]) == ("none", "peer", LEDGER)


def test_a_documented_component_whose_server_is_not_hopseal_is_called_by_its_name(tmp_path: Path) -> None:
    authority = Authority()
    outside = {"orchestrator": {"plain": ["crm/reasoner"]}, "reasoner": {"brokered": False}}
    with (
        PlainPeer(authority, own_id=spiffe_id("reasoner")) as peer,
        calling(tmp_path, authority, outside) as node,
    ):
        node.route(reasoner=peer.port)
        assert call(node, "reasoner.crm").status == 200
        assert len(peer.requests) == 1


def test_a_component_that_speaks_custody_is_never_reached_without(tmp_path: Path) -> None:
    authority = Authority()
    outside = {"orchestrator": {"plain": ["crm/reasoner"]}, "reasoner": {"brokered": True}}
    with (
        PlainPeer(authority, own_id=spiffe_id("reasoner")) as peer,
        calling(tmp_path, authority, outside) as node,
    ):
        node.route(reasoner=peer.port)
        got = call(node, "reasoner.crm")
        assert (got.status, got.code) == (502, "receipt_missing")
        assert statements(node, Direction.SENT, StatementKind.OBSERVATION) == []


def test_nor_is_it_under_another_name(tmp_path: Path) -> None:
    """The data plane, too, sees that the peer of a document is a component that speaks custody."""
    authority = Authority()
    outside = {"orchestrator": {"peers": [{"name": "ledger", "spiffe_id": spiffe_id("reasoner")}]}}
    with (
        PlainPeer(authority, own_id=spiffe_id("reasoner")) as peer,
        calling(tmp_path, authority, outside) as node,
    ):
        node.plane.set_routes(json.dumps({spiffe_id("reasoner"): [f"127.0.0.1:{peer.port}"]}))
        got = call(node, "ledger")
        assert (got.status, got.code) == (403, "egress_denied")
        assert (peer.requests, statements(node, Direction.SENT, StatementKind.OBSERVATION)) == ([], [])


def test_a_peer_with_another_id_or_trust_domain_is_refused(tmp_path: Path) -> None:
    authority, other = Authority(), Authority("other.example")
    for number, peer in enumerate(
        (
            PlainPeer(authority, own_id="spiffe://example.org/ledger2"),
            PlainPeer(authority, own_id="spiffe://example.org/ledger/sub"),
            PlainPeer(other, own_id=LEDGER),
        )
    ):
        with peer, calling(tmp_path / str(number), authority, ledger()) as node:
            node.plane.set_routes(json.dumps({LEDGER: [f"127.0.0.1:{peer.port}"]}))
            got = call(node, "ledger")
            assert (got.status, got.code) == (502, "peer_untrusted")
            assert peer.requests == []


def test_a_peer_without_a_route_is_unavailable(tmp_path: Path) -> None:
    with calling(tmp_path, Authority(), ledger()) as node:
        assert call(node, "ledger").code == "callee_unavailable"


def test_only_its_own_caller_knows_a_peer_by_its_name(tmp_path: Path) -> None:
    authority = Authority()
    with PlainPeer(authority) as peer, calling(tmp_path, authority, {"reasoner": ledger()["orchestrator"]}) as node:
        node.plane.set_routes(json.dumps({LEDGER: [f"127.0.0.1:{peer.port}"]}))
        assert call(node, "ledger").code == "unknown_peer"


def test_an_accepted_peer_calls_without_custody_and_is_logged_before_the_component_gets_it(tmp_path: Path) -> None:
    authority = Authority()
    with serving(tmp_path, authority) as (node, tool):
        got = send(node.port, authority.issue(EDGE), http_request("POST", "/mcp", [("host", "x")], b"{}"))
        assert got is not None
        assert (got.status, got.body) == (200, b"{}")
        assert not [name for name in got.headers if name.startswith("custody")]
        (seen,) = tool.seen
        assert seen.header("custody-handle") is None
        wait_until(lambda: len(calls(node)) == 2, what="the end of the call in the log")
        begin, end = calls(node)
        assert (begin.iss, begin.aud, begin.op, begin.phase) == (EDGE, spiffe_id("tool"), "POST /mcp", "begin")
        assert (begin.direction, begin.custody, begin.kind, begin.accepted) == (
            Direction.RECEIVED,
            "none",
            "caller",
            True,
        )
        assert (end.id, end.phase, end.st, end.fin, end.received) == (begin.id, "end", 200, "eof", 2)
        event = node.wait_for_call(direction="in", code="ok")
        assert (event["custody"], event["kind"], event["caller"], event["hop"]) == ("none", "caller", EDGE, 0)
        assert node.metric("calls_without_custody", kind="caller", code="ok") == 1


def test_what_the_component_then_calls_is_a_root_of_its_own_if_it_may_start(tmp_path: Path) -> None:
    authority = Authority()
    with serving(tmp_path, authority, may_start=("tool",)) as (node, tool), PlainPeer(authority) as peer:
        describe(
            node,
            {
                "tool": {
                    "accepts": ["spiffe://example.org/edge/*"],
                    "peers": [{"name": "ledger", "spiffe_id": LEDGER}],
                }
            },
            may_start=("tool",),
        )
        node.plane.set_routes(json.dumps({LEDGER: [f"127.0.0.1:{peer.port}"]}))
        assert send(node.port, authority.issue(EDGE), http_request("GET", "/", [("host", "x")])) is not None
        handle = tool.seen[0].header("custody-handle")
        assert handle is not None
        assert call(node, "ledger", handle=handle).status == 200
        (record,) = (each for each in node.log().entries if isinstance(each, RecordEntry))
        assert (record.iss, record.hop, record.cid) == (spiffe_id("tool"), 0, calls(node)[0].cid)


def test_a_component_that_may_not_start_has_no_authority_to_call_on(tmp_path: Path) -> None:
    authority = Authority()
    with serving(tmp_path, authority) as (node, _tool):
        assert send(node.port, authority.issue(EDGE), http_request("GET", "/", [("host", "x")])) is not None
        describe(node, {"tool": {"peers": [{"name": "ledger", "spiffe_id": LEDGER}]}}, may_start=())
        assert (call(node, "ledger").status, call(node, "ledger").code) == (403, "may_not_start")


@pytest.mark.parametrize(
    "caller",
    ["spiffe://example.org/edge", "spiffe://example.org/edgeful/x", spiffe_id("orchestrator"), spiffe_id("reasoner")],
)
def test_anybody_else_without_custody_is_refused_as_ever(tmp_path: Path, caller: str) -> None:
    authority = Authority()
    with serving(tmp_path, authority) as (node, tool):
        got = send(node.port, authority.issue(caller), http_request("GET", "/", [("host", "x")]))
        assert got is not None
        assert (got.status, got.code, tool.seen, calls(node)) == (428, "custody_missing", [], [])


def test_a_brokered_component_cannot_leave_its_record_away_under_a_prefix(tmp_path: Path) -> None:
    authority = Authority()
    with serving(tmp_path, authority) as (node, tool):
        outside = {"tool": {"accepts": ["spiffe://example.org/*"]}, "reasoner": {"brokered": False}}
        describe(node, outside)
        bare = http_request("GET", "/", [("host", "x")])
        refused = send(node.port, authority.issue(spiffe_id("orchestrator")), bare)
        assert refused is not None
        assert (refused.status, refused.code) == (428, "custody_missing")
        accepted = send(node.port, authority.issue(spiffe_id("reasoner")), bare)
        assert accepted is not None
        assert (accepted.status, len(tool.seen)) == (200, 1)


@pytest.mark.parametrize(
    "forged",
    [
        ("custody-record", "a.b.c.d.e"),
        ("custody-chain", "x"),
        ("custody_record", "x"),
        ("custody-handle", "x"),
        ("custody-receipt", "x"),
    ],
)
def test_an_accepted_peer_that_sends_custody_fields_is_judged_by_them(tmp_path: Path, forged: tuple[str, str]) -> None:
    authority = Authority()
    with serving(tmp_path, authority) as (node, tool):
        got = send(node.port, authority.issue(EDGE), http_request("GET", "/", [("host", "x"), forged]))
        assert got is not None
        assert got.status in {400, 428}
        assert (tool.seen, calls(node)) == ([], [])


def test_an_accepted_peer_with_a_stolen_record_is_refused(tmp_path: Path) -> None:
    authority = Authority()
    with serving(tmp_path, authority) as (node, tool):
        owner = authority.issue(spiffe_id("orchestrator"))
        stolen = Message(owner).wire(extra=[("custody-certs", Peer.element(owner))])
        got = send(node.port, authority.issue(EDGE), stolen)
        assert got is not None
        assert (got.status, got.code, tool.seen) == (400, "custody_identity", [])


def test_policy_sees_that_nothing_is_recorded_and_its_refusal_is_logged(tmp_path: Path) -> None:
    authority = Authority()
    with serving(tmp_path, authority) as (node, tool):
        condition = '!context.recorded && context.hop == 0 && context.path == "/"'
        node.plane.set_policies(f"permit(principal, action, resource) when {{ {condition} }};", "[]")
        svid = authority.issue(EDGE)
        allowed = send(node.port, svid, http_request("GET", "/", [("host", "x")]))
        refused = send(node.port, svid, http_request("GET", "/no", [("host", "x")]))
        assert allowed is not None
        assert refused is not None
        assert (allowed.status, refused.status, refused.code, len(tool.seen)) == (200, 403, "policy_denied", 1)
        (entry,) = (each for each in calls(node) if not each.accepted)
        assert (entry.code, entry.iss, entry.op) == ("policy_denied", EDGE, "GET /no")


def test_a_peer_that_hangs_up_leaves_an_aborted_end(tmp_path: Path) -> None:
    authority = Authority()
    with serving(tmp_path, authority) as (node, tool):
        tool.respond = answer_without_end
        with connected(node.port, context(authority.issue(EDGE))) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(20).startswith(b"HTTP/1.1 200")
        wait_until(lambda: len(calls(node)) == 2, what="the end of the call in the log")
        assert (calls(node)[1].fin, calls(node)[1].st) == ("abort", 200)


def test_a_component_that_is_not_there_ends_the_call_in_the_log(tmp_path: Path) -> None:
    authority = Authority()
    with serving(tmp_path, authority) as (node, tool):
        tool.path.unlink()
        got = send(node.port, authority.issue(EDGE), http_request("GET", "/", [("host", "x")]))
        assert got is not None
        assert (got.status, got.code) == (503, "callee_unavailable")
        wait_until(lambda: len(calls(node)) >= 2, what="the end of the call in the log")
        assert (calls(node)[1].fin, calls(node)[1].why) == ("abort", "callee_unavailable")


def test_a_call_over_one_connection_after_another_keeps_it(tmp_path: Path) -> None:
    authority = Authority()
    with PlainPeer(authority, alpn="http/1.1") as peer, calling(tmp_path, authority, ledger()) as node:
        node.plane.set_routes(json.dumps({LEDGER: [f"127.0.0.1:{peer.port}"]}))
        connection = Connection(node.out)
        with contextlib.closing(connection):
            for _ in range(3):
                connection.request("GET", "/", headers={"Host": "ledger"})
                assert connection.getresponse().read() == b"from outside"
        assert len(peer.clients) == 1


def test_a_request_in_odd_bytes_is_refused_before_it_is_taken_for_a_plain_one(tmp_path: Path) -> None:
    authority = Authority()
    with serving(tmp_path, authority) as (node, tool):
        with connected(node.port, context(authority.issue(EDGE))) as connection:
            received = exchange(connection, b"GET /%2e%2e/admin HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert b"path_invalid" in received
        assert (tool.seen, calls(node)) == ([], [])


def test_two_names_on_one_socket_stay_apart(tmp_path: Path) -> None:
    """A host with a port is never a peer: only services outside have ports."""
    authority = Authority()
    with PlainPeer(authority) as peer, calling(tmp_path, authority, ledger()) as node:
        node.plane.set_routes(json.dumps({LEDGER: [f"127.0.0.1:{peer.port}"]}))
        assert call(node, "ledger:8443").code == "egress_denied"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(node.out))
            assert b"200 OK" in exchange(connection, b"GET / HTTP/1.1\r\nHost: ledger:443\r\nConnection: close\r\n\r\n")
