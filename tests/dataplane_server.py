"""A peer that answers the data plane's calls with whatever a test wants: receipts, forged ones, none."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
from cryptography.hazmat.primitives.serialization import load_der_private_key

from dataplane_nodes import spiffe_id
from dataplane_peer import load_svid
from hopseal.custody.answering import Answer, build_receipt
from hopseal.custody.binding import BodySum, Header
from hopseal.custody.receipt import encode_receipt
from hopseal.custody.record import SealedRecord, parse_sealed_record
from hopseal.custody.seal import Signer, seal_statements
from hopseal.custody.sender import random_id
from hopseal.svid import X509Svid
from svid_authority import Authority

RECEIPT = "custody-receipt"
PLAIN = [("content-type", "text/plain")]


@dataclass(frozen=True)
class Request:
    """One request as it came over the wire."""

    record: SealedRecord | None
    headers: list[Header]
    body: bytes
    trailers: list[Header]


@dataclass(frozen=True)
class Reply:
    """What to answer; ``length`` announces the length, ``cut`` leaves the end away, ``stall`` never comes to it.

    ``refused`` resets the stream as one that nobody looked at.
    """

    status: int = 200
    headers: Sequence[Header] = field(default_factory=lambda: list(PLAIN))
    body: bytes = b"the answer"
    trailers: Sequence[Header] = ()
    length: bool = True
    cut: bool = False
    stall: bool = False
    refused: bool = False

    @property
    def answer(self) -> Answer:
        return Answer(self.status, self.headers, BodySum.of(self.body))


Respond = Callable[["Peer", Request], Reply]


def honest(peer: Peer, request: Request, reply: Reply | None = None) -> Reply:
    """``reply`` with its receipt, at the end over HTTP/2 and in the head over HTTP/1.1."""
    reply = reply or Reply()
    return peer.placed(reply, peer.receipt(request.record, reply.answer))


class Peer:
    """A server on a port of its own, by default the tool's."""

    def __init__(
        self,
        authority: Authority,
        respond: Respond = honest,
        *,
        alpn: str = "h2",
        name: str = "tool",
        tls: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        reads: bool = True,
    ) -> None:
        self.authority, self.respond, self.alpn, self.tls, self.reads = authority, respond, alpn, tls, reads
        self.svid = authority.issue(spiffe_id(name))
        self.requests: list[Request] = []

    def __enter__(self) -> Self:
        self._context = self._tls()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _tls(self) -> ssl.SSLContext:
        return _server_context(self.svid, self.alpn, self.tls)

    def _serve(self, connection: ssl.SSLSocket) -> None:
        """Look at a connection before anything comes over it."""

    def receipt(self, record: SealedRecord, answer: Answer, svid: X509Svid | None = None, **claims: object) -> str:
        """A sealed receipt; ``claims`` replace those that are right."""
        receipt = build_receipt(record, answer, iat=int(time.time()), jti=random_id(os.urandom(16)))
        receipt = replace(receipt, outcome=replace(receipt.outcome, **claims))
        svid = svid or self.svid
        signer = Signer(svid.chain_der[0], load_der_private_key(svid.key_pkcs8, None))
        return seal_statements([encode_receipt(receipt)], signer)[0]

    @staticmethod
    def element(svid: X509Svid) -> str:
        """The leaf as it stands in ``Custody-Certs``."""
        return f":{base64.b64encode(svid.chain_der[0]).decode()}:"

    def placed(self, reply: Reply, sealed: str) -> Reply:
        if self.alpn == "h2":
            return replace(reply, trailers=[(RECEIPT, sealed)])
        return replace(reply, headers=[*reply.headers, (RECEIPT, sealed)])

    def _accept(self) -> None:
        serve = self._serve_h2 if self.alpn == "h2" else self._serve_h1
        with contextlib.suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                self._connections.append(plain)
                threading.Thread(target=self._run, args=(serve, plain), daemon=True).start()

    def _run(self, serve: Callable[[ssl.SSLSocket], None], plain: socket.socket) -> None:
        with contextlib.suppress(OSError), self._context.wrap_socket(plain, server_side=True) as connection:
            self._serve(connection)
            serve(connection)

    def _answer(self, headers: list[Header], body: bytes, trailers: list[Header]) -> Reply:
        record = next(value for name, value in headers if name == "custody-record")
        request = Request(parse_sealed_record(record), headers, body, trailers)
        self.requests.append(request)
        return self.respond(self, request)

    def _serve_h1(self, connection: ssl.SSLSocket) -> None:
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
            head, end, body = received.partition(b"\r\n\r\n")
            headers = _header_lines(head)
            if not end or len(body) < int(dict(headers).get("content-length", "0")):
                continue
            received = b""
            reply = self._answer(headers, body, [])
            connection.sendall(_h1_bytes(reply))
            if reply.cut:
                return

    def _serve_h2(self, connection: ssl.SSLSocket) -> None:
        state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="ascii"))
        state.initiate_connection()
        if not self.reads:
            state.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
        connection.sendall(state.data_to_send())
        arriving: dict[int, tuple[list[Header], bytearray, list[Header]]] = {}
        while data := connection.recv(65536):
            for event in state.receive_data(data):
                match event:
                    case h2.events.RequestReceived():
                        arriving[event.stream_id] = (list(event.headers), bytearray(), [])
                    case h2.events.DataReceived():
                        arriving[event.stream_id][1].extend(event.data)
                        state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    case h2.events.TrailersReceived():
                        arriving[event.stream_id][2].extend(event.headers)
                    case h2.events.StreamEnded():
                        headers, body, trailers = arriving.pop(event.stream_id)
                        reply = self._answer(headers, bytes(body), trailers)
                        _send_h2(connection, state, event.stream_id, reply)
            connection.sendall(state.data_to_send())


def _send_h2(connection: ssl.SSLSocket, state: h2.connection.H2Connection, stream: int, reply: Reply) -> None:
    if reply.refused:
        state.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
        return
    length = [("content-length", str(len(reply.body)))] if reply.length else []
    state.send_headers(stream, [(":status", str(reply.status)), *reply.headers, *length])
    connection.sendall(state.data_to_send())
    body = reply.body[: len(reply.body) // 2] if reply.cut else reply.body
    # The data plane's windows are larger than what tests send.
    for start in range(0, len(body), state.max_outbound_frame_size):
        state.send_data(stream, body[start : start + state.max_outbound_frame_size])
        connection.sendall(state.data_to_send())
    if reply.stall:
        return
    if reply.cut:
        state.reset_stream(stream)
    elif reply.trailers:
        state.send_headers(stream, list(reply.trailers), end_stream=True)
    else:
        state.end_stream(stream)


def _h1_bytes(reply: Reply) -> bytes:
    headers = list(reply.headers)
    headers.append(("content-length", str(len(reply.body))) if reply.length else ("transfer-encoding", "chunked"))
    lines = [f"HTTP/1.1 {reply.status} X", *(f"{name}: {value}" for name, value in headers)]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode()
    if reply.length:
        return head + (reply.body[: len(reply.body) // 2] if reply.cut else reply.body)
    chunk = b"%x\r\n%s\r\n" % (len(reply.body), reply.body)
    trailers = "".join(f"{name}: {value}\r\n" for name, value in reply.trailers).encode()
    return head + chunk + (b"" if reply.cut else b"0\r\n" + trailers + b"\r\n")


def _header_lines(head: bytes) -> list[Header]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]


def _server_context(svid: X509Svid, alpn: str, version: ssl.TLSVersion) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = made.maximum_version = version
    made.set_alpn_protocols([alpn])
    load_svid(made, svid)
    return made
