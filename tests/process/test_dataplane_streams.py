"""Request bodies that stream: flat memory, a closing statement at the end, and an error on both sides without it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import h2.connection
import h2.events
import pytest
from cryptography.hazmat.primitives.serialization import load_der_private_key

from custody_refusals import refusals_in
from dataplane_nodes import TRUST_DOMAIN, Connection, Node, call, raw, spiffe_id, statements
from dataplane_peer import Message, connected, context
from dataplane_server import Peer, honest
from hopseal.custody.answering import build_closing
from hopseal.custody.binding import BodySum, bind_request
from hopseal.custody.closing import encode_closing, parse_sealed_closing
from hopseal.custody.outcome import Fin
from hopseal.custody.receipt import parse_sealed_receipt
from hopseal.custody.record import parse_sealed_record
from hopseal.custody.seal import Signer, seal_statements
from hopseal.log.entries import Direction, RecordEntry, StatementKind
from hopseal.svid import X509Svid
from svid_authority import Authority
from waiting import wait_until

LIMIT = 100_000
SETTINGS = {"streams": "accept", "body_limit_bytes": LIMIT}
LONG = os.urandom(3 * LIMIT)
HEAD = b"POST /mcp HTTP/1.1\r\nHost: tool.crm\r\nConnection: close\r\n"
CLOSING = StatementKind.CLOSING


@dataclass
class Upload:
    """One request as the component saw it; ``whole`` once its end was there."""

    framing: str
    length: int = 0
    digest: str = ""
    whole: bool = False


class Sink:
    """A component that reads whatever comes, without keeping it, and answers with its digest."""

    def __init__(self, path: Path) -> None:
        self.path, self.uploads = path, []
        self.held = 0  # connections on which it answered without reading, and that nobody closed

    def __enter__(self) -> Self:
        sink = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError, ValueError):
                    sink.serve(self)

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

        self._server = Server(str(self.path), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self, handler: socketserver.StreamRequestHandler) -> None:
        lines = []
        while (line := handler.rfile.readline()) != b"\r\n":
            if not line:
                return
            lines.append(line)
        headers = dict(line.decode().lower().strip().split(": ", 1) for line in lines[1:])
        digest = hashlib.sha256()
        upload = Upload("chunked" if "transfer-encoding" in headers else "length")
        self.uploads.append(upload)
        if b"/early" in lines[0]:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nearly")
            return
        if b"/held" in lines[0]:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nheld")
            self.held += 1
            hung_up = select.poll()
            hung_up.register(handler.connection, select.POLLHUP)
            hung_up.poll(20_000)
            self.held -= 1
            return
        for part in _parts(handler, headers):
            digest.update(part)
            upload.length += len(part)
        upload.whole, upload.digest = True, digest.hexdigest()
        body = upload.digest.encode()
        handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 64\r\nconnection: close\r\n\r\n" + body)


def _parts(handler: socketserver.StreamRequestHandler, headers: dict[str, str]) -> Iterator[bytes]:
    """The pieces of a body; raises ValueError if it is cut."""
    if "transfer-encoding" not in headers:
        left = int(headers.get("content-length", "0"))
        while left:
            part = handler.rfile.read1(min(left, 65536))
            if not part:
                raise ValueError("cut")
            left -= len(part)
            yield part
        return
    while size := int(handler.rfile.readline(), 16):
        left = size
        while left:
            part = handler.rfile.read(min(left, 65536))
            if not part:
                raise ValueError("cut")
            left -= len(part)
            yield part
        handler.rfile.readline()
    handler.rfile.readline()


@dataclass
class Pair:
    a: Node
    b: Node
    sink: Sink


@contextlib.contextmanager
def streaming(folder: Path, **settings: object) -> Iterator[Pair]:
    authority = Authority(TRUST_DOMAIN)
    folder.mkdir(exist_ok=True)
    path = folder / "sink.sock"
    with Sink(path) as sink:
        made = {**SETTINGS, **settings}
        a = Node(folder / "a", authority, settings=made).start()
        b = Node(folder / "b", authority, caller=None, listens={"tool": path}, settings=made).start()
        a.route(tool=b.port)
        try:
            yield Pair(a, b, sink)
        finally:
            a.stop()
            b.stop()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with streaming(tmp_path) as made:
        yield made


def chunks(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def send_chunked(node: Node, *parts: bytes) -> bytes:
    return raw(node.out, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(*parts) + b"0\r\n\r\n", timeout=10)


def record_of(node: Node, direction: Direction) -> RecordEntry:
    found = [each for each in node.log().entries if isinstance(each, RecordEntry) and each.direction is direction]
    return found[-1]


def receipt_fin(node: Node) -> Fin:
    wait_until(lambda: statements(node, Direction.SENT))
    return parse_sealed_receipt(statements(node, Direction.SENT)[-1].sealed or "").claims.outcome.fin


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_long_body_streams_and_both_logs_hold_its_closing_statement(pair: Pair, framing: str) -> None:
    expected = hashlib.sha256(LONG).hexdigest()
    if framing == "length":
        assert call(pair.a, body=LONG).body.decode() == expected
    else:
        assert send_chunked(pair.a, LONG[:LIMIT], LONG[LIMIT:]).endswith(expected.encode())
    (upload,) = pair.sink.uploads
    assert (upload.framing, upload.length, upload.whole) == (framing, len(LONG), True)
    wait_until(lambda: statements(pair.b, Direction.RECEIVED, CLOSING))
    (sent,), (got,) = statements(pair.a, Direction.SENT, CLOSING), statements(pair.b, Direction.RECEIVED, CLOSING)
    assert (sent.sealed, got.accepted) == (got.sealed, True)
    closing = parse_sealed_closing(sent.sealed or "").claims
    record = parse_sealed_record(record_of(pair.a, Direction.SENT).sealed or "")
    assert (closing.rec, closing.fin, record.record.bm) == (record.hash, Fin.EOF, "stream")
    assert BodySum(closing.length, closing.cd) == BodySum.of(LONG)
    assert receipt_fin(pair.b) is Fin.EOF


def test_a_body_of_exactly_the_limit_is_bound_at_the_start(pair: Pair) -> None:
    body = LONG[:LIMIT]
    assert call(pair.a, body=body).body.decode() == hashlib.sha256(body).hexdigest()
    assert parse_sealed_record(record_of(pair.a, Direction.SENT).sealed or "").record.bm is None
    assert not statements(pair.a, Direction.SENT, CLOSING)


def test_a_body_that_does_not_end_flows_meanwhile(tmp_path: Path) -> None:
    with streaming(tmp_path, timeouts_ms={"body_read": 300}) as pair, socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(pair.a.out))
        connection.settimeout(10)
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(b"one"))
        wait_until(lambda: pair.sink.uploads and pair.sink.uploads[0].length == 3)
        connection.sendall(chunks(b"two"))
        wait_until(lambda: pair.sink.uploads[0].length == 6)
        assert not pair.sink.uploads[0].whole
        connection.sendall(b"0\r\n\r\n")
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        assert received.endswith(hashlib.sha256(b"onetwo").hexdigest().encode())


def test_an_announced_length_that_does_not_arrive_is_refused(tmp_path: Path) -> None:
    with streaming(tmp_path, timeouts_ms={"body_read": 300}) as pair:
        assert b"body_timeout" in raw(pair.a.out, HEAD + b"Content-Length: 10\r\n\r\nabc")
        assert not pair.sink.uploads


def test_a_stream_is_no_call_that_anybody_has_read(pair: Pair) -> None:
    """What a policy allows by the name of an MCP call, it allows to nobody whose call it cannot see."""
    only_lookup = """permit(principal, action, resource) when { context.protocol == "mcp" };"""
    body = b'{"jsonrpc":"2.0","method":"tools/call","params":{"name":"crm.lookup"}}'
    pair.a.plane.set_policies(only_lookup, "[]")
    assert call(pair.a, body=body).status == 200
    assert call(pair.a, body=body + b" " * LIMIT).code == "policy_denied"
    plain = """permit(principal, action, resource) when { context.protocol == "http" };"""
    pair.a.plane.set_policies(plain, "[]")
    assert call(pair.a, body=LONG).code == "policy_denied"
    assert call(pair.a, method="PUT", body=LONG).status == 200


def test_streams_can_be_refused_on_either_side(tmp_path: Path) -> None:
    with streaming(tmp_path / "a", streams="reject") as pair:
        assert call(pair.a, body=LONG).code == "body_too_large"
        assert not pair.sink.uploads
    (tmp_path / "b").mkdir()
    with streaming(tmp_path / "b") as pair:
        refusing = Node(tmp_path / "r", pair.a.authority, None, {"tool": pair.sink.path}).start()
        pair.a.route(tool=refusing.port)
        assert call(pair.a, body=LONG).code == "custody_forbidden"
        assert not pair.sink.uploads
        refusing.stop()


def test_a_peer_that_speaks_http_1_1_gets_no_stream(tmp_path: Path) -> None:
    authority = Authority(TRUST_DOMAIN)
    node = Node(tmp_path / "n", authority, settings=SETTINGS).start()
    try:
        with Peer(authority, honest, alpn="http/1.1") as peer:
            node.route(tool=peer.port)
            assert call(node, body=LONG).code == "body_too_large"
            assert call(node, body=b"short").status == 200
    finally:
        node.stop()


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_stream_that_the_caller_cuts_never_looks_whole(pair: Pair, framing: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(pair.a.out))
        head = b"Content-Length: %d" % len(LONG) if framing == "length" else b"Transfer-Encoding: chunked"
        part = LONG[: 2 * LIMIT]
        connection.sendall(HEAD + head + b"\r\n\r\n" + (part if framing == "length" else chunks(part)))
        wait_until(lambda: pair.sink.uploads and pair.sink.uploads[0].length > LIMIT)
    wait_until(lambda: statements(pair.b, Direction.RECEIVED, CLOSING))
    wait_until(lambda: statements(pair.a, Direction.SENT, CLOSING))
    (entry,) = statements(pair.b, Direction.RECEIVED, CLOSING)
    assert (entry.accepted, entry.code) == (False, "custody_missing")
    closing = parse_sealed_closing(statements(pair.a, Direction.SENT, CLOSING)[0].sealed or "").claims
    assert closing.fin is Fin.ABORT
    wait_until(lambda: pair.a.metric("calls_in_progress") == pair.b.metric("calls_in_progress") == 0)
    assert not pair.sink.uploads[0].whole


def test_an_answer_before_the_end_of_the_stream_is_none(pair: Pair) -> None:
    got = call_early(pair.a)
    assert b"early" not in got.partition(b"\r\n\r\n")[2] or b"answer_aborted" in got
    assert b"answer_aborted" in got
    assert receipt_fin(pair.b) is Fin.ABORT


def call_early(node: Node) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(node.out))
        head = HEAD.replace(b"/mcp", b"/early")
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(LONG[: 2 * LIMIT]))
        received = b""
        with contextlib.suppress(OSError):
            while chunk := connection.recv(65536):
                received += chunk
        return received


def test_what_was_answered_before_its_end_holds_nothing_open(pair: Pair) -> None:
    """Neither the caller, who does not end its streams, nor the component, which does not read them, lets go."""
    svid = pair.b.authority.issue(spiffe_id("orchestrator"))
    callers = [H2Caller(pair.b, path="/held", svid=svid) for _ in range(4)]
    state = h2.connection.H2Connection()
    state.initiate_connection()
    with connected(pair.b.port, context(svid, ("h2",))) as connection:
        connection.settimeout(10)
        for number, caller in enumerate(callers):
            state.send_headers(2 * number + 1, [*caller.head, ("custody-record", caller.sealed)])
            state.send_data(2 * number + 1, b"x")
        connection.sendall(state.data_to_send())
        wait_until(lambda: len(pair.sink.uploads) == 4)
        wait_until(lambda: pair.b.metric("calls_in_progress") == 0)
        wait_until(lambda: pair.sink.held == 0)
        wait_until(lambda: len(statements(pair.b, Direction.RECEIVED, CLOSING)) == 4)
        assert receipt_fin(pair.b) is Fin.ABORT


@contextlib.contextmanager
def begun_stream(node: Node, *, records: int) -> Iterator[None]:
    """A caller that hangs up at the end, and not before its record, the last of so many, is durable.

    Race: a caller that hangs up earlier may leave no record behind, and then there is no stream to close.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(node.out))
        # More than is buffered, and less than fills the socket while nobody reads the rest.
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(LONG[: LIMIT + 1]))

        def is_durable() -> bool:
            sent = [each.n for each in node.log().entries if isinstance(each, RecordEntry)]
            return len(sent) == records and node.plane.log_durable() > sent[-1]

        wait_until(is_durable)
        yield


