"""What one side may cost the others: phases that end, endpoints that are left alone, floods that are cut."""

from __future__ import annotations

import contextlib
import http.server
import os
import resource
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import h2.config
import h2.connection
import h2.settings
import pytest

from dataplane_nodes import NAMES, TRUST_DOMAIN, Component, Node, Seen, answer, call, components, pair, raw, spiffe_id
from dataplane_peer import SNI, Message, connected, context, send
from dataplane_server import Peer, Request, honest
from dataplane_server import Reply as PeerReply
from killed_node import node_process
from svid_authority import Authority
from waiting import wait_until


@contextlib.contextmanager
def caller(folder: Path, authority: Authority | None = None, **settings: object) -> Iterator[Node]:
    node = Node(folder / "a", authority or Authority(TRUST_DOMAIN), settings=dict(settings)).start()
    try:
        yield node
    finally:
        node.stop()


class Deaf:
    """A port that counts connections and says nothing on them, or closes them at once."""

    def __init__(self, *, hangs_up: bool) -> None:
        self.hangs_up, self.count = hangs_up, 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._held: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._held:
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.count += 1
                if self.hangs_up:
                    connection.close()
                else:
                    self._held.append(connection)


# --- every phase has its end and its code


def test_a_handshake_that_does_not_end_has_a_code_of_its_own(tmp_path: Path) -> None:
    with caller(tmp_path, timeouts_ms={"handshake": 200}) as node, Deaf(hangs_up=False) as peer:
        node.route(tool=peer.port)
        got = call(node)
        assert (got.code, got.status) == ("peer_handshake_timeout", 504)


def test_a_connection_that_nobody_accepts_has_a_code_of_its_own(tmp_path: Path) -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    with caller(tmp_path, timeouts_ms={"connect": 200}) as node, contextlib.ExitStack() as stack, listener:
        for _ in range(3):  # what the queue holds; from then on the kernel answers nobody
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        node.route(tool=listener.getsockname()[1])
        got = call(node)
        assert (got.code, got.status) == ("peer_connect_timeout", 504)


def test_an_answer_that_does_not_begin_has_a_code_of_its_own(tmp_path: Path) -> None:
    never = threading.Event()

    def silent(peer: Peer, request: Request) -> PeerReply:
        never.wait(10)
        return honest(peer, request)

    with caller(tmp_path, timeouts_ms={"response_head": 200}) as node, Peer(node.authority, silent) as peer:
        node.route(tool=peer.port)
        got = call(node)
        never.set()
        assert (got.code, got.status) == ("peer_timeout", 504)


def test_a_component_that_does_not_answer_has_a_code_of_its_own(tmp_path: Path) -> None:
    never, path = threading.Event(), tmp_path / "tool.sock"
    with Component(path, lambda handler, _seen: (never.wait(10), answer(handler, b""))):
        settings = {"timeouts_ms": {"response_head": 200}}
        node = Node(tmp_path / "n", Authority(TRUST_DOMAIN), listens={"tool": path}, settings=settings).start()
        try:
            svid = node.authority.issue(spiffe_id("orchestrator"))
            got = send(node.port, svid, Message(svid).wire())
            assert got is not None
            assert (got.code, got.status) == ("callee_timeout", 504)
        finally:
            never.set()
            node.stop()


def test_a_call_ends_however_many_phases_it_has(tmp_path: Path) -> None:
    never = threading.Event()
    with pair(tmp_path, timeouts_ms={"call": 300}) as (a, _b, tool):
        tool.respond = lambda handler, _seen: (never.wait(10), answer(handler, b""))
        got = call(a)
        never.set()
        assert (got.code, got.status) == ("call_timeout", 504)


def test_a_head_that_does_not_end_is_told_so_and_counted(tmp_path: Path) -> None:
    with caller(tmp_path, timeouts_ms={"header_read": 200}) as node:
        received = raw(node.out, b"GET / HTTP/1.1\r\nHost: to")
        assert received.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"request_head_timeout"' in received
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(node.out))
            assert connection.recv(1) == b""  # who said nothing is told nothing
        assert node.metric("calls", direction="out", code="request_head_timeout") == 1


