"""What ``out.sock`` refuses, each with its code, and what garbage does to it."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from children import child
from dataplane_nodes import (
    NAMES,
    TRUST_DOMAIN,
    Component,
    Connection,
    Node,
    Seen,
    answer,
    answer_without_end,
    call,
    components,
    descriptors,
    exchange,
    instance,
    pair,
    raw,
    spiffe_id,
)
from dataplane_peer import connected, context
from svid_authority import Authority
from waiting import wait_until

CONNECT = """
import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print("connected")
"""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Node, Node, Component]]:
    with pair(tmp_path) as found:
        yield found


def status_of(received: bytes) -> int | None:
    """None if the connection was closed without an answer."""
    return int(received.split(b" ", 2)[1]) if received else None


@pytest.mark.parametrize(
    ("host", "code", "status"),
    [
        ("nobody.crm", "unknown_peer", 404),
        ("tool.other", "egress_denied", 403),
        ("tool.crm.extra", "egress_denied", 403),
        ("tool.crm:8080", "egress_denied", 403),
        ("user@tool.crm", "host_invalid", 400),
        ("tool_crm", "host_invalid", 400),
        ("", "host_invalid", 400),
    ],
)
def test_a_host_that_names_no_component_is_refused(
    nodes: tuple[Node, Node, Component], host: str, code: str, status: int
) -> None:
    got = call(nodes[0], host)
    assert (got.code, got.status) == (code, status)


@pytest.mark.parametrize(
    "path", ["//mcp", "/a/../mcp", "/./mcp", "/%2e%2e/x", "/a%2Fb", "/a%5cb", "/a\\b", "/%zz", "/a%00", "/a%25"]
)
def test_a_path_with_two_readings_is_refused(nodes: tuple[Node, Node, Component], path: str) -> None:
    got = call(nodes[0], path=path)
    assert (got.code, got.status) == ("path_invalid", 400)
    assert not nodes[2].seen


HEAD = b"POST /mcp HTTP/1.1\r\nHost: tool.crm\r\n"
MALFORMED = {
    "two hosts": (b"GET / HTTP/1.1\r\nHost: tool.crm\r\nHost: tool.crm\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "absolute form that disagrees": (b"GET http://tool.crm/ HTTP/1.1\r\nHost: reasoner.crm\r\n\r\n", 400),
    "absolute form with another scheme": (b"GET ftp://tool.crm/ HTTP/1.1\r\nHost: tool.crm\r\n\r\n", 400),
    "connect": (b"CONNECT tool.crm:443 HTTP/1.1\r\nHost: tool.crm\r\n\r\n", 403),
    "connect under another host": (b"CONNECT tool.crm:443 HTTP/1.1\r\nHost: reasoner.crm:443\r\n\r\n", 400),
    "upgrade": (HEAD + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", 501),
    "two different lengths": (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    "signed length": (HEAD + b"Content-Length: +1\r\n\r\na", 400),
    "unknown transfer coding": (HEAD + b"Transfer-Encoding: gzip\r\n\r\na", 400),
    "bad chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "folded header": (HEAD + b"X: a\r\n b\r\n\r\n", 400),
    "space before colon": (HEAD + b"X : a\r\n\r\n", 400),
    "nul in a value": (HEAD + b"X: a\x00b\r\n\r\n", 400),
    "header list too long": (HEAD + b"X: " + b"a" * 40000 + b"\r\n\r\n", 431),
    "ten thousand headers": (HEAD + b"X: a\r\n" * 10000 + b"\r\n", 431),
    "request line too long": (b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\nHost: tool.crm\r\n\r\n", 431),
    "other protocol": (b"GET / HTTP/9.9\r\nHost: tool.crm\r\n\r\n", 400),
    "almost a preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", 400),
    "binary": (bytes(range(256)) * 4, 400),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_is_refused_and_the_next_caller_served(
    nodes: tuple[Node, Node, Component], name: str
) -> None:
    data, status = MALFORMED[name]
    received = raw(nodes[0].out, data, timeout=2)
    assert status_of(received) == status
    assert not nodes[2].seen
    assert call(nodes[0]).status == 200


def test_a_length_beside_chunks_smuggles_nothing(nodes: tuple[Node, Node, Component]) -> None:
    inner = b"GET /smuggled HTTP/1.1\r\nHost: tool.crm\r\n\r\n"
    both = HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner
    raw(nodes[0].out, both, timeout=2)
    # Chunks decide the body and the length is dropped; what follows is a request of its own to
    # both brokers alike, because the message is framed anew between them.
    assert all(seen.body == b"" for seen in nodes[2].seen)
    assert [seen.path for seen in nodes[2].seen] in (["/mcp"], ["/mcp", "/smuggled"])
    assert call(nodes[0]).status == 200


@pytest.mark.parametrize("framing", ["announced", "chunked"])
def test_a_body_over_the_limit_is_refused(tmp_path: Path, framing: str) -> None:
    with pair(tmp_path, body_limit_bytes=1000) as (a, _b, tool):
        assert call(a, body=b"x" * 1000).status == 200
        if framing == "announced":
            assert call(a, body=b"x" * 1001).code == "body_too_large"
        else:
            chunks = HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001
            assert status_of(raw(a.out, chunks + b"\r\n0\r\n\r\n")) == 413
        assert len(tool.seen) == 1


def test_a_body_that_does_not_end_is_refused(tmp_path: Path) -> None:
    with pair(tmp_path, timeouts_ms={"body_read": 300}) as (a, _b, tool):
        received = raw(a.out, HEAD + b"Content-Length: 10\r\n\r\nabc")
        assert status_of(received) == 408
        assert b"body_timeout" in received
        assert not tool.seen


def test_bodies_together_are_bounded_and_memory_is_given_back(tmp_path: Path) -> None:
    settings = {"limits": {"buffered_bytes": 100_000}, "body_limit_bytes": 100_000}
    with pair(tmp_path, **settings) as (a, _b, _tool), contextlib.ExitStack() as stack:
        for _ in range(3):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(str(a.out))
            connection.sendall(HEAD + b"Content-Length: 40000\r\n\r\n" + b"x" * 39000)
        wait_until(lambda: a.metric("calls", code="overloaded") == 1)
        stack.close()
        wait_until(lambda: a.metric("calls_in_progress") == 0)
        assert call(a, body=b"x" * 90_000).status == 200


def test_a_caller_that_dribbles_its_headers_is_cut_off(tmp_path: Path) -> None:
    with pair(tmp_path, timeouts_ms={"header_read": 300}) as (a, _b, _tool):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(a.out))
            connection.settimeout(5)
            started = time.monotonic()
            with contextlib.suppress(BrokenPipeError):
                for byte in HEAD * 3:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.02)
            assert time.monotonic() - started < 2
        assert call(a).status == 200


def test_connections_of_one_user_are_bounded(tmp_path: Path) -> None:
    with pair(tmp_path, limits={"out_connections_per_uid": 10}) as (a, _b, _tool):
        flood = []
        for _ in range(100):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(a.out))
            flood.append(connection)
        wait_until(lambda: a.metric("connections_refused", why="too_many") == 90)
        for connection in flood:
            connection.close()
        wait_until(lambda: a.metric("out_connections") == 0)
        assert call(a).status == 200


def test_calls_in_progress_are_bounded(tmp_path: Path) -> None:
    go_on = threading.Event()

    def slow(handler: http.server.BaseHTTPRequestHandler, _seen: Seen) -> None:
        assert go_on.wait(10)
        answer(handler, b"")

    with pair(tmp_path, limits={"calls": 2}) as (a, _b, tool):
        tool.respond = slow
        threads = [threading.Thread(target=call, args=(a,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(tool.seen) == 2)
        assert call(a).code == "overloaded"
        go_on.set()
        for thread in threads:
            thread.join()
        assert call(a).status == 200


def test_one_peer_cannot_take_all_places_of_calls(tmp_path: Path) -> None:
    """It need not be allowed to call anybody: a body that dribbles in takes a place before its record is looked at."""
    with pair(tmp_path, limits={"calls": 8}) as (a, b, _tool), contextlib.ExitStack() as stack:
        svid = a.authority.issue(spiffe_id("reasoner"))
        head = b"POST /mcp HTTP/1.1\r\nhost: tool.crm\r\ncontent-length: 100\r\n\r\nx"
        for _ in range(10):
            stack.enter_context(connected(b.port, context(svid))).sendall(head)
        wait_until(lambda: b.metric("calls", code="overloaded") == 6)
        assert call(a).status == 200
        stack.close()
        wait_until(lambda: b.metric("calls_in_progress") == 0)
        for _ in range(4):
            stack.enter_context(connected(b.port, context(svid))).sendall(head)
        wait_until(lambda: b.metric("calls_in_progress") == 4)
        assert b.metric("calls", code="overloaded") == 6


def test_peers_that_act_together_cannot_take_all_places_of_calls(tmp_path: Path) -> None:
    """Each gets half of what the ones before it have left."""
    with pair(tmp_path, limits={"calls": 64}) as (a, b, _tool), contextlib.ExitStack() as stack:
        head = b"POST /mcp HTTP/1.1\r\nhost: tool.crm\r\ncontent-length: 100\r\n\r\nx"
        refused = 0
        for held, name, granted in ((32, "reasoner", 32), (48, "one", 16), (56, "two", 8), (60, "three", 4)):
            refused += 40 - granted
            svid = a.authority.issue(spiffe_id(name))
            for _ in range(40):
                stack.enter_context(connected(b.port, context(svid))).sendall(head)
            # One that is refused has a place until it is told so, which the next identity would find taken.
            wait_until(lambda told=refused: sum(each["code"] == "overloaded" for each in b.of("call")) == told)
            wait_until(lambda held=held: b.metric("calls_in_progress") == held)
        assert call(a).status == 200


def test_one_component_cannot_take_all_places_of_calls(tmp_path: Path) -> None:
    go_on = threading.Event()

    def slow(handler: http.server.BaseHTTPRequestHandler, _seen: Seen) -> None:
        assert go_on.wait(10)
        answer(handler, b"")

    with pair(tmp_path, limits={"calls": 8}) as (a, b, tool):
        tool.respond = slow
        threads = [threading.Thread(target=call, args=(a,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(tool.seen) == 4)
        assert call(a).code == "overloaded"
        a.caller = "reasoner"
        a.give("reasoner")
        for node in (a, b):
            node.plane.set_components(components(node.listens, may_start=NAMES))
        for seen in a.of("caller_seen"):
            a.plane.forget_caller(seen["pidfd_inode"])
        threads.append(threading.Thread(target=call, args=(a,)))
        threads[-1].start()
        wait_until(lambda: len(tool.seen) == 5)
        go_on.set()
        for thread in threads:
            thread.join()


def test_one_peer_cannot_take_all_memory_of_bodies(tmp_path: Path) -> None:
    settings = {"limits": {"buffered_bytes": 100_000}, "body_limit_bytes": 50_000}
    with pair(tmp_path, **settings) as (a, b, _tool), contextlib.ExitStack() as stack:
        svid = a.authority.issue(spiffe_id("reasoner"))
        head = b"POST /mcp HTTP/1.1\r\nhost: tool.crm\r\ncontent-length: 40000\r\n\r\n" + b"x" * 39_000
        for _ in range(2):
            stack.enter_context(connected(b.port, context(svid))).sendall(head)
        wait_until(lambda: b.metric("calls", code="overloaded") == 1)
        assert call(a, body=b"x" * 25_000).status == 200
        stack.close()
        wait_until(lambda: b.metric("calls_in_progress") == 0)
        stack.enter_context(connected(b.port, context(svid))).sendall(head)
        wait_until(lambda: b.metric("calls_in_progress") == 1)
        assert b.metric("calls", code="overloaded") == 1


def test_a_caller_that_is_refused_is_told_so_until_it_is_forgotten(tmp_path: Path) -> None:
    node = Node(tmp_path / "n", Authority(TRUST_DOMAIN), caller=None).start()
    try:
        first, second = call(node), call(node)
        assert (first.code, first.status, second.code) == ("identity_none", 403, "identity_none")
        (seen,) = node.of("caller_seen")
        node.caller = "orchestrator"
        node.give("orchestrator")
        node.plane.forget_caller(seen["pidfd_inode"])
        assert call(node).code == "callee_unavailable"
        assert len(node.of("caller_seen")) == 2
    finally:
        node.stop()


def test_while_the_attestor_is_away_every_caller_is_asked_about_again(tmp_path: Path) -> None:
    node = Node(tmp_path / "n", Authority(TRUST_DOMAIN))

    def away(event: dict) -> bool:
        if event["event"] == "caller_seen":
            node.plane.refuse_caller(event["pidfd_inode"], "attestor_unavailable", True)
        return True

    node.on_event = away
    node.start()
    try:
        assert [(got.code, got.status) for got in (call(node), call(node))] == [("attestor_unavailable", 503)] * 2
        assert len(node.of("caller_seen")) == 2
    finally:
        node.stop()


def test_a_silent_control_process_means_no(tmp_path: Path) -> None:
    settings = {"timeouts_ms": {"caller_verdict": 200}}
    node = Node(tmp_path / "n", Authority(TRUST_DOMAIN), settings=settings, on_event=lambda _: True).start()
    try:
        got = call(node)
        assert (got.code, got.status) == ("attestor_unavailable", 503)
    finally:
        node.stop()


def test_an_admitted_caller_without_identity_is_refused(nodes: tuple[Node, Node, Component]) -> None:
    a = nodes[0]
    call(a)
    inode = a.of("caller_seen")[0]["pidfd_inode"]
    a.plane.admit_caller(inode, "nobody", "crm/orchestrator")
    assert call(a).code == "identity_none"


def test_a_leaf_near_its_end_signs_nothing(nodes: tuple[Node, Node, Component]) -> None:
    a, _b, tool = nodes
    a.give("orchestrator", ttl_s=5)  # of 65 s, a sixth is more
    got = call(a)
    assert (got.code, got.status) == ("svid_expired", 503)
    assert not tool.seen


def test_without_policies_every_call_is_denied(nodes: tuple[Node, Node, Component]) -> None:
    a, b, tool = nodes
    b.plane.set_policies("", "[]")
    assert call(a).code == "custody_forbidden"
    a.plane.set_policies("", "[]")
    assert call(a).code == "policy_denied"
    assert not tool.seen


def test_bad_policies_leave_the_good_ones_in_force(nodes: tuple[Node, Node, Component]) -> None:
    a = nodes[0]
    with pytest.raises(Exception) as caught:
        a.plane.set_policies("permit(", "[]")
    assert caught.value.args[0] == "policy_invalid"
    assert call(a).status == 200


def test_an_endpoint_that_shows_another_identity_is_not_trusted(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, b, tool):
        svid = b.authority.issue(spiffe_id("reasoner"))
        b.plane.withdraw(instance("tool"), "crm/tool", "test")
        described = json.loads(
            json.dumps(
                [
                    {
                        "component": "crm/tool",
                        "agent": "crm",
                        "name": "tool",
                        "spiffe_id": spiffe_id("reasoner"),
                        "listen": str(tool.path),
                        "listen_host": None,
                        "may_start": False,
                    }
                ]
            )
        )
        b.plane.set_components(json.dumps(described))
        b.plane.set_identity(
            instance("tool"), "crm/tool", spiffe_id("reasoner"), list(svid.chain_der), svid.key_pkcs8, svid.expires_at
        )
        got = call(a)
        assert (got.code, got.status) == ("peer_untrusted", 502)
        assert not tool.seen


def test_an_endpoint_of_another_authority_is_not_trusted(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, _b, tool):
        a.plane.set_bundles([(TRUST_DOMAIN, [Authority(TRUST_DOMAIN).der], 2)])
        assert call(a).code == "peer_untrusted"
        assert not tool.seen


def test_a_peer_that_is_away_is_said_to_be(nodes: tuple[Node, Node, Component]) -> None:
    a, b, _tool = nodes
    b.stop()
    got = call(a)
    assert (got.code, got.status) == ("peer_unreachable", 502)


def test_a_callee_that_does_not_listen_is_unavailable(nodes: tuple[Node, Node, Component]) -> None:
    a, _b, tool = nodes
    tool.path.unlink()
    got = call(a)
    assert (got.code, got.status) == ("callee_unavailable", 503)


def test_a_listener_that_is_not_the_component_gets_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tool.sock"
    with Component(path) as tool:
        node = Node(tmp_path / "n", Authority(TRUST_DOMAIN), listens={"tool": path})

        def not_it(event: dict) -> bool:
            if event["event"] == "listener_seen":
                node.plane.refuse_listener("crm/tool", event["pidfd_inode"], "listener_not_component")
                return True
            return False

        node.on_event = not_it
        node.start()
        try:
            assert call(node).code == "callee_unavailable"
            assert call(node).code == "callee_unavailable"
            assert len(node.of("listener_seen")) == 1
            assert not tool.seen
            node.on_event = None
            node.plane.forget_listener("crm/tool", node.of("listener_seen")[0]["pidfd_inode"])
            assert call(node).status == 200
        finally:
            node.stop()


def test_a_caller_that_exits_loses_its_connection_even_if_a_child_keeps_the_socket(
    nodes: tuple[Node, Node, Component],
) -> None:
    a = nodes[0]
    code = (
        CONNECT
        + """
