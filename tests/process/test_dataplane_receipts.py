"""Receipts between data planes as they should go: made, logged on both sides, verified, committed to."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane_nodes import (
    TRUST_DOMAIN,
    Component,
    Connection,
    Node,
    Seen,
    answer,
    answer_without_end,
    call,
    pair,
    spiffe_id,
    statements,
)
from dataplane_peer import Message, connected, context, exchange, send
from dataplane_server import Peer, Reply, Request, honest
from hopseal.bundle import Bundle
from hopseal.custody.binding import BodySum
from hopseal.custody.exchange import CallerState, Response, verify_receipt
from hopseal.custody.outcome import Fin, Outcome
from hopseal.custody.receipt import parse_sealed_receipt
from hopseal.custody.record import parse_sealed_record
from hopseal.ids import TrustDomain
from hopseal.log.entries import Direction, RecordEntry
from hopseal.log.offline import verify_chain_offline
from svid_authority import Authority
from waiting import wait_until

LARGE = os.urandom(300_000)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Node, Node, Component]]:
    with pair(tmp_path) as made:
        yield made


def sent_records(node: Node) -> list[RecordEntry]:
    entries = node.log().entries
    return [each for each in entries if isinstance(each, RecordEntry) and each.direction is Direction.SENT]


def outcomes(node: Node, direction: Direction = Direction.SENT) -> list[Outcome]:
    return [parse_sealed_receipt(each.sealed or "").claims.outcome for each in statements(node, direction)]


def chunked(*chunks: bytes, content_type: str = "text/plain"):
    def respond(handler: http.server.BaseHTTPRequestHandler, _seen: Seen) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for chunk in chunks:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        handler.wfile.write(b"0\r\n\r\n")

    return respond


def test_both_logs_hold_the_same_receipt_of_a_call(nodes: tuple[Node, Node, Component]) -> None:
    a, b, _tool = nodes
    assert call(a, body=b"ping").body == b"ping"
    wait_until(lambda: statements(a, Direction.RECEIVED))
    (made,), (got,) = statements(b, Direction.SENT), statements(a, Direction.RECEIVED)
    assert made.sealed == got.sealed
    assert (got.accepted, got.code, got.st) == (True, None, 200)
    assert (got.iss, got.aud) == (spiffe_id("tool"), spiffe_id("orchestrator"))
    record = parse_sealed_record(sent_records(a)[0].sealed or "")
    assert record.record.rr
    outcome = parse_sealed_receipt(got.sealed or "").claims.outcome
    assert (outcome.rec, outcome.cid, outcome.st) == (record.hash, record.record.cid, 200)
    assert BodySum(outcome.length, outcome.cd) == BodySum.of(b"ping")
    assert (outcome.fin, outcome.kids) == (Fin.EOF, ())
    decision = b.wait_for_call(direction="in", code="ok")["decision"]
    assert outcome.dec == f"{decision} everything"
    for node in (a, b):
        assert not node.log().damage
        assert verify_chain_offline(node.log().entries, record.record.cid).verified


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_long_answer_streams_and_is_digested_on_the_way(nodes: tuple[Node, Node, Component], framing: str) -> None:
    a, b, tool = nodes
    tool.respond = chunked(LARGE[:1000], LARGE[1000:]) if framing == "chunked" else lambda h, _: answer(h, LARGE)
    assert call(a).body == LARGE
    (outcome,) = outcomes(b)
    assert BodySum(outcome.length, outcome.cd) == BodySum.of(LARGE)


@pytest.mark.parametrize("status", [204, 304, 404, 500])
def test_every_status_of_a_component_has_a_receipt(nodes: tuple[Node, Node, Component], status: int) -> None:
    a, b, tool = nodes
    tool.respond = lambda handler, _: answer(handler, b"", status)
    assert call(a, method="GET", body=b"").status == status
    (outcome,) = outcomes(b)
    assert (outcome.st, outcome.length, outcome.fin) == (status, 0, Fin.EOF)


def test_a_head_request_has_a_receipt_over_no_bytes(nodes: tuple[Node, Node, Component]) -> None:
    a, b, tool = nodes

    def head(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "70000")
        handler.end_headers()

    http_server = tool._server.RequestHandlerClass
    http_server.do_HEAD = head  # type: ignore[attr-defined]
    got = call(a, method="HEAD", body=b"")
    assert (got.status, got.headers["content-length"], got.body) == (200, "70000", b"")
    (outcome,) = outcomes(b)
    assert outcome.length == 0


def test_a_call_names_the_receipts_that_it_is_based_on(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, _b, _tool):
        handle = call(a).handle
        for _ in range(9):
            assert call(a, handle=handle).status == 200
        wait_until(lambda: len(statements(a, Direction.RECEIVED)) == 10)
        hashes = [parse_sealed_receipt(each.sealed or "").hash for each in statements(a, Direction.RECEIVED)]
        inputs = [parse_sealed_record(each.sealed or "").record.based_on for each in sent_records(a)]
        assert inputs == [None, *(tuple(hashes[max(0, n - 8) : n]) for n in range(1, 10))]


def test_a_receipt_commits_to_those_that_the_callee_obtained(tmp_path: Path) -> None:
    authority = Authority(TRUST_DOMAIN)
    listens = {name: tmp_path / f"{name}.sock" for name in ("reasoner", "tool")}
    nodes: list[Node] = []
    calls = [2]

    def relay(handler: http.server.BaseHTTPRequestHandler, seen: Seen) -> None:
        for _ in range(calls[0]):
            inner = call(nodes[1], "tool", body=b"from reasoner", handle=seen.header("Custody-Handle"))
        answer(handler, inner.body, inner.status)

    with contextlib.ExitStack() as stack:
        stack.enter_context(Component(listens["reasoner"], relay))
        stack.enter_context(Component(listens["tool"]))
        for name, caller in (("a", "orchestrator"), ("b", "reasoner"), ("c", None)):
            listen = {"b": "reasoner", "c": "tool"}.get(name)
            node = Node(tmp_path / name, authority, caller, {listen: listens[listen]} if listen else {}).start()
            stack.callback(node.stop)
            nodes.append(node)
        a, b, c = nodes
        a.route(reasoner=b.port)
        b.route(tool=c.port)
        assert call(a, "reasoner").body == b"from reasoner"
        made = [parse_sealed_receipt(each.sealed or "").hash for each in statements(c, Direction.SENT)]
        (outcome,) = outcomes(b)
        assert outcome.kids == tuple(made)
        second = [parse_sealed_record(each.sealed or "").record.based_on for each in sent_records(b)]
        assert second == [None, (made[0],)]
        calls[0] = 10
        assert call(a, "reasoner").status == 200
        assert outcomes(b)[1].kids.n == 10  # type: ignore[union-attr]


def test_a_refusal_after_the_record_was_proven_has_a_receipt_that_says_so(
    nodes: tuple[Node, Node, Component],
) -> None:
    a, b, tool = nodes
    b.plane.set_policies('@id("no") forbid(principal, action, resource);', "[]")
    refused = call(a)
    assert (refused.status, refused.code) == (403, "custody_forbidden")
    (made,) = outcomes(b)
    wait_until(lambda: statements(a, Direction.RECEIVED))
    (got,) = statements(a, Direction.RECEIVED)
    assert (made.st, made.fin, got.accepted) == (403, Fin.DENY, True)
    decision = b.wait_for_call(direction="in", code="custody_forbidden")["decision"]
    assert made.dec == f"{decision} no"
    assert (refused.headers["hopseal-decision"], json.loads(refused.body)["decision"]) == (decision, decision)
    assert not tool.seen


def test_a_refusal_before_the_record_was_proven_has_none(nodes: tuple[Node, Node, Component]) -> None:
    _a, b, _tool = nodes
    svid = b.authority.issue(spiffe_id("orchestrator"))
    got = send(b.port, svid, Message(svid).wire().replace(b"\r\n\r\n{}", b"\r\n\r\n[]"))
    assert got is not None
    assert got.code == "custody_binding"
    assert "custody-receipt" not in got.headers
    assert not statements(b, Direction.SENT)


def test_a_replay_gets_no_second_receipt_for_its_record(nodes: tuple[Node, Node, Component]) -> None:
    """Two receipts for one record accuse the callee, and whoever sent the record can play it again."""
    _a, b, _tool = nodes
    svid = b.authority.issue(spiffe_id("orchestrator"))
    message = Message(svid).wire()
    got = [send(b.port, svid, message) for _ in range(3)]
    assert [each.code for each in got if each] == [None, "custody_replayed", "custody_replayed"]
    assert ["custody-receipt" in each.headers for each in got if each] == [True, False, False]
    assert len(statements(b, Direction.SENT)) == 1


def test_receipts_of_calls_at_once_share_seals(nodes: tuple[Node, Node, Component]) -> None:
    a, b, _tool = nodes
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(contextlib.closing(Connection(a.out))) for _ in range(40)]
        for _ in range(3):
            for connection in connections:
                connection.request("POST", "/mcp", b"{}", {"Host": "tool.crm"})
            assert {connection.getresponse().read() for connection in connections} == {b"{}"}
    assert len(outcomes(b)) == 120
    assert b.metric("log_seals") < 120


class TestHttp11:
    """A caller that speaks HTTP/1.1 gets the receipt where it can read it."""

    def verify(self, b: Node, message: Message, response: Response) -> Outcome:
        record = parse_sealed_record(self.sealed)
        bundles = {TrustDomain(TRUST_DOMAIN): Bundle(TrustDomain(TRUST_DOMAIN), (b.authority.der,))}
        verified = verify_receipt(record, response, bundles, CallerState(), int(time.time()))
        assert verified is not None
        return verified.sealed.claims.outcome

    def exchanged(self, b: Node, tls_headers: list[tuple[str, str]]) -> tuple[Message, bytes, tuple[bytes, ...]]:
        svid = b.authority.issue(spiffe_id("orchestrator"))
        message = Message(svid)
        self.sealed = message.sealed()
        with connected(b.port, context(svid)) as connection:
            server = connection.getpeercert(binary_form=True)
            assert server is not None
            received = exchange(connection, message.wire(sealed=self.sealed, extra=tls_headers))
        return message, received, (server,)

    def test_in_the_head_of_a_short_answer(self, nodes: tuple[Node, Node, Component]) -> None:
        _a, b, _tool = nodes
        message, received, server = self.exchanged(b, [])
        head, _, body = received.partition(b"\r\n\r\n")
        headers = [tuple(line.split(": ", 1)) for line in head.decode().split("\r\n")[1:]]
        assert body == b"{}"
        outcome = self.verify(b, message, Response(200, headers, BodySum.of(body), server))
        assert outcome.fin is Fin.EOF

    def test_in_the_final_comment_of_an_event_stream(self, nodes: tuple[Node, Node, Component]) -> None:
        _a, b, tool = nodes
        tool.respond = chunked(b"data: 1\n\n", b"data: 2", content_type="text/event-stream")
        message, received, server = self.exchanged(b, [])
        stream = dechunked(received)
        body, marker, comment = stream.rpartition(b": custody-receipt ")
        assert (body, marker != b"", comment.endswith(b"\n\n")) == (b"data: 1\n\ndata: 2\n", True, True)
        headers = [("content-type", "text/event-stream")]
        response = Response(200, headers, BodySum.of(body), server, comment=comment.decode().strip())
        assert self.verify(b, message, response).length == len(body)

    def test_in_a_trailer_for_who_takes_them(self, nodes: tuple[Node, Node, Component]) -> None:
        _a, b, tool = nodes
        tool.respond = chunked(b"one", b"two")
        message, received, server = self.exchanged(b, [("te", "trailers")])
        assert b"trailer: custody-receipt" in received
        sealed = received.rpartition(b"custody-receipt: ")[2].strip().decode()
        trailers = [("custody-receipt", sealed)]
        response = Response(200, [("content-type", "text/plain")], BodySum.of(b"onetwo"), server, trailers)
        assert self.verify(b, message, response).length == 6

    def test_in_the_head_for_who_takes_none_as_long_as_it_can_be_held_back(self, tmp_path: Path) -> None:
        with pair(tmp_path, body_limit_bytes=1000) as (_a, b, tool):
            tool.respond = chunked(b"x" * 500, b"y" * 500)
            _message, received, _server = self.exchanged(b, [])
            assert b"custody-receipt: " in received.partition(b"\r\n\r\n")[0]
            tool.respond = chunked(b"x" * 500, b"y" * 501)
            _message, received, _server = self.exchanged(b, [])
            assert received.startswith(b"HTTP/1.1 501")
            assert b"custody_receipt_unavailable" in received
            assert b"xxx" not in received


def dechunked(received: bytes) -> bytes:
    rest, body = received.partition(b"\r\n\r\n")[2], b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


@pytest.mark.parametrize("alpn", ["h2", "http/1.1"])
def test_receipts_of_the_other_implementation_are_accepted(tmp_path: Path, alpn: str) -> None:
    authority = Authority(TRUST_DOMAIN)
    node = Node(tmp_path / "n", authority).start()
    try:
        with Peer(authority, alpn=alpn) as peer:
            node.route(tool=peer.port)
            assert [call(node).body for _ in range(3)] == [b"the answer"] * 3
        wait_until(lambda: len(statements(node, Direction.RECEIVED)) == 3)
        assert all(each.accepted for each in statements(node, Direction.RECEIVED))
    finally:
        node.stop()


PLACES = [
    (alpn, place, length)
    for alpn in ("h2", "http/1.1")
    for place in ("head", "trailer", "comment")
    for length in (True, False)
    if (alpn, place, length) != ("http/1.1", "trailer", True)  # HTTP/1.1 has trailers behind chunks only
]


@pytest.mark.parametrize(("alpn", "place", "length"), PLACES)
def test_a_receipt_is_taken_from_each_of_its_places(tmp_path: Path, alpn: str, place: str, length: bool) -> None:
    authority = Authority(TRUST_DOMAIN)

    def respond(peer: Peer, request: Request) -> Reply:
        headers = [("content-type", "text/event-stream")]
        reply = Reply(headers=headers, body=b"data: 1\n\n", length=length)
        sealed = peer.receipt(request.record, reply.answer)
        if place == "comment":
            return Reply(headers=headers, body=reply.body + f": custody-receipt {sealed}\n\n".encode(), length=length)
        fields = [("custody-receipt", sealed)]
        if place == "head":
            return Reply(headers=[*headers, *fields], body=reply.body, length=length)
        return Reply(headers=headers, body=reply.body, trailers=fields, length=length)

    node = Node(tmp_path / "n", authority).start()
    try:
        with Peer(authority, respond, alpn=alpn) as peer:
            node.route(tool=peer.port)
            got = call(node)
            assert (got.status, got.body) == (200, b"data: 1\n\n")
            assert not any(name.startswith("custody-") for name in got.headers if name != "custody-handle")
    finally:
        node.stop()


def test_an_answer_that_the_component_cuts_is_an_error_on_both_sides(nodes: tuple[Node, Node, Component]) -> None:
    a, b, tool = nodes

    def cut(handler: http.server.BaseHTTPRequestHandler, seen: Seen) -> None:
        handler.send_response(200)
        if seen.path == "/short":
            handler.send_header("Content-Length", "10")
        else:
            handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"5\r\nhello\r\n" if seen.path != "/short" else b"hello")
        handler.close_connection = True

    tool.respond = cut
    assert call(a, path="/short").code == "callee_unavailable"
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        call(a, path="/chunked")
    event = a.wait_for_call(direction="out", code="receipt_missing")
    assert event["complete"] is False
    wait_until(lambda: len(outcomes(b)) == 2)
    short, long = outcomes(b)
    assert (short.fin, short.st) == (Fin.DENY, 503)
    assert (long.fin, BodySum(long.length, long.cd)) == (Fin.ABORT, BodySum.of(b"hello"))
    wait_until(lambda: len(statements(a, Direction.RECEIVED)) == 2)
    (entry,) = [each for each in statements(a, Direction.RECEIVED) if not each.accepted]
    assert (entry.code, entry.sealed) == ("receipt_missing", None)


def test_a_short_answer_that_does_not_end_is_an_error_in_time(tmp_path: Path) -> None:
    go_on = threading.Event()

    def hang(handler: http.server.BaseHTTPRequestHandler, _seen: Seen) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(b"hello")
        assert go_on.wait(10)

    with pair(tmp_path, timeouts_ms={"response_head": 500}) as (a, b, tool):
        tool.respond = hang
        assert call(a).code in {"callee_timeout", "peer_timeout"}
        wait_until(lambda: outcomes(b))
        assert outcomes(b)[0].fin is not Fin.EOF
        go_on.set()


def test_a_caller_that_hangs_up_leaves_a_receipt_that_says_so(nodes: tuple[Node, Node, Component]) -> None:
    a, b, tool = nodes
    tool.respond = answer_without_end
    connection = Connection(a.out)
    connection.request("GET", "/endless", headers={"Host": "tool.crm"})
    assert connection.getresponse().read(3) == b"xxx"
    connection.close()
    connection.sock = None
    wait_until(lambda: outcomes(b))
    (outcome,) = outcomes(b)
    assert outcome.fin is Fin.ABORT
    assert outcome.length >= 3


@pytest.mark.parametrize("at", ["out", "peer"])
def test_a_caller_that_hangs_up_before_there_is_an_answer_leaves_a_receipt_too(
    nodes: tuple[Node, Node, Component], at: str
) -> None:
    """The record is in the log as received: without a receipt it would look as if the callee kept something back."""
    a, b, tool = nodes
    go_on = threading.Event()

    def wait(handler: http.server.BaseHTTPRequestHandler, _seen: Seen) -> None:
        go_on.wait(10)
        with contextlib.suppress(OSError):
            answer(handler, b"")

    tool.respond = wait
    if at == "out":
        connection = Connection(a.out)
        connection.request("GET", "/slow", headers={"Host": "tool.crm"})
        wait_until(lambda: tool.seen)
        connection.close()
    else:
        svid = b.authority.issue(spiffe_id("orchestrator"))
        with connected(b.port, context(svid)) as peer:
            peer.sendall(Message(svid).wire())
            wait_until(lambda: tool.seen)
    wait_until(lambda: outcomes(b))
    (outcome,) = outcomes(b)
    assert (outcome.fin, outcome.st, outcome.length) == (Fin.ABORT, 499, 0)
    wait_until(lambda: b.metric("calls_in_progress") == 0)
    go_on.set()
    assert len(outcomes(b)) == 1


def test_an_answer_whose_key_was_withdrawn_meanwhile_never_passes(nodes: tuple[Node, Node, Component]) -> None:
    a, b, tool = nodes

    def respond(handler: http.server.BaseHTTPRequestHandler, _seen: Seen) -> None:
        b.withdraw("tool")
        answer(handler, b"unsigned")

    tool.respond = respond
    got = call(a)
    assert got.status >= 500
    assert b"unsigned" not in got.body
    assert not statements(b, Direction.SENT)


def test_a_short_lived_key_that_may_no_longer_seal_means_no_call(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, b, tool):
        b.give("tool", ttl_s=30)
        assert call(a).status == 200
        # A sixth of the leaf's life before its end nothing is sealed any more.
        wait_until(lambda: call(a).status == 501, timeout_s=30)
        assert call(a).code == "custody_receipt_unavailable"
        assert {seen.path for seen in tool.seen} == {"/mcp"}


@pytest.mark.parametrize("path", ["/short", "/long"])
def test_without_a_durable_receipt_there_is_no_answer(nodes: tuple[Node, Node, Component], path: str) -> None:
    a, b, tool = nodes

    def spoil(handler: http.server.BaseHTTPRequestHandler, seen: Seen) -> None:
        os.truncate(b.log_dir / "custody.log", 10)
        if seen.path == "/short":
            answer(handler, b"not logged")
        else:
            chunked(b"not ", b"logged")(handler, seen)

    tool.respond = spoil
    if path == "/short":
        got = call(a, path=path)
        assert (got.status, got.code) == (503, "custody_unavailable")
    else:
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            call(a, path=path)
    wait_until(lambda: b.of("log_failed"))
    assert not [each for each in statements(a, Direction.RECEIVED) if each.accepted]


def test_peers_of_the_helper_are_honest_unless_told_otherwise(tmp_path: Path) -> None:
    authority = Authority(TRUST_DOMAIN)
    node = Node(tmp_path / "n", authority).start()
    try:
        with Peer(authority, lambda peer, request: honest(peer, request, Reply(body=LARGE))) as peer:
            node.route(tool=peer.port)
            assert call(node).body == LARGE
            assert peer.requests[0].record.record.rr
    finally:
        node.stop()