# --- answers that nobody reads


def endless(handler: http.server.BaseHTTPRequestHandler, _seen: Seen) -> None:
    """More than every buffer on the way holds."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(64 << 20))
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(1024):
            handler.wfile.write(b"x" * 65536)


def test_a_component_that_reads_no_answer_holds_no_call(tmp_path: Path) -> None:
    with pair(tmp_path, timeouts_ms={"answer_unread": 400}) as (a, b, tool):
        tool.respond = endless
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(a.out))
            connection.sendall(b"GET /big HTTP/1.1\r\nHost: tool.crm\r\n\r\n")
            wait_until(lambda: a.metric("connections_cut", socket="out", why="answer_unread") == 1)
            wait_until(lambda: a.metric("calls_in_progress") == b.metric("calls_in_progress") == 0)
        tool.respond = None
        assert call(a).status == 200


@pytest.mark.parametrize("body", ["long", "short"])
def test_a_peer_that_opens_no_window_holds_no_call(tmp_path: Path, body: str) -> None:
    path = tmp_path / "tool.sock"
    with Component(path, endless if body == "long" else None):
        settings = {"timeouts_ms": {"answer_unread": 400}}
        node = Node(tmp_path / "n", Authority(TRUST_DOMAIN), listens={"tool": path}, settings=settings).start()
        try:
            svid = node.authority.issue(spiffe_id("orchestrator"))
            client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="ascii"))
            client.initiate_connection()
            client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
            message = Message(svid)
            pseudo = [(":method", "POST"), (":path", "/mcp"), (":scheme", "https"), (":authority", "tool.crm")]
            client.send_headers(1, [*pseudo, *message.headers, ("custody-record", message.sealed())])
            client.send_data(1, message.body, end_stream=True)
            with connected(node.port, context(svid, ("h2",))) as connection:
                connection.sendall(client.data_to_send())
                wait_until(lambda: node.metric("connections_cut", socket="peer", why="answer_unread") == 1)
                wait_until(lambda: node.metric("calls_in_progress") == 0)
            assert send(node.port, svid, Message(svid).wire()) is not None
        finally:
            node.stop()


def test_a_flood_of_interim_answers_ends_with_its_call(tmp_path: Path) -> None:
    path, over = tmp_path / "tool.sock", threading.Event()

    def inform(handler: http.server.BaseHTTPRequestHandler, seen: Seen) -> None:
        with contextlib.suppress(OSError):
            while seen.body != b"{}" and not over.is_set():
                handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100)
        answer(handler, b"final")

    with Component(path, inform):
        settings = {"timeouts_ms": {"response_head": 500}}
        node = Node(tmp_path / "n", Authority(TRUST_DOMAIN), listens={"tool": path}, settings=settings).start()
        try:
            svid = node.authority.issue(spiffe_id("orchestrator"))
            got = send(node.port, svid, Message(svid, body=b"[]").wire())
            assert got is not None
            assert got.code == "callee_timeout"
            got = send(node.port, svid, Message(svid).wire())
            assert got is not None
            assert got.body == b"final"
        finally:
            over.set()
            node.stop()


def test_resets_of_requests_that_were_taken_up_cut_the_connection(tmp_path: Path) -> None:
    """Reset once each was looked at, they pass what the HTTP/2 layer bounds by itself."""
    with pair(tmp_path) as (a, b, _tool):
        svid = a.authority.issue(spiffe_id("orchestrator"))
        client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="ascii"))
        client.initiate_connection()
        headers = [(":method", "POST"), (":path", "/mcp"), (":scheme", "https"), (":authority", "x")]
        is_cut = lambda: b.metric("connections_cut", socket="peer", why="h2_resets") == 1  # noqa: E731
        with connected(b.port, context(svid, ("h2",))) as connection, contextlib.suppress(OSError):
            while not is_cut():
                streams = [client.get_next_available_stream_id() + 2 * index for index in range(250)]
                for stream in streams:
                    client.send_headers(stream, headers)
                connection.sendall(client.data_to_send())
                wait_until(lambda: is_cut() or b.metric("calls_in_progress") == 250)
                for stream in streams:
                    client.reset_stream(stream)
                connection.sendall(client.data_to_send())
                wait_until(lambda: is_cut() or b.metric("calls_in_progress") == 0)
        wait_until(is_cut)
        wait_until(lambda: b.metric("calls_in_progress") == 0)
        assert call(a).status == 200


# --- handshakes


def hello(port: int, source: str) -> socket.socket:
    """A connection from ``source`` that sends the first message of a handshake and no other."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context(None).wrap_bio(incoming, outgoing, server_hostname=SNI)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    connection = socket.create_connection(("127.0.0.1", port), source_address=(source, 0))
    connection.sendall(outgoing.read())
    return connection


