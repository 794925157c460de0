"""Attacks on the data plane that a review came up with, each forced from outside."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from broker_parts import calls, compile_policies, component, documents
from children import child
from dataplane_nodes import TRUST_DOMAIN, Answer, Component, Connection, Node, Seen, answer, call, pair, spiffe_id
from dataplane_peer import Message, connected, context
from hopseal.log.entries import RecordEntry
from svid_authority import Authority
from waiting import wait_until

pytestmark = pytest.mark.process

MCP_ONLY = compile_policies(
    documents(
        component("orchestrator", calls=(calls("tool", "tools/call crm.lookup"),)),
        component("tool"),
    )
)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Node, Node, Component]]:
    with pair(tmp_path) as made:
        yield made


@pytest.fixture
def mcp_only(nodes: tuple[Node, Node, Component]) -> tuple[Node, Component]:
    """The orchestrator may call one tool of an MCP server, and nothing else."""
    a, b, tool = nodes
    for node in (a, b):
        node.plane.set_policies(MCP_ONLY, "[]")
    return a, tool


def lookup(**changes: object) -> bytes:
    return json.dumps(
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "crm.lookup"}, **changes}
    ).encode()


def test_a_grant_of_one_tool_covers_the_session_of_its_endpoint(mcp_only: tuple[Node, Component]) -> None:
    a, _tool = mcp_only
    headers = {"Content-Type": "application/json"}
    assert call(a, body=lookup(), headers=headers).status == 200
    assert call(a, method="DELETE", body=b"", headers={"Mcp-Session-Id": "1"}).status == 200


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_session_header_opens_no_other_path_than_the_mcp_endpoint(
    mcp_only: tuple[Node, Component], method: str
) -> None:
    a, tool = mcp_only
    answer = call(a, path="/admin/users", method=method, body=b"", headers={"Mcp-Session-Id": "1"})
    assert answer.code == "policy_denied"
    assert not tool.seen


@pytest.mark.parametrize(
    "body",
    [
        lookup(params={"name": "crm.lookup", "Name": "crm.delete"}),
        lookup(Method="tools/delete"),
        lookup(PARAMS={"name": "crm.delete"}),
        lookup(**{"param\u017f": {"name": "crm.delete"}}),  # noqa: PIE804 - an identifier would become params
        lookup(params={"name": "crm.lookup", "name\u0000": "crm.delete"}),
    ],
    ids=["name", "method", "params", "long s", "nul"],
)
def test_members_that_another_reader_takes_for_the_call_match_no_pattern(
    mcp_only: tuple[Node, Component], body: bytes
) -> None:
    """Go's JSON reader ignores case and folds as Unicode does; C readers end names at a zero byte."""
    a, tool = mcp_only
    assert call(a, body=body, headers={"Content-Type": "application/json"}).code == "operation_unreadable"
    assert not tool.seen
    a.wait_for_call(direction="out", code="operation_unreadable")


@pytest.mark.parametrize("path", ["/public/..;/admin", "/public/.;x=1/admin", "/..;"])
def test_dot_segments_with_parameters_are_refused(nodes: tuple[Node, Node, Component], path: str) -> None:
    """Java servers drop what follows the semicolon before they resolve dots."""
    assert call(nodes[0], path=path).code == "path_invalid"


def test_a_json_rpc_method_that_reads_as_an_http_operation_uses_no_authority_over_one(
    nodes: tuple[Node, Node, Component],
) -> None:
    a, _b, tool = nodes
    task = json.dumps({"authority": {"ops": ["POST /v1/chat*"]}}).encode()
    handle = call(a, "hopseal.local", "/task", body=task).handle
    assert call(a, path="/v1/chat/completions", handle=handle).status == 200
    forged = json.dumps({"jsonrpc": "2.0", "method": "POST", "params": {"name": "/v1/chat"}}).encode()
    answer = call(a, path="/admin", body=forged, headers={"Content-Type": "application/json"}, handle=handle)
    assert answer.code == "custody_authority"
    assert [seen.path for seen in tool.seen] == ["/v1/chat/completions"]


def test_a_call_that_was_taken_before_the_drain_is_not_lost(tmp_path: Path) -> None:
    """Its body ends, and so its connection to the peer port of the own node opens, after the drain began."""
    with pair(tmp_path) as (_a, b, _tool):
        b.give("orchestrator")
        b.caller = "orchestrator"
        connection = Connection(b.out)
        connection.putrequest("POST", "/mcp", skip_host=True)
        connection.putheader("Host", "tool.crm")
        connection.putheader("Content-Length", "4")
        connection.endheaders()
        connection.send(b"{}")
        wait_until(lambda: b.metric("calls_in_progress") == 1)
        drainer = threading.Thread(target=lambda: b.plane.drain(10))
        drainer.start()
        wait_until(lambda: not b.out.exists())
        connection.send(b"  ")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b"{}  ")
        connection.close()
        drainer.join()


