"""Calls through data planes, as they should go."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.server
import json
import socket
import threading
from pathlib import Path

import pytest

from dataplane_nodes import (
    PERMIT_ALL,
    TRUST_DOMAIN,
    Component,
    Connection,
    Node,
    Seen,
    answer,
    answer_without_end,
    call,
    components,
    instance,
    pair,
    raw,
    spiffe_id,
)
from hopseal.log.entries import Direction, RecordEntry
from hopseal.log.offline import verify_chain_offline
from svid_authority import Authority
from waiting import wait_until


def records(node: Node, direction: Direction) -> list[RecordEntry]:
    return [each for each in node.log().entries if isinstance(each, RecordEntry) and each.direction is direction]


def test_a_call_reaches_the_component_and_its_answer_comes_back(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, b, tool):
        got = call(a, body=b'{"x":1}', headers={"Content-Type": "application/json", "X-Kept": "yes"})
        assert (got.status, got.body) == (200, b'{"x":1}')
        (seen,) = tool.seen
        assert (seen.method, seen.path, seen.body) == ("POST", "/mcp", b'{"x":1}')
        assert (seen.header("Host"), seen.header("X-Kept")) == ("localhost", "yes")
        event = b.wait_for_call(direction="in", code="ok")
        assert (event["caller"], event["callee"], event["hop"]) == (spiffe_id("orchestrator"), spiffe_id("tool"), 0)
        assert event["policy"] == ["everything"]


def test_both_logs_hold_the_same_record_and_it_verifies_offline(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, b, _tool):
        call(a)
        (sent,), (received,) = records(a, Direction.SENT), records(b, Direction.RECEIVED)
        assert sent.sealed == received.sealed
        assert (sent.iss, sent.aud, sent.hop) == (spiffe_id("orchestrator"), spiffe_id("tool"), 0)
        for node in (a, b):
            assert not node.log().damage
            report = verify_chain_offline(node.log().entries, sent.cid)
            assert report.verified, report


def test_every_identity_header_of_a_component_is_removed_in_both_directions(tmp_path: Path) -> None:
    def leaky(handler: http.server.BaseHTTPRequestHandler, seen: Seen) -> None:
        answer(handler, b"", headers={"Custody-Receipt": "x", "custody_handle": "x", "X-Kept": "yes"})

    forged = {
        "Custody-Record": "x",
        "custody_chain": "x",
        "X-Forwarded-Client-Cert": "x",
        "Client-Cert": "x",
        "Proxy-Authorization": "x",
        "Connection": "x-hop",
        "X-Hop": "x",
    }
    with pair(tmp_path) as (a, _b, tool):
        tool.respond = leaky
        got = call(a, headers=forged)
        names = {name.lower().replace("_", "-") for name, _ in tool.seen[0].headers}
        assert names == {"host", "content-length", "content-digest", "custody-handle", "accept-encoding"}
        assert got.headers["x-kept"] == "yes"
        assert "custody-receipt" not in got.headers
        assert len(got.handle or "") == 22


@pytest.mark.parametrize("host", ["tool.crm", "tool", "TOOL.crm", "tool.crm:80"])
def test_a_peer_is_named_in_full_or_within_the_agent(tmp_path: Path, host: str) -> None:
    with pair(tmp_path) as (a, _b, _tool):
        assert call(a, host).status == 200


def test_absolute_form_is_taken_when_host_agrees(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, _b, tool):
        request = b"GET http://tool.crm/v1/x?y=%2F HTTP/1.1\r\nHost: tool.crm\r\nConnection: close\r\n\r\n"
        assert raw(a.out, request).startswith(b"HTTP/1.1 200")
        assert tool.seen[0].path == "/v1/x?y=%2F"


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST", "PUT"])
def test_a_request_without_body_has_no_digest(tmp_path: Path, method: str) -> None:
    with pair(tmp_path) as (a, _b, tool):
        assert call(a, method=method, body=b"").status == 200
        assert tool.seen[0].method == method
        assert tool.seen[0].header("Content-Digest") is None


def test_a_request_that_arrives_byte_by_byte_is_read(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, _b, tool):
        request = b"POST /mcp HTTP/1.1\r\nHost: tool.crm\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"
        assert raw(a.out, request, step=1).endswith(b"hello")
        assert tool.seen[0].body == b"hello"


def test_a_chunked_body_is_bound_and_delivered_whole(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, _b, tool):
        head = b"POST /mcp HTTP/1.1\r\nHost: tool.crm\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert raw(a.out, head + b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n").endswith(b"hello!")
        assert tool.seen[0].header("Transfer-Encoding") is None


def test_the_largest_body_passes_and_comes_back(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, _b, _tool):
        body = b"\x00\xff" * (4 << 20)
        got = call(a, body=body, timeout=60)
        assert (got.status, got.body == body) == (200, True)


def test_many_calls_at_once_share_one_connection_and_some_seals(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, b, tool):
        with concurrent.futures.ThreadPoolExecutor(32) as threads:
            answers = list(threads.map(lambda n: call(a, body=b"%d" % n), range(200)))
        assert [each.body for each in answers] == [b"%d" % n for n in range(200)]
        assert len(tool.seen) == 200
        assert a.metric("pool_connections") == 1
        assert b.metric("peer_connections") == 1
        assert a.metric("log_seals") < 200
        handles = {each.handle for each in answers}
        assert len(handles) == 200


def test_calls_with_the_handle_of_a_root_are_siblings(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, b, _tool):
        first = call(a)
        second = call(a, handle=first.handle)
        assert second.status == 200
        assert second.handle is None
        one, two = records(b, Direction.RECEIVED)
        assert (one.cid, one.hop, two.hop) == (two.cid, 0, 0)
        assert one.jti != two.jti
        report = verify_chain_offline(b.log().entries, one.cid)
        assert report.verified
        assert len(report.roots) == 2


def test_a_task_opened_beforehand_names_its_calls(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, b, _tool):
        opened = call(a, "hopseal.local", "/task", body=b'{"task":{"id":"t-1"},"authority":{"hops":0}}')
        assert opened.status == 201
        assert json.loads(opened.body)["task"] == "t-1"
        assert call(a, handle=opened.handle).status == 200
        (record,) = records(b, Direction.RECEIVED)
        assert record.cid == json.loads(opened.body)["cid"]


@pytest.mark.parametrize("body", [b"x", b"[]", b'{"task":{"id":"a"},"task":{"id":"b"}}', b'{"other":1}'])
def test_a_malformed_task_request_is_refused(tmp_path: Path, body: bytes) -> None:
    with pair(tmp_path) as (a, _b, _tool):
        assert call(a, "hopseal.local", "/task", body=body).code == "request_invalid"
        assert call(a, "hopseal.local", "/other", body=body).code == "not_found"


def test_a_chain_of_three_hops_over_three_nodes_verifies_from_the_last_log(tmp_path: Path) -> None:
    authority = Authority(TRUST_DOMAIN)
    listens = {name: tmp_path / f"{name}.sock" for name in ("reasoner", "tool")}
    relaying: list[Node] = []

    def relay(handler: http.server.BaseHTTPRequestHandler, seen: Seen) -> None:
        inner = call(relaying[0], "tool", body=b"from reasoner", handle=seen.header("Custody-Handle"))
        answer(handler, inner.body, inner.status)

    with contextlib.ExitStack() as stack:
        stack.enter_context(Component(listens["reasoner"], relay))
        tool = stack.enter_context(Component(listens["tool"]))
        a = Node(tmp_path / "a", authority).start()
        stack.callback(a.stop)
        b = Node(tmp_path / "b", authority, caller="reasoner", listens={"reasoner": listens["reasoner"]}).start()
        stack.callback(b.stop)
        c = Node(tmp_path / "c", authority, caller=None, listens={"tool": listens["tool"]}).start()
        stack.callback(c.stop)
        a.route(reasoner=b.port)
        b.route(tool=c.port)
        relaying.append(b)
        got = call(a, "reasoner", "/v1/chat/completions")
        assert (got.status, got.body) == (200, b"from reasoner")
        assert len(tool.seen) == 1
        (record,) = records(c, Direction.RECEIVED)
        assert (record.hop, len(record.ancestors), record.iss) == (1, 1, spiffe_id("reasoner"))
        report = verify_chain_offline(c.log().entries, record.cid)
        assert report.verified
        assert [child.record.hop for child in report.roots[0].children] == [1]


def test_a_component_of_the_same_node_is_called_through_the_own_peer_port(tmp_path: Path) -> None:
    path = tmp_path / "tool.sock"
    with Component(path) as tool:
        node = Node(tmp_path / "n", Authority(TRUST_DOMAIN), listens={"tool": path}).start()
        try:
            assert call(node).status == 200
            assert len(tool.seen) == 1
            assert len(records(node, Direction.SENT)) == len(records(node, Direction.RECEIVED)) == 1
        finally:
            node.stop()


def test_an_event_stream_flows_chunk_by_chunk(tmp_path: Path) -> None:
    go_on = threading.Event()

    def stream(handler: http.server.BaseHTTPRequestHandler, _seen: Seen) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"9\r\ndata: 1\n\n\r\n")
        handler.wfile.flush()
        assert go_on.wait(10)
        handler.wfile.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    with pair(tmp_path) as (a, b, tool):
        tool.respond = stream
        with contextlib.closing(Connection(a.out)) as connection:
            connection.request("GET", "/events", headers={"Host": "tool.crm"})
            response = connection.getresponse()
            assert response.read1() == b"data: 1\n\n"
            assert a.metric("calls_in_progress") == 1
            go_on.set()
            assert response.read() == b"data: 2\n\n"
        assert b.wait_for_call(direction="in")["complete"] is True


def test_a_caller_that_hangs_up_ends_the_work_behind(tmp_path: Path) -> None:
    ended = threading.Event()

    def endless(handler: http.server.BaseHTTPRequestHandler, seen: Seen) -> None:
        try:
            answer_without_end(handler, seen)
        except OSError:
            ended.set()
            raise

    with pair(tmp_path) as (a, b, tool):
        tool.respond = endless
        connection = Connection(a.out)
        connection.request("GET", "/endless", headers={"Host": "tool.crm"})
        assert connection.getresponse().read(3) == b"xxx"
        connection.close()
        connection.sock = None
        assert ended.wait(5)
        assert b.wait_for_call(direction="in")["complete"] is False


def test_an_idle_connection_that_the_component_closed_costs_no_call(tmp_path: Path) -> None:
    def once(handler: http.server.BaseHTTPRequestHandler, _seen: Seen) -> None:
        answer(handler, b"ok")
        handler.close_connection = True

    with pair(tmp_path) as (a, _b, tool):
        tool.respond = once
        assert [call(a).status for _ in range(20)] == [200] * 20


def test_a_route_that_does_not_answer_is_passed_over(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, b, _tool), socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{closed.getsockname()[1]}"
        a.plane.set_routes(json.dumps({"crm/tool": [dead, f"127.0.0.1:{b.port}"]}))
        assert [call(a).status for _ in range(4)] == [200] * 4


def test_policies_see_the_mcp_operation_on_both_sides(tmp_path: Path) -> None:
    only_lookup = """permit(principal, action, resource)
        when { context.protocol == "mcp" && context.operation == "tools/call crm.lookup" };"""
    lookup = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"crm.lookup"}}'
    update = lookup.replace(b"lookup", b"update")
    with pair(tmp_path) as (a, b, tool):
        a.plane.set_policies(only_lookup, "[]")
        assert call(a, body=lookup).status == 200
        assert call(a, body=update).code == "policy_denied"
        a.plane.set_policies(PERMIT_ALL, "[]")
        b.plane.set_policies(only_lookup, "[]")
        assert call(a, body=lookup).status == 200
        assert call(a, body=update).code == "custody_forbidden"
        assert len(tool.seen) == 2


def test_rotation_takes_new_connections_and_loses_no_call(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, b, _tool):
        stop = threading.Event()
        statuses: list[int] = []

        def load() -> None:
            while not stop.is_set():
                statuses.append(call(a).status)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            before = len(statuses)
            a.give("orchestrator")
            b.give("tool")
            wait_until(lambda seen=before: len(statuses) > seen + 8)
        stop.set()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200}
        leaves = {each.sealed.split(".")[2] for each in records(b, Direction.RECEIVED)}
        assert len(leaves) > 5
        wait_until(lambda: a.metric("pool_connections") == 1, what="old connections are gone")


def test_a_component_that_may_not_start_needs_a_handle(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, _b, tool):
        a.plane.set_components(components({}, may_start=()))
        assert call(a).code == "may_not_start"
        assert call(a, "hopseal.local", "/task", body=b"").code == "may_not_start"
        assert not tool.seen


def test_a_handle_is_bound_to_the_instance_that_got_it(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, _b, tool):
        handle = call(a).handle
        svid = a.authority.issue(spiffe_id("orchestrator"))
        a.plane.set_identity(
            "other-instance",
            "crm/orchestrator",
            spiffe_id("orchestrator"),
            list(svid.chain_der),
            svid.key_pkcs8,
            svid.expires_at,
        )
        inode = a.of("caller_seen")[0]["pidfd_inode"]
        a.plane.admit_caller(inode, "other-instance", "crm/orchestrator")
        assert call(a, handle=handle).code == "handle_unknown"
        a.plane.admit_caller(inode, instance("orchestrator"), "crm/orchestrator")
        assert call(a, handle=handle).status == 200
        assert call(a, handle="A" * 22).code == "handle_unknown"
        assert call(a, handle="").code == "handle_unknown"
        assert len(tool.seen) == 2