def test_a_flood_of_handshakes_leaves_turns_to_other_addresses(tmp_path: Path) -> None:
    limits = {"handshakes": 8, "handshake_queue": 16}
    settings = {"limits": limits, "timeouts_ms": {"handshake": 60_000}}
    with pair(tmp_path, **settings) as (a, b, _tool), contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(hello(b.port, "127.0.0.2"))
        # Of 8 turns it has 2, of 16 places in the queue 8, and the rest is closed.
        wait_until(lambda: b.metric("connections_refused", why="handshake_queue") == 20)
        assert b.metric("handshakes_waiting") == 8
        assert [call(a).status for _ in range(3)] == [200] * 3
        stack.close()
        wait_until(lambda: b.metric("handshakes_waiting") == 0)


def test_a_handshake_that_stands_still_ends(tmp_path: Path) -> None:
    with pair(tmp_path, timeouts_ms={"handshake": 300}) as (_a, b, _tool), hello(b.port, "127.0.0.2") as connection:
        connection.settimeout(5)
        while connection.recv(65536):
            pass
        wait_until(lambda: b.metric("connections_refused", why="handshake_timeout") == 1)


def test_connections_of_one_identity_are_bounded(tmp_path: Path) -> None:
    limits = {"peer_connections_per_identity": 3}
    with pair(tmp_path, limits=limits) as (a, b, _tool), contextlib.ExitStack() as stack:
        svid = a.authority.issue(spiffe_id("reasoner"))
        for _ in range(3):
            stack.enter_context(connected(b.port, context(svid)))
        wait_until(lambda: b.metric("peer_connections") == 3)
        with contextlib.suppress(OSError), connected(b.port, context(svid)) as one_more:
            assert one_more.recv(1) == b""
        wait_until(lambda: b.metric("connections_refused", why="too_many_of_identity") == 1)
        assert call(a).status == 200


# --- descriptors


def test_without_descriptors_it_accepts_nobody_serves_who_is_there_and_recovers(tmp_path: Path) -> None:
    authority = Authority(TRUST_DOMAIN)
    with node_process(tmp_path, authority) as node, contextlib.ExitStack() as stack:
        port, svid = node.start(), authority.issue(spiffe_id("orchestrator"))
        served = stack.enter_context(connected(port, context(svid)))
        wire = lambda: Message(svid).wire().replace(b"connection: close", b"connection: keep-alive")  # noqa: E731
        served.sendall(wire())
        assert b" 200 " in served.recv(65536)
        pid, (_, most) = node.process.pid, resource.prlimit(node.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), most))
        began = time.monotonic()
        waiting = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        waiting += [socket.socket(socket.AF_UNIX) for _ in range(20)]
        for each in waiting[20:]:
            each.connect(str(node.folder / "out.sock"))
        for listener in ("peer", "out"):
            wait_until(lambda listener=listener: node.metric("connections_refused", socket=listener, why="accept") >= 3)
        served.sendall(wire())
        assert b" 200 " in served.recv(65536)
        # It tries again every 50 ms, not as fast as it can.
        tried = node.metric("connections_refused", socket="peer", why="accept")
        assert tried <= 2 + (time.monotonic() - began) / 0.05
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, most))
        got = send(port, svid, Message(svid).wire())
        assert got is not None
        assert got.status == 200
        waiting[-1].sendall(b"GET / HTTP/1.1\r\nHost: nobody.crm\r\n\r\n")
        assert b"unknown_peer" in waiting[-1].recv(65536)
        for each in waiting:
            each.close()