def test_a_peer_that_reads_nothing_holds_no_call_and_no_memory(tmp_path: Path) -> None:
    """Its windows stay closed and its connection open. That the component hung up, nobody could see."""
    limits = {"limits": {"buffered_bytes": 2 * LIMIT}, "timeouts_ms": {"body_read": 300}}
    node = Node(tmp_path / "a", Authority(TRUST_DOMAIN), settings={**SETTINGS, **limits})
    with Peer(node.authority, reads=False) as peer:
        node.start()
        try:
            node.route(tool=peer.port)
            assert [call(node, body=LONG).code for _ in range(4)] == ["peer_timeout"] * 4
            with begun_stream(node, records=5):
                pass
            wait_until(lambda: node.metric("calls_in_progress") == 0)
            wait_until(lambda: len(statements(node, Direction.SENT, CLOSING)) >= 5)
            fins = [
                parse_sealed_closing(each.sealed or "").claims.fin for each in statements(node, Direction.SENT, CLOSING)
            ]
            assert fins == [Fin.ABORT] * 5
        finally:
            node.stop()


def test_a_component_may_pause_longer_than_a_peer_may(tmp_path: Path) -> None:
    with streaming(tmp_path, timeouts_ms={"body_read": 300}) as pair, socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(pair.a.out))
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(LONG))
        time.sleep(1)
        connection.sendall(chunks(b"x") + b"0\r\n\r\n")
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        assert hashlib.sha256(LONG + b"x").hexdigest().encode() in received


