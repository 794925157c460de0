"""Peers and components that lie about streams: trailers changed, ends forged or left away, frames that are none."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.sync.client import ClientConnection, unix_connect
from websockets.utils import accept_key

from dataplane_grpc import channel, path_of
from dataplane_nodes import TRUST_DOMAIN, Node, raw
from dataplane_server import RECEIPT, Peer, Reply, Request
from hopseal.custody.answering import Answer
from hopseal.custody.binding import BodySum, RollingSum, bind_trailers
from hopseal.custody.encoding import encode_b64url, sha256
from hopseal.custody.frames import FrameSum
from hopseal.custody.messages import MessageCounter
from hopseal.custody.outcome import Fin, Taken
from hopseal.custody.record import parse_sealed_record
from svid_authority import Authority
from waiting import wait_until

GRPC = [("content-type", "application/grpc")]
MESSAGE = b"\0\0\0\0\x02ok"
OK = [("grpc-status", "0"), ("grpc-message", "")]
LONG_S = 20


@contextlib.contextmanager
def calling(folder: Path, respond: Callable[[Peer, Request], Reply], **options: object) -> Iterator[Node]:
    """A node whose calls go to a peer that answers as ``respond`` says."""
    authority = Authority(TRUST_DOMAIN)
    node = Node(folder / "n", authority, settings={"streams": "accept"}).start()
    try:
        with Peer(authority, respond, **options) as peer:
            node.route(tool=peer.port)
            yield node
    finally:
        node.stop()


def summed(body: bytes) -> BodySum:
    rolling = RollingSum(MessageCounter())
    rolling.update(body)
    return rolling.sum()


def grpc_answer(
    *, sealed: list[tuple[str, str]] | None = None, sent: list[tuple[str, str]] | None = None, **claims: object
) -> Callable[[Peer, Request], Reply]:
    """A receipt made for some trailers, before others."""
    bound, sent = OK if sealed is None else sealed, OK if sent is None else sent

    def respond(peer: Peer, request: Request) -> Reply:
        body = replace(summed(MESSAGE), trailers=bind_trailers(bound))
        receipt = peer.receipt(request.record, Answer(200, GRPC, body), **claims)
        return Reply(headers=GRPC, body=MESSAGE, trailers=[*sent, (RECEIPT, receipt)], length=False)

    return respond


def unary(node: Node) -> bytes:
    with channel(node.out) as made:
        return made.unary_unary(path_of("Unary"))(b"x", timeout=LONG_S)


def test_an_honest_peer_is_believed(tmp_path: Path) -> None:
    with calling(tmp_path, grpc_answer()) as node:
        assert unary(node) == b"ok"


@pytest.mark.parametrize(
    "lie",
    [
        {"sealed": [("grpc-status", "13"), ("grpc-message", "")]},
        {"sent": [OK[1], ("grpc-status", "5")]},
        {"sealed": []},
        {"sent": [*OK, ("x-injected", "1")]},
        {"sent": [OK[0]]},
        {"messages": 2},
        {"messages": None},
        {"tlb": None},
        {"fin": Fin.ABORT},
        {"req": Taken(5, encode_b64url(sha256(b"x")))},
    ],
    ids=[
        "an error became a success",
        "a success became an error",
        "trailers that nobody bound",
        "a trailer put in",
        "a trailer taken out",
        "more messages than came",
        "messages not counted",
        "trailers not bound",
        "an end that was none",
        "a streamed request that was none",
    ],
)
def test_a_peer_that_lies_about_a_grpc_answer_is_not_believed(tmp_path: Path, lie: dict[str, object]) -> None:
    with calling(tmp_path, grpc_answer(**lie)) as node, pytest.raises(grpc.RpcError) as error:
        unary(node)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert error.value.details() in {"receipt_invalid", "answer_aborted"}


@pytest.mark.parametrize(
    "req",
    [Taken(1, encode_b64url(sha256(b"y")), 0), Taken(99, encode_b64url(sha256(b"x")), 1)],
    ids=["other bytes", "more than was sent"],
)
def test_a_peer_cannot_have_taken_what_was_not_sent(tmp_path: Path, req: Taken) -> None:
    sent = b"\0\0\0\0\x01x"
    claims = replace(req, length=len(sent)) if req.length == 1 else req
    with calling(tmp_path, grpc_answer(fin=Fin.EARLY, req=claims)) as node, channel(node.out) as made:
        replies = made.stream_stream(path_of("Chat"))(_slowly(b"x"), timeout=LONG_S)
        with pytest.raises(grpc.RpcError):
            list(replies)
        assert (replies.code(), replies.details()) == (grpc.StatusCode.UNAVAILABLE, "receipt_invalid")


def _slowly(message: bytes) -> Iterator[bytes]:
    threading.Event().wait(0.1)  # beyond what a request with one message takes
    yield message


def test_a_peer_that_says_early_of_plain_http_is_not_believed(tmp_path: Path) -> None:
    def respond(peer: Peer, request: Request) -> Reply:
        reply = Reply()
        taken = Taken(0, encode_b64url(sha256(b"")))
        return peer.placed(reply, peer.receipt(request.record, reply.answer, fin=Fin.EARLY, req=taken))

    with calling(tmp_path, respond) as node:
        got = raw(node.out, b"POST /x HTTP/1.1\r\nHost: tool.crm\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx")
        assert b"the answer" not in got
        assert b" 502 " in got


class WebSocketPeer(Peer):
    """A broker that agrees to a WebSocket and then acts as ``behave`` says."""

    def __init__(self, authority: Authority, behave: Callable[[WebSocketPeer, socket.socket, Request], None]) -> None:
        super().__init__(authority, alpn="http/1.1")
        self.behave = behave

    def _serve_h1(self, connection: socket.socket) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.recv(65536)
        lines = received.split(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        headers = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in lines)]
        record = parse_sealed_record(dict(headers)["custody-record"])
        self.head = [("upgrade", "websocket"), ("connection", "upgrade")]
        accept = accept_key(dict(headers)["sec-websocket-key"])
        lines = ["HTTP/1.1 101 Switching Protocols", *(f"{name}: {value}" for name, value in self.head)]
        connection.sendall("\r\n".join([*lines, f"sec-websocket-accept: {accept}", "", ""]).encode())
        self.behave(self, connection, Request(record, headers, b"", []))

    def end(self, request: Request, frames: bytes, **claims: object) -> bytes:
        """The trailer section with a receipt for these frames."""
        passed = FrameSum(masked=False)
        passed.update(frames)
        nothing = Taken(0, encode_b64url(sha256(b"")), 0)
        answer = Answer(101, self.head, passed.sum())
        sealed = self.receipt(request.record, answer, **{"fin": Fin.EARLY, "req": nothing, **claims})
        return f"custody-receipt: {sealed}\r\n\r\n".encode()


TEXT = b"\x81\x05hello"
CLOSE = b"\x88\x02\x03\xe8"


@contextlib.contextmanager
def websocket(
    folder: Path, behave: Callable[[WebSocketPeer, socket.socket, Request], None]
) -> Iterator[ClientConnection]:
    authority = Authority(TRUST_DOMAIN)
    node = Node(folder / "n", authority, settings={"streams": "accept"}).start()
    try:
        with WebSocketPeer(authority, behave) as peer:
            node.route(tool=peer.port)
            with unix_connect(str(node.out), "ws://tool.crm/", compression=None, close_timeout=2) as client:
                yield client
            wait_until(lambda: node.metric("calls_in_progress") == 0)
    finally:
        node.stop()


def _closing(client: ClientConnection) -> int | None:
    """Code of the Close frame that arrived after the one message; None if the connection just ended."""
    assert client.recv(LONG_S) == "hello"
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(LONG_S)
    return closed.value.rcvd.code if closed.value.rcvd else None


def _behaves(end: Callable[[WebSocketPeer, Request], bytes]) -> Callable[[WebSocketPeer, socket.socket, Request], None]:
    def behave(peer: WebSocketPeer, connection: socket.socket, request: Request) -> None:
        connection.sendall(TEXT + CLOSE + end(peer, request))
        with contextlib.suppress(OSError):
            while connection.recv(65536):
                pass

    return behave


def test_a_close_frame_with_a_true_receipt_passes(tmp_path: Path) -> None:
    with websocket(tmp_path, _behaves(lambda peer, request: peer.end(request, TEXT + CLOSE))) as client:
        assert _closing(client) == 1000


@pytest.mark.parametrize(
    "end",
    [
        lambda _peer, _request: b"",
        lambda _peer, _request: b"\r\n\r\n",
        lambda _peer, _request: b"custody-receipt: forged\r\n\r\n",
        lambda _peer, _request: b"x" * 20_000,
        lambda peer, request: peer.end(request, TEXT.replace(b"hello", b"hullo") + CLOSE),
        lambda peer, request: peer.end(request, CLOSE),
        lambda peer, request: peer.end(request, TEXT + CLOSE, messages=2),
        lambda peer, request: peer.end(request, TEXT + CLOSE, st=200),
        lambda peer, request: peer.end(request, TEXT + CLOSE, req=Taken(50, encode_b64url(sha256(b"")), 1)),
        lambda peer, request: peer.end(request, TEXT + CLOSE, fin=Fin.ABORT),
        lambda peer, request: peer.end(request, TEXT + CLOSE).replace(b"custody-receipt", b"custody-close"),
    ],
    ids=[
        "nothing",
        "an empty section",
        "a forged receipt",
        "a section without end",
        "another message",
        "a message left out",
        "another count",
        "another status",
        "more taken than sent",
        "an abort",
        "under another name",
    ],
)
def test_a_close_frame_without_a_true_receipt_never_passes(
    tmp_path: Path, end: Callable[[WebSocketPeer, Request], bytes]
) -> None:
    def behave(peer: WebSocketPeer, connection: socket.socket, request: Request) -> None:
        connection.sendall(TEXT + CLOSE + end(peer, request))

    with websocket(tmp_path, behave) as client:
        assert _closing(client) is None


def test_a_frame_put_in_on_the_way_is_seen_at_the_end(tmp_path: Path) -> None:
    def behave(peer: WebSocketPeer, connection: socket.socket, request: Request) -> None:
        connection.sendall(TEXT + TEXT + CLOSE + peer.end(request, TEXT + CLOSE))

    with websocket(tmp_path, behave) as client:
        assert client.recv(LONG_S) == "hello"
        assert _closing(client) is None


def test_a_peer_that_sends_no_frames_is_cut_before_a_byte_passes(tmp_path: Path) -> None:
    def behave(_peer: WebSocketPeer, connection: socket.socket, _request: Request) -> None:
        connection.sendall(TEXT + b"HTTP/1.1 200 OK\r\n\r\n")

    with websocket(tmp_path, behave) as client, pytest.raises(ConnectionClosedError) as closed:
        client.recv(LONG_S)
    assert closed.value.rcvd is None
