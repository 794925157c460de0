"""WebSockets through two brokers: what passes, how each direction ends, and every way in which one is cut."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, unix_connect
from websockets.sync.server import ServerConnection, unix_serve

from dataplane_nodes import TRUST_DOMAIN, Connection, Node, call, raw, statements
from hopseal.custody.closing import Closing, parse_sealed_closing
from hopseal.custody.encoding import encode_b64url
from hopseal.custody.outcome import Fin, Outcome
from hopseal.custody.receipt import parse_sealed_receipt
from hopseal.custody.record import Record, parse_sealed_record
from hopseal.custody.segment import Segment
from hopseal.custody.statement import parse_sealed_statement
from hopseal.log.entries import Direction, RecordEntry, StatementEntry, StatementKind
from svid_authority import Authority
from waiting import wait_until

CLOSING, SEGMENT = StatementKind.CLOSING, StatementKind.SEGMENT
LONG_S = 20
HEAD = (
    b"GET /chat HTTP/1.1\r\nHost: tool.crm\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@dataclass
class Server:
    """A WebSocket server on a Unix socket; the path says what it does."""

    path: Path
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    got: list[str | bytes] = field(default_factory=list)
    ends: list[ConnectionClosed | None] = field(default_factory=list)  # how each connection ended for the handler
    release: threading.Event = field(default_factory=threading.Event)

    def serve(self, connection: ServerConnection) -> None:
        request = connection.request
        assert request is not None
        self.paths.append(request.path)
        self.headers.append({name.lower(): value for name, value in request.headers.raw_items()})
        try:
            self._act(connection, request.path)
            self.ends.append(None)
        except ConnectionClosed as closed:
            self.ends.append(closed)

    def _act(self, connection: ServerConnection, path: str) -> None:
        if path == "/closes":
            connection.send("bye")
            connection.close(4001, "done")
        elif path == "/dies":
            connection.send("about to")
            connection.socket.shutdown(socket.SHUT_RDWR)
        elif path == "/floods":
            while not self.release.is_set():
                connection.send(b"x" * 65536)
        elif path == "/deaf":
            self.release.wait(LONG_S)
        else:
            while True:
                message = connection.recv()
                self.got.append(message)
                connection.send(message)


@contextlib.contextmanager
def serving(path: Path) -> Iterator[Server]:
    made = Server(path)
    with unix_serve(
        made.serve,
        str(path),
        select_subprotocol=lambda _, offered: "chat" if "chat" in offered else None,
        process_request=lambda connection, request: (
            connection.respond(401, "no\n") if request.path == "/refused" else None
        ),
        max_size=1 << 22,
        close_timeout=2,
    ) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield made
        finally:
            made.release.set()
            server.shutdown()
            thread.join()


@dataclass
class Pair:
    a: Node
    b: Node
    server: Server

    def connect(self, path: str = "/chat", **options: object) -> ClientConnection:
        given = {"close_timeout": 3, "open_timeout": LONG_S, "max_size": 1 << 22, **options}
        return unix_connect(str(self.a.out), f"ws://tool.crm{path}", **given)

    def record(self, node: Node | None = None) -> Record:
        entries = [each for each in (node or self.b).log().entries if isinstance(each, RecordEntry)]
        return parse_sealed_record(entries[-1].sealed or "").record

    def receipt(self) -> Outcome:
        wait_until(lambda: statements(self.b, Direction.SENT), what="a receipt")
        return parse_sealed_receipt(statements(self.b, Direction.SENT)[-1].sealed or "").claims.outcome

    def closing(self) -> Closing:
        wait_until(lambda: statements(self.a, Direction.SENT, CLOSING), what="a closing statement")
        return parse_sealed_closing(statements(self.a, Direction.SENT, CLOSING)[-1].sealed or "").claims

    def settled(self) -> None:
        wait_until(lambda: self.a.metric("calls_in_progress") == self.b.metric("calls_in_progress") == 0)

    def ended(self) -> ConnectionClosed | None:
        wait_until(lambda: self.server.ends, what="the server's handler ends")
        return self.server.ends[-1]


@contextlib.contextmanager
def nodes(folder: Path, *, h2: bool = False, **settings: object) -> Iterator[Pair]:
    folder.mkdir(exist_ok=True)
    authority, path = Authority(TRUST_DOMAIN), folder / "tool.sock"
    made = {"streams": "accept", **settings}
    with serving(path) as server:
        a = Node(folder / "a", authority, settings=made).start()
        b = Node(folder / "b", authority, None, {"tool": path}, made).start()
        a.route(tool=b.port)
        try:
            if h2:  # a shared connection is open, and its peer has said what it takes
                assert call(a, method="GET", body=b"").status == 426
                time.sleep(0.1)
            yield Pair(a, b, server)
        finally:
            a.stop()
            b.stop()


@pytest.fixture(params=["h1", "h2"])
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    """By a connection of its own, and by extended CONNECT on a shared one."""
    with nodes(tmp_path, h2=request.param == "h2") as made:
        yield made


def frames_sum(*frames: tuple[int, bytes]) -> tuple[int, str]:
    """Length and digest of whole frames with these first bytes."""
    text = b"".join(bytes([first]) + len(payload).to_bytes(8) + payload for first, payload in frames)
    return len(text), encode_b64url(hashlib.sha256(text).digest())


def test_messages_pass_both_ways_and_both_logs_hold_what_they_came_to(pair: Pair) -> None:
    with pair.connect(compression=None, subprotocols=["chat"]) as client:
        assert client.subprotocol == "chat"
        for message in ("hello", b"\0\1", "x" * 70_000):
            client.send(message)
            assert client.recv(LONG_S) == message
        client.close(1000, "")
        assert client.close_code == 1000
    assert pair.server.got == ["hello", b"\0\1", "x" * 70_000]
    assert pair.ended() is not None
    assert pair.ended().rcvd.code == 1000
    (seen,) = [each for path, each in zip(pair.server.paths, pair.server.headers, strict=True) if path == "/chat"]
    assert "custody-handle" in seen
    assert not [name for name in seen if name.startswith("custody-") and name != "custody-handle"]
    said = [(0x81, b"hello"), (0x82, b"\0\1"), (0x81, b"x" * 70_000), (0x88, b"\x03\xe8")]
    closing, receipt = pair.closing(), pair.receipt()
    assert (closing.fin, closing.messages, (closing.length, closing.cd)) == (Fin.EOF, 3, frames_sum(*said))
    assert (receipt.messages, (receipt.length, receipt.cd)) == (3, frames_sum(*said))
    assert receipt.fin in {Fin.EOF, Fin.EARLY}
    assert (pair.record().bm, pair.record().op) == ("stream", "GET /chat")
    for direction, node, kind in (
        (Direction.RECEIVED, pair.a, StatementKind.RECEIPT),
        (Direction.RECEIVED, pair.b, CLOSING),
    ):
        wait_until(lambda node=node, direction=direction, kind=kind: statements(node, direction, kind))
        assert all(each.accepted for each in statements(node, direction, kind))
    pair.settled()


def test_a_server_that_closes_first_waits_for_nobody_and_its_reason_arrives(pair: Pair) -> None:
    with pair.connect("/closes") as client:
        assert client.recv(LONG_S) == "bye"
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(LONG_S)
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "done")
    receipt, closing = pair.receipt(), pair.closing()
    assert (receipt.fin, receipt.messages, closing.fin) == (Fin.EARLY, 1, Fin.EOF)
    assert receipt.req is not None
    assert receipt.req.length <= closing.length
    pair.settled()


def test_compressed_messages_and_pings_pass_as_they_are(pair: Pair) -> None:
    with pair.connect() as client:
        assert client.protocol.extensions
        client.send("a" * 10_000)
        assert client.recv(LONG_S) == "a" * 10_000
        assert client.ping(b"now").wait(LONG_S)
    assert pair.closing().messages == 1
    assert pair.closing().length < 1_000


def test_a_refusal_by_the_server_is_an_answer_like_any_other(pair: Pair) -> None:
    with pytest.raises(InvalidStatus) as refused:
        pair.connect("/refused")
    assert refused.value.response.status_code == 401
    assert pair.receipt().fin is Fin.EARLY
    pair.settled()


def test_policy_names_websockets_by_protocol_and_refuses_them_on_either_side(pair: Pair) -> None:
    only = """permit(principal, action, resource)
        when { context.protocol == "websocket" && context.http == "GET /chat" };"""
    for node in (pair.a, pair.b):
        node.plane.set_policies(only, "[]")
    with pair.connect() as client:
        client.send("x")
        assert client.recv(LONG_S) == "x"
    with pytest.raises(InvalidStatus) as refused:
        pair.connect("/other")
    assert refused.value.response.status_code == 403
    pair.a.plane.set_policies("permit(principal, action, resource);", "[]")
    with pytest.raises(InvalidStatus) as refused:
        pair.connect("/other")
    assert json.loads(refused.value.response.body)["code"] == "custody_forbidden"
    assert "/other" not in pair.server.paths


@pytest.mark.parametrize("who", ["client", "server"])
def test_an_end_that_hangs_up_is_an_error_at_the_other(pair: Pair, who: str) -> None:
    with pair.connect("/chat" if who == "client" else "/dies") as client:
        if who == "client":
            client.send("x")
            assert client.recv(LONG_S) == "x"
            client.socket.shutdown(socket.SHUT_RDWR)
            closed = pair.ended()
        else:
            assert client.recv(LONG_S) == "about to"
            with pytest.raises(ConnectionClosedError) as caught:
                client.recv(LONG_S)
            closed = caught.value
    assert closed is not None
    assert closed.rcvd is None  # no Close frame: 1006
    assert (pair.closing().fin, pair.receipt().fin) == (Fin.ABORT, Fin.ABORT)
    wait_until(lambda: statements(pair.b, Direction.RECEIVED, CLOSING))
    assert statements(pair.b, Direction.RECEIVED, CLOSING)[0].code == "custody_missing"
    pair.settled()


@pytest.mark.parametrize("name", ["orchestrator", "tool"])
def test_a_withdrawn_end_closes_the_websocket_within_a_second(pair: Pair, name: str) -> None:
    with pair.connect() as client:
        client.send("x")
        assert client.recv(LONG_S) == "x"
        began = time.monotonic()
        (pair.a if name == "orchestrator" else pair.b).withdraw(name)
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(LONG_S)
        assert closed.value.rcvd is None
        assert pair.ended() is not None
        assert time.monotonic() - began < 1
    pair.settled()


def test_a_policy_that_no_longer_allows_it_closes_it(pair: Pair) -> None:
    with pair.connect() as client:
        client.send("x")
        assert client.recv(LONG_S) == "x"
        pair.b.plane.set_policies("", "[]")
        with pytest.raises(ConnectionClosedError):
            client.recv(LONG_S)
    assert pair.b.wait_for_call(direction="in", code="policy_revoked")["complete"] is False


def test_a_silent_websocket_is_cut_and_a_talking_one_is_not(tmp_path: Path) -> None:
    with nodes(tmp_path, timeouts_ms={"stream_idle": 800}) as pair, pair.connect(ping_interval=None) as client:
        for _ in range(4):
            time.sleep(0.4)
            client.send("x")
            assert client.recv(LONG_S) == "x"
        with pytest.raises(ConnectionClosedError):
            client.recv(LONG_S)
        pair.settled()
        wait_until(lambda: {"stream_idle"} & {each["code"] for node in (pair.a, pair.b) for each in node.of("call")})


def test_a_websocket_that_lasts_too_long_is_cut(tmp_path: Path) -> None:
    with nodes(tmp_path, timeouts_ms={"stream_lifetime": 700}) as pair, pair.connect() as client:
        with pytest.raises(ConnectionClosedError):
            _talk(client)
        pair.settled()


def _talk(client: ClientConnection) -> None:
    while True:
        client.send("x")
        client.recv(LONG_S)


def test_a_reader_that_takes_nothing_holds_the_server_back(tmp_path: Path) -> None:
    with nodes(tmp_path, timeouts_ms={"stream_idle": 1_500}) as pair:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(pair.a.out))
            connection.sendall(HEAD.replace(b"/chat", b"/floods") + b"\r\n")
            before = _resident()
            wait_until(lambda: "/floods" in pair.server.paths)
            time.sleep(1)
            assert _resident() - before < 64 << 20
            assert pair.ended() is not None  # it stood still both ways
        pair.settled()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_long_websockets_leave_segments_in_both_logs(tmp_path: Path) -> None:
    with nodes(tmp_path) as pair:
        with pair.connect(compression=None) as client:
            for number in range(1_050):
                client.send(str(number))
                assert client.recv(LONG_S) == str(number)
        pair.settled()
        for node, name in ((pair.a, "orchestrator"), (pair.b, "tool")):
            wait_until(lambda node=node: statements(node, Direction.SENT, SEGMENT), what="a segment")
            found = [_segment(each) for each in statements(node, Direction.SENT, SEGMENT)]
            assert str(found[0].iss).endswith(f"/{name}")
            assert (found[0].seq, found[0].rec) == (0, pair.closing().rec)
            assert max(found[0].up.messages or 0, found[0].down.messages or 0) >= 1_000
            assert found[-1].up.length <= pair.closing().length


def _segment(entry: StatementEntry) -> Segment:
    segment = parse_sealed_statement(entry.sealed or "").claims
    assert isinstance(segment, Segment)
    return segment


@pytest.mark.parametrize(
    "frame",
    [
        b"\x81\x01x",  # without a mask
        b"\x83\x80\0\0\0\0",  # a reserved opcode
        b"\x09\x80\0\0\0\0",  # a ping in pieces
        b"\x81\xfe\0\x01\0\0\0\0x",  # a length that is longer than it need be
        b"\x80\x80\0\0\0\0",  # goes on with nothing
    ],
)
def test_what_is_no_frame_never_reaches_the_server(tmp_path: Path, frame: bytes) -> None:
    with nodes(tmp_path) as pair, socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(LONG_S)
        connection.connect(str(pair.a.out))
        connection.sendall(HEAD + b"\r\n")
        assert b"101" in connection.recv(65536)
        connection.sendall(frame)
        with contextlib.suppress(ConnectionError):
            assert connection.recv(65536) == b""
        assert pair.ended() is not None
        assert pair.server.got == []
        assert pair.a.wait_for_call(direction="out", code="websocket_invalid")["complete"] is False


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((b"Upgrade: websocket", b"Upgrade: h2c"), b"501"),
        ((b"Connection: Upgrade", b"Connection: keep-alive"), b"501"),
        ((b"Version: 13", b"Version: 8"), b"400"),
        ((b"GET", b"POST"), b"501"),
        ((b"jZQ==", b"jZQ"), b"400"),
        ((b"Host:", b"Content-Length: 3\r\nHost:"), b"400"),
    ],
)
def test_half_a_wish_for_a_websocket_is_refused(tmp_path: Path, change: tuple[bytes, bytes], status: bytes) -> None:
    with nodes(tmp_path) as pair:
        assert raw(pair.a.out, HEAD.replace(*change) + b"Connection: close\r\n\r\n")[9:12] == status
        assert pair.server.paths == []


def test_websockets_need_streams_on_both_sides(tmp_path: Path) -> None:
    with nodes(tmp_path / "x", streams="reject") as pair, pytest.raises(InvalidStatus) as refused:
        pair.connect()
    assert json.loads(refused.value.response.body)["code"] == "streams_refused"
    with nodes(tmp_path / "y") as pair:
        other = Node(tmp_path / "o", pair.a.authority, None, {"tool": pair.server.path}).start()
        pair.a.route(tool=other.port)
        with pytest.raises(InvalidStatus) as refused:
            pair.connect()
        assert json.loads(refused.value.response.body)["code"] == "streams_refused"
        assert pair.server.paths == []
        other.stop()


def test_calls_and_websockets_share_the_way(pair: Pair) -> None:
    with pair.connect() as client:
        connection = Connection(pair.a.out)
        connection.request("GET", "/plain", headers={"Host": "tool.crm"})
        assert connection.getresponse().status == 426  # the server speaks WebSocket only, and says so
        connection.close()
        client.send("still here")
        assert client.recv(LONG_S) == "still here"
