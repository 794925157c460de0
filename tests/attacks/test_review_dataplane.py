"""Attacks on the data plane that a review came up with, each forced from outside."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.policy.compile import compile_policies
from broker_parts import calls, component, documents
from children import child
from dataplane_nodes import TRUST_DOMAIN, Component, Connection, Node, call, pair
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
        lookup(paramſ={"name": "crm.delete"}),
        lookup(params={"name": "crm.lookup", "name\u0000": "crm.delete"}),
    ],
    ids=["name", "method", "params", "long s", "nul"],
)
def test_members_that_another_reader_takes_for_the_call_match_no_pattern(
    mcp_only: tuple[Node, Component], body: bytes
) -> None:
    """Go's JSON reader ignores case and folds as Unicode does; C readers end names at a zero byte."""
    a, tool = mcp_only
    assert call(a, body=body, headers={"Content-Type": "application/json"}).code == "policy_denied"
    assert not tool.seen


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