class H2Caller:
    """A peer that streams a request over HTTP/2 and ends it as a test says."""

    def __init__(self, node: Node, *, path: str = "/mcp", svid: X509Svid | None = None) -> None:
        self.node = node
        self.svid = svid or node.authority.issue(spiffe_id("orchestrator"))
        self.head = [(":method", "POST"), (":path", path), (":scheme", "https"), (":authority", "tool.crm")]
        message = Message(self.svid, path=path, body=b"")
        rqb = bind_request("POST", f"https://tool.crm{path}", [], b"")
        self.sealed = message.changed_stream(rqb).sealed()
        self.record = parse_sealed_record(self.sealed)

    def closing(self, body: bytes, svid: X509Svid | None = None, **claims: object) -> str:
        closing = build_closing(self.record, BodySum.of(body), Fin.EOF, iat=int(time.time()), jti="A" * 22)
        svid = svid or self.svid
        signer = Signer(svid.chain_der[0], load_der_private_key(svid.key_pkcs8, None))
        return seal_statements([encode_closing(replace(closing, **claims))], signer)[0]

    def call(self, body: bytes, trailers: list[tuple[str, str]] | None, *, reset: bool = False) -> tuple[int, bytes]:
        state = h2.connection.H2Connection()
        state.initiate_connection()
        with connected(self.node.port, context(self.svid, ("h2",))) as connection:
            connection.settimeout(10)
            state.send_headers(1, [*self.head, ("custody-record", self.sealed)])
            connection.sendall(state.data_to_send())
            for start in range(0, len(body), 16_384):
                state.send_data(1, body[start : start + 16_384])
                connection.sendall(state.data_to_send())
            if reset:
                wait_until(lambda: self.node.metric("calls_in_progress") == 1)
                time.sleep(0.1)
                state.reset_stream(1)
            elif trailers:
                state.send_headers(1, trailers, end_stream=True)
            else:
                state.end_stream(1)
            connection.sendall(state.data_to_send())
            return self._answer(connection, state) if not reset else (0, b"")

    def _answer(self, connection: socket.socket, state: h2.connection.H2Connection) -> tuple[int, bytes]:
        status, body = 0, b""
        while data := connection.recv(65536):
            for event in state.receive_data(data):
                match event:
                    case h2.events.ResponseReceived():
                        status = int(dict(event.headers)[b":status"])
                    case h2.events.DataReceived():
                        body += event.data
                    case h2.events.StreamEnded() | h2.events.StreamReset():
                        return status, body
            connection.sendall(state.data_to_send())
        return status, body