def test_the_end_of_one_instance_costs_another_with_the_same_svid_no_call(tmp_path: Path) -> None:
    """SPIRE gives all instances of one entry on a node the same SVID."""
    go_on = threading.Event()

    def slow(handler: BaseHTTPRequestHandler, seen: Seen) -> None:
        assert seen.path != "/slow" or go_on.wait(10)
        answer(handler, b"done")

    with pair(tmp_path) as (a, _b, tool):
        tool.respond = slow
        svid = a.authority.issue(spiffe_id("orchestrator"))
        for name in ("one", "two"):
            a.plane.set_identity(
                name,
                "crm/orchestrator",
                str(svid.spiffe_id),
                list(svid.chain_der),
                svid.key_pkcs8,
                svid.expires_at,
            )
        present = ["one"]

        def admit(event: dict) -> bool:
            if event["event"] == "caller_seen":
                a.plane.admit_caller(event["pidfd_inode"], present[0], "crm/orchestrator")
            return True

        a.on_event = admit
        assert call(a).status == 200
        present[0] = "two"
        a.plane.forget_caller(a.of("caller_seen")[0]["pidfd_inode"])
        answers: list[Answer] = []
        caller = threading.Thread(target=lambda: answers.append(call(a, path="/slow")))
        caller.start()
        wait_until(lambda: any(seen.path == "/slow" for seen in tool.seen))
        a.plane.withdraw("one", "crm/orchestrator", "caller_gone")
        go_on.set()
        caller.join()
        assert answers[0].body == b"done"


def test_handles_of_many_instances_do_not_stop_calls(tmp_path: Path) -> None:
    with pair(tmp_path, limits={"handles": 40, "handles_per_instance": 20}) as (a, _b, _tool):
        present = [""]

        def admit(event: dict) -> bool:
            if event["event"] == "caller_seen":
                a.plane.admit_caller(event["pidfd_inode"], present[0], "crm/orchestrator")
            return True

        a.on_event = admit
        svid = a.authority.issue(spiffe_id("orchestrator"))
        for name in ("one", "two", "three"):
            chain = list(svid.chain_der)
            a.plane.set_identity(name, "crm/orchestrator", str(svid.spiffe_id), chain, svid.key_pkcs8, svid.expires_at)
            present[0] = name
            for seen in a.of("caller_seen"):
                a.plane.forget_caller(seen["pidfd_inode"])
            assert {call(a).status for _ in range(21)} == {200}


def test_a_flood_of_records_that_nobody_sealed_does_not_fill_the_log(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, b, _tool):
        svid = a.authority.issue(spiffe_id("orchestrator"))
        message = Message(svid)
        forged = message.sealed(a.authority.issue(spiffe_id("orchestrator")))
        with connected(b.port, context(svid)) as connection:
            request = message.wire(sealed=forged).replace(b"connection: close", b"connection: keep-alive")
            for _ in range(400):
                connection.sendall(request)
                assert b" 428 " in connection.recv(65536)
        refused = [entry for entry in b.log().entries if isinstance(entry, RecordEntry) and not entry.accepted]
        assert 200 <= len(refused) < 390


@pytest.mark.parametrize("status", [100, 101, 103, 199])
def test_an_informational_answer_of_a_component_harms_nobody(tmp_path: Path, status: int) -> None:
    def inform(handler: BaseHTTPRequestHandler, seen: Seen) -> None:
        if seen.path == "/inform":
            for _ in range(3):
                handler.wfile.write(f"HTTP/1.1 {status} Whatever\r\nCustody-Handle: x\r\n\r\n".encode())
        answer(handler, b"final")

    with pair(tmp_path) as (a, _b, tool):
        tool.respond = inform
        informed = call(a, path="/inform")
        assert informed.body == b"final" or informed.status >= 500
        assert informed.handle != "x"
        assert call(a).body == b"final"


ORPHANED = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1]); listener.listen()
if os.fork():
    os._exit(0)
print("serving", flush=True)
while True:
    connection, _ = listener.accept()
    data = connection.recv(65536)
    if data:
        head = "HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\nConnection: close\\r\\n\\r\\n"
        connection.sendall((head + sys.argv[2]).encode())
    connection.close()
"""


def test_what_was_found_out_about_an_orphaned_socket_is_not_taken_for_one_that_replaced_it(tmp_path: Path) -> None:
    """Both sockets' listeners have exited, so nothing but the sockets themselves tells them apart."""
    path, other = tmp_path / "tool.sock", tmp_path / "other.sock"
    with (
        child(ORPHANED, str(path), "right", start_new_session=True) as right,
        child(ORPHANED, str(other), "wrong", start_new_session=True) as wrong,
    ):
        node = Node(tmp_path / "n", Authority(TRUST_DOMAIN), listens={"tool": path}).start()
        try:
            assert call(node, method="GET", body=b"").body == b"right"
            assert node.of("listener_seen")[-1]["dead"] is True
            node.on_event = lambda event: (
                event["event"] == "listener_seen"
                and node.plane.refuse_listener("crm/tool", 0, "listener_not_component") is None
            )
            assert call(node, method="GET", body=b"").body == b"right"
            other.rename(path)
            assert call(node, method="GET", body=b"").code == "callee_unavailable"
        finally:
            node.stop()
            for each in (right, wrong):
                os.killpg(each.pid, signal.SIGKILL)