# --- endpoints that fail


def test_an_endpoint_that_fails_is_left_alone_and_probed_again(tmp_path: Path) -> None:
    limits = {"limits": {"endpoint_failures": 3}, "timeouts_ms": {"endpoint_open": 400}}
    with caller(tmp_path, **limits) as node:
        with Deaf(hangs_up=True) as peer:
            node.route(tool=peer.port)
            assert [call(node).code for _ in range(3)] == ["peer_unreachable"] * 3
            got = call(node)
            assert (got.code, got.status) == ("endpoints_failing", 503)
            assert peer.count == 3
            assert node.metric("endpoints_open") == 1
            wait_until(lambda: call(node).code == "peer_unreachable")
            assert peer.count == 4  # the probe, and nobody else
            port = peer.port
        with Peer(node.authority) as sound:
            node.route(tool=sound.port)
            assert call(node).status == 200  # another endpoint has a circuit of its own
            node.route(tool=port)
            assert call(node).code == "endpoints_failing"


def test_calls_go_past_an_endpoint_that_is_left_alone(tmp_path: Path) -> None:
    limits = {"limits": {"endpoint_failures": 1}, "timeouts_ms": {"endpoint_open": 60_000}}
    with caller(tmp_path, **limits) as node, Deaf(hangs_up=True) as bad, Peer(node.authority) as good:
        node.plane.set_routes(f'{{"crm/tool": ["127.0.0.1:{bad.port}", "127.0.0.1:{good.port}"]}}')
        assert [call(node).status for _ in range(5)] == [200] * 5
        assert bad.count == 1


def test_an_endpoint_is_left_alone_by_the_caller_that_it_fails_only(tmp_path: Path) -> None:
    """A component whose certificate nobody takes must not close the way for its neighbours."""
    limits = {"limits": {"endpoint_failures": 1}, "timeouts_ms": {"endpoint_open": 60_000, "response_head": 300}}
    never = threading.Event()

    def picky(peer: Peer, request: Request) -> PeerReply:
        if request.record.claims.iss.path.endswith("orchestrator"):
            never.wait(10)
        return honest(peer, request)

    with caller(tmp_path, **limits) as node, Peer(node.authority, picky) as peer:
        node.route(tool=peer.port)
        assert [call(node).code for _ in range(2)] == ["peer_timeout", "endpoints_failing"]
        node.caller = "reasoner"
        node.give("reasoner")
        node.plane.set_components(components({}, may_start=NAMES))
        for seen in node.of("caller_seen"):
            node.plane.forget_caller(seen["pidfd_inode"])
        assert call(node).status == 200
        never.set()


# --- requests that are sent again


def test_requests_are_sent_again_within_a_budget(tmp_path: Path) -> None:
    """Ten are free for a callee that is seldom called; from then on a part of all calls is sent again."""
    refusing = Peer(Authority(TRUST_DOMAIN), lambda _peer, _request: PeerReply(refused=True))
    with caller(tmp_path, refusing.authority, limits={"retry_percent": 0}) as node, refusing as peer:
        node.route(tool=peer.port)
        codes = [call(node).code for _ in range(20)]
        assert codes[:5] == ["peer_unreachable"] * 5
        assert set(codes[5:]) <= {"retry_budget_spent", "peer_unreachable"}
        assert codes.count("retry_budget_spent") >= 10
        assert 20 + 10 <= len(peer.requests) < 20 + 20  # one more is free in each second


def test_of_many_calls_a_fifth_is_sent_again(tmp_path: Path) -> None:
    with caller(tmp_path) as node, Peer(node.authority, lambda _peer, _request: PeerReply(refused=True)) as peer:
        node.route(tool=peer.port)
        for _ in range(100):
            assert call(node).code in {"retry_budget_spent", "peer_unreachable"}
        assert 100 + 10 < len(peer.requests) <= 100 + 10 + 20 + 10