BODY = LONG[:50_000]
LIES: dict[str, Callable[[H2Caller], list[tuple[str, str]] | None]] = {
    "custody_missing": lambda _: None,
    "custody_duplicate": lambda c: [("custody-close", c.closing(BODY))] * 2,
    "custody_malformed": lambda _: [("custody-close", "a.b.c.d.e")],
    "custody_malformed a record": lambda c: [("custody-close", c.sealed)],
    "custody_binding another body": lambda c: [("custody-close", c.closing(BODY[:-1] + b"x"))],
    "custody_binding length": lambda c: [("custody-close", c.closing(BODY, length=3))],
    "custody_chain": lambda c: [("custody-close", c.closing(BODY, rec="A" * 43))],
    "custody_identity": lambda c: [
        ("custody-close", c.closing(BODY, iss=c.record.record.iss.parse(spiffe_id("tool"))))
    ],
    "custody_unresolved": lambda c: [
        ("custody-close", c.closing(BODY, c.node.authority.issue(spiffe_id("orchestrator"))))
    ],
    "custody_missing aborted": lambda c: [("custody-close", c.closing(BODY, fin=Fin.ABORT))],
}


def test_a_stream_of_the_other_implementation_is_accepted(pair: Pair) -> None:
    caller = H2Caller(pair.b)
    status, body = caller.call(BODY, [("custody-close", caller.closing(BODY))])
    assert (status, body.decode()) == (200, hashlib.sha256(BODY).hexdigest())