import os
if os.fork() == 0:
    os.read(0, 1)  # the parent is gone by now
    try:
        s.sendall(b"GET / HTTP/1.1\\r\\nHost: tool.crm\\r\\n\\r\\n")
        got = s.recv(100)
    except OSError:
        got = b""
    print("child got", len(got)); os._exit(0)
"""
    )
    with child(code, str(a.out)) as process:
        process.process.wait(10)
        wait_until(lambda: a.metric("out_connections") == 0)
        process.tell("x")
        assert process.read_line() == "child got 0"
    assert not nodes[2].seen
    wait_until(lambda: json.loads(a.plane.stats()) and a.metric("callers") == 0)


def test_a_caller_that_connects_and_exits_leaves_nothing_behind(nodes: tuple[Node, Node, Component]) -> None:
    a = nodes[0]
    assert call(a).status == 200
    before = descriptors()
    for _ in range(30):
        with child(CONNECT, str(a.out)) as process:
            process.process.wait(10)
    wait_until(lambda: a.metric("callers") == 1)  # this process
    wait_until(lambda: descriptors() <= before + 2)


def test_withdrawal_closes_both_directions_within_a_second(tmp_path: Path) -> None:
    for side in ("caller", "callee"):
        with pair(tmp_path / side) as (a, b, tool):
            tool.respond = answer_without_end
            connection = Connection(a.out)
            connection.request("GET", "/endless", headers={"Host": "tool.crm"})
            response = connection.getresponse()
            assert response.read(3) == b"xxx"
            started = time.monotonic()
            if side == "caller":
                a.withdraw("orchestrator")
            else:
                b.withdraw("tool")
            with contextlib.suppress(OSError, http.client.HTTPException):
                while response.read(64):
                    assert time.monotonic() - started < 1
            assert time.monotonic() - started < 1
            connection.close()
            wait_until(lambda a=a: a.metric("pool_connections") == 0)
            wait_until(lambda b=b: b.metric("peer_connections") == 0)
            assert call(a).code in {"identity_none", "peer_unreachable"}


def test_a_peer_that_is_no_longer_trusted_is_cut_off_while_it_answers(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, _b, tool):
        tool.respond = answer_without_end
        connection = Connection(a.out)
        connection.request("GET", "/endless", headers={"Host": "tool.crm"})
        response = connection.getresponse()
        assert response.read(3) == b"xxx"
        a.plane.set_bundles([(TRUST_DOMAIN, [Authority(TRUST_DOMAIN).der], 2)])
        started = time.monotonic()
        with contextlib.suppress(OSError, http.client.HTTPException):
            while response.read(64):
                assert time.monotonic() - started < 1
        assert time.monotonic() - started < 1
        connection.close()
        wait_until(lambda: a.metric("pool_connections") == 0)


def test_a_withdrawn_instance_loses_its_handles(nodes: tuple[Node, Node, Component]) -> None:
    a = nodes[0]
    handle = call(a).handle
    a.withdraw("orchestrator")
    a.give("orchestrator")
    assert call(a, handle=handle).code == "handle_unknown"
    assert call(a).status == 200


def test_calls_made_with_an_inbound_handle_stay_within_what_the_root_allows(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, _b, tool):
        body = b'{"authority":{"ops":["GET /allowed"],"aud":["%s"]}}' % spiffe_id("tool").encode()
        handle = call(a, "hopseal.local", "/task", body=body).handle
        assert call(a, path="/allowed", method="GET", body=b"", handle=handle).status == 200
        assert call(a, path="/other", method="GET", body=b"", handle=handle).code == "custody_authority"
        assert len(tool.seen) == 1


def test_a_request_with_two_handles_continues_neither(nodes: tuple[Node, Node, Component]) -> None:
    a, _b, tool = nodes
    handle = call(a).handle
    lines = f"GET / HTTP/1.1\r\nHost: tool.crm\r\nCustody-Handle: {handle}\r\nCustody-Handle: {handle}\r\n\r\n"
    assert status_of(raw(a.out, lines.encode(), timeout=1)) == 409
    assert len(tool.seen) == 1


def test_pipelined_requests_are_answered_in_order(nodes: tuple[Node, Node, Component]) -> None:
    one = b"POST /1 HTTP/1.1\r\nHost: tool.crm\r\nContent-Length: 1\r\n\r\na"
    two = b"POST /2 HTTP/1.1\r\nHost: tool.crm\r\nConnection: close\r\nContent-Length: 1\r\n\r\nb"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(nodes[0].out))
        received = exchange(connection, one + two)
    assert received.count(b"HTTP/1.1 200") == 2
    assert received.index(b"\r\na") < received.index(b"\r\nb")


PREFORK = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1]); listener.listen()
ready, started = os.pipe()
if os.fork() == 0:
    os.write(started, b"x")
    while True:
        connection, _ = listener.accept()
        data = b""
        while b"\\r\\n\\r\\n" not in data:
            chunk = connection.recv(65536)
            if not chunk:
                break
            data += chunk
        if data:
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 6\\r\\nConnection: close\\r\\n\\r\\nworker")
        connection.close()
os.read(ready, 1)
print("listening", flush=True)
sys.stdin.readline()
"""


def test_a_worker_that_outlives_its_listener_is_asked_about_apart(tmp_path: Path) -> None:
    path = tmp_path / "tool.sock"
    with child(PREFORK, str(path), start_new_session=True) as process:
        node = Node(tmp_path / "n", Authority(TRUST_DOMAIN), listens={"tool": path}).start()
        try:
            assert call(node, method="GET", body=b"").body == b"worker"
            (seen,) = node.of("listener_seen")
            assert seen["pidfd_inode"] > 0
            assert seen["dead"] is False
            process.tell()
            process.process.wait(10)
            wait_until(lambda: node.metric("listeners") == 0)
            assert call(node, method="GET", body=b"").body == b"worker"
            later = node.of("listener_seen")[-1]
            assert (later["pidfd_inode"], later["dead"]) == (0, True)
            node.plane.forget_listener("crm/tool", 0)
            node.on_event = lambda event: (
                event["event"] == "listener_seen"
                and node.plane.refuse_listener("crm/tool", 0, "listener_not_component") is None
            )
            assert call(node, method="GET", body=b"").code == "callee_unavailable"
        finally:
            node.stop()
            os.killpg(process.pid, signal.SIGKILL)
