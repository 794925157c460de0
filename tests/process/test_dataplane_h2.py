"""HTTP/2 with prior knowledge: by curl and httpx, to components of either protocol, event streams, and what is cut."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import httpx
import pytest

from dataplane_nodes import TRUST_DOMAIN, Component, Connection, Node, Seen, answer, call, pair, raw, statements
from hopseal.custody.outcome import Fin
from hopseal.custody.receipt import parse_sealed_receipt
from hopseal.log.entries import Direction
from svid_authority import Authority
from waiting import wait_until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Nodes = tuple[Node, Node, Component]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with pair(tmp_path, streams="accept") as made:
        yield made


def client(node: Node) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(node.out), http1=False, http2=True), timeout=20)


def test_curl_calls_with_prior_knowledge(nodes: Nodes) -> None:
    a, b, tool = nodes
    curl = shutil.which("curl")
    assert curl is not None
    command = [curl, "-sS", "--http2-prior-knowledge", "--unix-socket", str(a.out), "-w", "%{http_version}\n"]
    for number in range(2):
        made = [*command, "-d", "body", f"http://tool.crm/{number}?x=1"]
        assert subprocess.run(made, capture_output=True, text=True, check=True, timeout=30).stdout == "body2\n"
    assert [each.path for each in tool.seen] == ["/0?x=1", "/1?x=1"]
    assert tool.seen[0].header("host") == "localhost"
    receipt = parse_sealed_receipt(statements(b, Direction.SENT)[0].sealed or "").claims.outcome
    assert (receipt.fin, receipt.messages, receipt.tlb) == (Fin.EOF, None, None)


@pytest.mark.asyncio
async def test_httpx_calls_many_at_once_and_gets_the_handle_of_its_task(nodes: Nodes) -> None:
    a, _, tool = nodes
    transport = httpx.AsyncHTTPTransport(uds=str(a.out), http1=False, http2=True)
    async with httpx.AsyncClient(transport=transport, timeout=20) as http:
        first = await http.post("http://tool.crm/first", content=b"x")
        assert (first.http_version, first.status_code, first.content) == ("HTTP/2", 200, b"x")
        handle = {"custody-handle": first.headers["custody-handle"]}
        answers = await asyncio.gather(*(http.get("http://tool.crm/x", headers=handle) for _ in range(20)))
        assert [each.status_code for each in answers] == [200] * 20
        assert a.metric("out_connections") == 1
    assert len(tool.seen) == 21


def test_a_long_body_streams_over_http_2_both_ways(tmp_path: Path) -> None:
    with pair(tmp_path, streams="accept", body_limit_bytes=100_000) as (a, b, tool), client(a) as http:
        body = bytes(range(256)) * 4_000

        def parts() -> Iterator[bytes]:
            yield body[:300_000]
            yield body[300_000:]

        tool.respond = lambda handler, seen: answer(handler, b"%d" % len(_dechunked(handler, seen)))
        response = http.post("http://tool.crm/up", content=parts())
        assert response.text == str(len(body))
        assert parse_sealed_receipt(statements(b, Direction.SENT)[-1].sealed or "").claims.outcome.req is not None


def _dechunked(handler: http.server.BaseHTTPRequestHandler, seen: Seen) -> bytes:
    if handler.headers.get("transfer-encoding") is None:
        return seen.body
    body = b""
    while size := int(handler.rfile.readline(), 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return body


def test_events_pass_one_by_one(nodes: Nodes) -> None:
    a, _, tool = nodes
    released = [threading.Event() for _ in range(3)]

    def respond(handler: http.server.BaseHTTPRequestHandler, _: Seen) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for number, event in enumerate(released):
            event.wait(20)
            text = b"data: %d\n\n" % number
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
        handler.wfile.write(b"0\r\n\r\n")

    tool.respond = respond
    with client(a) as http, http.stream("GET", "http://tool.crm/events") as response:
        lines = response.iter_lines()
        for number, event in enumerate(released):
            event.set()
            assert next(lines) == f"data: {number}"
            assert next(lines) == ""
        assert list(lines) == []


def test_an_answer_that_breaks_off_is_reset_and_never_looks_whole(nodes: Nodes) -> None:
    a, b, tool = nodes

    def respond(handler: http.server.BaseHTTPRequestHandler, _: Seen) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"3\r\nabc\r\n")
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)

    tool.respond = respond
    with client(a) as http, pytest.raises(httpx.RemoteProtocolError):
        http.get("http://tool.crm/")
    assert b.wait_for_call(direction="in", code="callee_unavailable")["complete"] is False
    tool.respond = None
    with client(a) as http:
        assert http.get("http://tool.crm/").status_code == 200


def test_refusals_over_http_2_are_problem_documents(nodes: Nodes) -> None:
    a, _, _ = nodes
    with client(a) as http:
        for url, status, code in (
            ("http://nobody.crm/", 404, "unknown_peer"),
            ("http://tool.crm/a//b", 400, "path_invalid"),
            ("http://hopseal.local/nothing", 404, "not_found"),
        ):
            response = http.get(url)
            assert (response.status_code, json.loads(response.content)["code"]) == (status, code), url
        response = http.get("http://tool.crm/", headers={"host": "other.crm"})
        assert response.status_code in {400, 404}


def test_a_caller_of_http_1_1_reaches_a_component_of_http_2_and_gets_no_trailers(tmp_path: Path) -> None:
    authority, path = Authority(TRUST_DOMAIN), tmp_path / "tool.sock"
    with _H2Component(path) as tool:
        a = Node(tmp_path / "a", authority, protocol="h2").start()
        b = Node(tmp_path / "b", authority, None, {"tool": path}, protocol="h2").start()
        a.route(tool=b.port)
        try:
            connection = Connection(a.out)
            connection.request("POST", "/x?y=1", b"hello", {"Host": "tool.crm", "TE": "trailers"})
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b"hello")
            connection.close()
            (seen,) = tool.seen
            assert (seen[":authority"], seen[":path"], seen["te"]) == ("localhost", "/x?y=1", "trailers")
            assert "host" not in seen
            with client(a) as http:
                assert http.post("http://tool.crm/z", content=b"2").content == b"2"
            receipt = parse_sealed_receipt(statements(b, Direction.SENT)[-1].sealed or "").claims.outcome
            assert receipt.tlb is not None
        finally:
            a.stop()
            b.stop()


class _H2Component:
    """A server of HTTP/2 that answers with the request's body and trailers, of which some try to speak for brokers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[dict[str, str]] = []

    def __enter__(self) -> Self:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="ascii"))
        state.initiate_connection()
        bodies: dict[int, bytes] = {}
        with contextlib.suppress(OSError), connection:
            connection.sendall(state.data_to_send())
            while received := connection.recv(65536):
                for event in state.receive_data(received):
                    if isinstance(event, h2.events.RequestReceived):
                        self.seen.append(dict(event.headers))
                        bodies[event.stream_id] = b""
                    elif isinstance(event, h2.events.DataReceived):
                        bodies[event.stream_id] += event.data
                        state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, h2.events.StreamEnded):
                        state.send_headers(event.stream_id, [(":status", "200")])
                        state.send_data(event.stream_id, bodies.pop(event.stream_id))
                        trailers = [("x-checked", "yes"), ("custody-receipt", "forged"), ("custody-decision", "x")]
                        state.send_headers(event.stream_id, trailers, end_stream=True)
                connection.sendall(state.data_to_send())