@pytest.mark.parametrize("name", LIES)
def test_a_stream_without_a_true_closing_statement_never_looks_whole(pair: Pair, name: str) -> None:
    caller = H2Caller(pair.b)
    status, body = caller.call(BODY, LIES[name](caller))
    assert status == 0 or status >= 400, status  # 0: the stream was reset before there was an answer
    assert hashlib.sha256(BODY).hexdigest().encode() not in body
    (entry,) = statements(pair.b, Direction.RECEIVED, CLOSING)
    assert (entry.accepted, entry.code) == (False, name.split(maxsplit=1)[0])
    assert refusals_in(pair.b.log_dir)[0].n == entry.n
    assert receipt_fin(pair.b) is Fin.ABORT
    wait_until(lambda: pair.b.metric("calls_in_progress") == 0)
    assert not any(upload.whole for upload in pair.sink.uploads)


def test_a_stream_that_is_reset_is_logged_as_cut(pair: Pair) -> None:
    H2Caller(pair.b).call(BODY, None, reset=True)
    wait_until(lambda: statements(pair.b, Direction.RECEIVED, CLOSING))
    (entry,) = statements(pair.b, Direction.RECEIVED, CLOSING)
    assert (entry.accepted, entry.code, entry.sealed) == (False, "custody_missing", None)
    assert not any(upload.whole for upload in pair.sink.uploads)


def test_a_stream_over_http_1_1_is_refused(pair: Pair) -> None:
    """There are no trailers that a closing statement could stand in."""
    svid = pair.b.authority.issue(spiffe_id("orchestrator"))
    message = Message(svid, body=b"")
    message = message.changed_stream(bind_request("POST", "https://tool.crm/mcp", [], b""))
    request = message.wire().replace(b"content-length: 0", b"content-length: 2") + b"{}"
    with connected(pair.b.port, context(svid)) as connection:
        connection.sendall(request)
        assert b"custody_forbidden" in connection.recv(65536)
    assert not pair.sink.uploads


def test_memory_stays_flat_while_a_body_of_256_mib_streams(tmp_path: Path) -> None:
    """Both data planes, the component and the caller are this process: its growth bounds all of them."""
    size = 256 << 20
    piece = os.urandom(1 << 20)
    with streaming(tmp_path) as pair:
        assert call(pair.a, body=LONG).status == 200
        before, peak = resident(), [0]
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.05):
                peak[0] = max(peak[0], resident())

        watcher = threading.Thread(target=watch)
        watcher.start()
        connection = Connection(pair.a.out, timeout=300)
        connection.putrequest("POST", "/mcp", skip_host=True)
        connection.putheader("Host", "tool.crm")
        connection.putheader("Content-Length", str(size))
        connection.endheaders()
        digest = hashlib.sha256()
        for _ in range(size // len(piece)):
            connection.send(piece)
            digest.update(piece)
        body = connection.getresponse().read()
        connection.close()
        done.set()
        watcher.join()
        assert body.decode() == digest.hexdigest()
        assert peak[0] - before < 64 << 20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
