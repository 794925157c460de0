"""Components of HTTP/2 that cut their own answer with a reset that says that nothing is wrong (RFC 9113 §8.1)."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import h2.config
import h2.connection
import h2.errors
import h2.events
import httpx
import pytest

from dataplane_nodes import TRUST_DOMAIN, Node, statements
from dataplane_peer import connected, context
from hopseal.custody.outcome import Fin
from hopseal.custody.receipt import parse_sealed_receipt
from hopseal.log.entries import CallEntry, Direction
from outside_servers import describe
from svid_authority import Authority
from waiting import wait_until

EDGE = "spiffe://example.org/edge/gateway"
HEADS = {"length announced": [("content-length", "10")], "no length": [], "long": [("content-length", "1000000")]}


@contextlib.contextmanager
def resetting(path: Path, head: list[tuple[str, str]], trailers: list[tuple[str, str]] | None = None) -> Iterator[None]:
    """A component that answers every request with three bytes and ``RST_STREAM(NO_ERROR)``, or with trailers."""

    def serve(connection: socket.socket) -> None:
        state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="ascii"))
        state.initiate_connection()
        with contextlib.suppress(OSError), connection:
            connection.sendall(state.data_to_send())
            while received := connection.recv(65536):
                for event in state.receive_data(received):
                    if isinstance(event, h2.events.StreamEnded):
                        state.send_headers(event.stream_id, [(":status", "200"), *head])
                        state.send_data(event.stream_id, b"abc")
                        if trailers:
                            state.send_headers(event.stream_id, trailers, end_stream=True)
                        else:
                            state.reset_stream(event.stream_id, h2.errors.ErrorCodes.NO_ERROR)
                connection.sendall(state.data_to_send())

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        threading.Thread(target=accept, daemon=True).start()
        yield


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_an_answer_that_its_component_resets_is_no_whole_one(tmp_path: Path, head: list[tuple[str, str]]) -> None:
    authority, path = Authority(TRUST_DOMAIN), tmp_path / "tool.sock"
    with resetting(path, head):
        a = Node(tmp_path / "a", authority, protocol="h2").start()
        b = Node(tmp_path / "b", authority, None, {"tool": path}, protocol="h2").start()
        a.route(tool=b.port)
        try:
            transport = httpx.HTTPTransport(uds=str(a.out), http1=False, http2=True)
            with httpx.Client(transport=transport) as http, contextlib.suppress(httpx.RemoteProtocolError):
                response = http.get("http://tool.crm/", timeout=20)
                assert (response.status_code, response.content) != (200, b"abc")
            assert b.wait_for_call(direction="in", code="callee_unavailable")
            receipts = [
                parse_sealed_receipt(each.sealed or "").claims.outcome for each in statements(b, Direction.SENT)
            ]
            assert all((each.st, each.fin) != (200, Fin.EOF) for each in receipts)
        finally:
            a.stop()
            b.stop()


@contextlib.contextmanager
def accepting(folder: Path, authority: Authority, path: Path) -> Iterator[Node]:
    """A node whose component at ``path`` the edge calls without custody."""
    node = Node(folder / "b", authority, "tool", {"tool": path}, protocol="h2").start()
    try:
        describe(node, {"tool": {"accepts": ["spiffe://example.org/edge/*"]}})
        yield node
    finally:
        node.stop()


def calls(node: Node) -> list[CallEntry]:
    return [each for each in node.log().entries if isinstance(each, CallEntry)]


def asked(node: Node, authority: Authority) -> list[h2.events.Event]:
    """What the edge gets for one request over HTTP/2."""
    state = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="ascii"))
    state.initiate_connection()
    head = [(":method", "GET"), (":path", "/"), (":scheme", "https"), (":authority", "x")]
    state.send_headers(1, head, end_stream=True)
    events: list[h2.events.Event] = []
    with connected(node.port, context(authority.issue(EDGE), ("h2",))) as connection:
        connection.sendall(state.data_to_send())
        while not any(isinstance(event, h2.events.StreamEnded | h2.events.StreamReset) for event in events):
            received = connection.recv(65536)
            if not received:
                break
            events += state.receive_data(received)
            connection.sendall(state.data_to_send())
    return events


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_nor_is_it_one_for_a_peer_without_custody(tmp_path: Path, head: list[tuple[str, str]]) -> None:
    authority, path = Authority(TRUST_DOMAIN), tmp_path / "tool.sock"
    with resetting(path, head), accepting(tmp_path, authority, path) as node:
        assert not any(isinstance(event, h2.events.StreamEnded) for event in asked(node, authority))
        wait_until(lambda: len(calls(node)) == 2, what="the end of the call in the log")
        assert (calls(node)[1].fin, calls(node)[1].why) == ("abort", "callee_unavailable")


def test_a_peer_without_custody_gets_no_fields_of_brokers_in_trailers(tmp_path: Path) -> None:
    authority, path = Authority(TRUST_DOMAIN), tmp_path / "tool.sock"
    trailers = [("x-checked", "yes"), ("custody-receipt", "forged"), ("custody-handle", "leaked"), ("set-cookie", "x")]
    with resetting(path, [], trailers), accepting(tmp_path, authority, path) as node:
        (got,) = [event for event in asked(node, authority) if isinstance(event, h2.events.TrailersReceived)]
        assert [name for name, _ in got.headers] == ["x-checked"]