def test_a_component_that_forges_a_receipt_in_its_trailers_is_not_heard(tmp_path: Path) -> None:
    """Its trailers pass, bound by the receipt; those that only brokers may send do not."""
    authority, path = Authority(TRUST_DOMAIN), tmp_path / "tool.sock"
    with _H2Component(path):
        a = Node(tmp_path / "a", authority, protocol="h2").start()
        b = Node(tmp_path / "b", authority, None, {"tool": path}, protocol="h2").start()
        a.route(tool=b.port)
        try:
            events = _events(a.out, [(":method", "GET"), (":path", "/")])
            (trailers,) = [event for event in events if isinstance(event, h2.events.TrailersReceived)]
            assert [name for name, _ in trailers.headers] == ["x-checked"]
        finally:
            a.stop()
            b.stop()


def _events(out: Path, head: list[tuple[str, str]]) -> list[h2.events.Event]:
    state = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="ascii"))
    state.initiate_connection()
    state.send_headers(1, [*head, (":scheme", "http"), (":authority", "tool.crm")], end_stream=True)
    events: list[h2.events.Event] = []
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(out))
        connection.sendall(state.data_to_send())
        while not any(isinstance(event, h2.events.StreamEnded | h2.events.StreamReset) for event in events):
            received = connection.recv(65536)
            if not received:
                break
            events += state.receive_data(received)
            connection.sendall(state.data_to_send())
    return events


def test_what_follows_a_preface_must_be_http_2(nodes: Nodes) -> None:
    a, _, _ = nodes
    answered = raw(a.out, PREFACE + b"GET / HTTP/1.1\r\nHost: tool.crm\r\n\r\n")
    assert b"HTTP/1.1 200" not in answered
    assert call(a).status == 200


def test_a_connection_of_http_2_that_says_nothing_is_closed(tmp_path: Path) -> None:
    with pair(tmp_path, timeouts_ms={"header_read": 300, "idle": 300}) as (a, _, _):
        for beginning in (b"", b"PRI * HT", PREFACE + b"\0\0\0\x04\0\0\0\0\0"):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(10)
                connection.connect(str(a.out))
                connection.sendall(beginning)
                with contextlib.suppress(ConnectionError):
                    while connection.recv(65536):
                        pass
        wait_until(lambda: a.metric("out_connections") == 0)


def test_streams_that_a_component_opens_and_resets_are_bounded(nodes: Nodes) -> None:
    """CVE-2023-44487 on the local socket."""
    a, _, tool = nodes
    state = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="ascii"))
    state.initiate_connection()
    head = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "tool.crm")]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(a.out))
        with contextlib.suppress(ConnectionError):
            for number in range(4_000):
                state.send_headers(2 * number + 1, head, end_stream=True)
                state.reset_stream(2 * number + 1, h2.errors.ErrorCodes.CANCEL)
                connection.sendall(state.data_to_send())
            while connection.recv(65536):
                pass
    wait_until(lambda: a.metric("calls_in_progress") == 0)
    assert len(tool.seen) < 2_000
    assert call(a).status == 200
