"""A peer of the data plane's mTLS port that says whatever a test wants it to say."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import tempfile
import time
from dataclasses import dataclass, field, replace

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from dataplane_nodes import Answer, exchange, spiffe_id
from hopseal.custody.authority import Authority as Ceiling
from hopseal.custody.binding import bind_request, content_digest
from hopseal.custody.delegation import Task
from hopseal.custody.record import Record, encode_record
from hopseal.custody.seal import Signer, seal_statements
from hopseal.custody.sender import Call, build_root, random_id
from hopseal.ids import SpiffeId
from hopseal.svid import X509Svid

SNI = "tool.crm.hopseal.invalid"
TARGET = "https://tool.crm/mcp"


def fresh_id() -> str:
    return random_id(os.urandom(16))


@dataclass
class Message:
    """A valid root call of the orchestrator to the tool, before a test spoils it."""

    svid: X509Svid
    method: str = "POST"
    path: str = "/mcp"
    body: bytes = b"{}"
    headers: list[tuple[str, str]] = field(default_factory=list)
    record: Record | None = None

    def __post_init__(self) -> None:
        now = int(time.time())
        digest = [("content-digest", content_digest(self.body))] if self.body else []
        self.headers = [*digest, *self.headers]
        call = Call(
            iss=SpiffeId.parse(spiffe_id("orchestrator")),
            aud=spiffe_id("tool"),
            iat=now,
            jti=fresh_id(),
            rqb=bind_request(self.method, TARGET, self.headers, self.body),
            operations=("POST /mcp",),
        )
        task, auth = Task(id="t"), Ceiling(exp=now + 600, hops=7)
        self.record = self.record or build_root(call, cid=fresh_id(), task=task, auth=auth)

    def changed(self, **claims: object) -> Message:
        """The same with other claims, sealed anew."""
        return replace(self, headers=self.headers[1:], record=replace(self.record, **claims))

    def changed_stream(self, rqb: str) -> Message:
        """The same with a record whose body streams."""
        assert self.record is not None
        return replace(self, record=replace(self.record, rqb=rqb, bm="stream"))

    def sealed(self, svid: X509Svid | None = None) -> str:
        svid = svid or self.svid
        signer = Signer(svid.chain_der[0], load_der_private_key(svid.key_pkcs8, None))
        assert self.record is not None
        return seal_statements([encode_record(self.record)], signer)[0]

    def wire(self, *, sealed: str | None = None, extra: list[tuple[str, str]] | None = None) -> bytes:
        fields = [("host", "ignored"), *self.headers, ("custody-record", sealed or self.sealed()), *(extra or [])]
        return http_request(self.method, self.path, fields, self.body)


def http_request(method: str, path: str, headers: list[tuple[str, str]], body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    lines += [f"content-length: {len(body)}", "connection: close"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def load_svid(into: ssl.SSLContext, svid: X509Svid) -> None:
    """Let ``into`` prove that it is ``svid``'s owner."""
    key = load_der_private_key(svid.key_pkcs8, None)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain = b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in svid.chain_der)
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem + chain)
        file.flush()
        into.load_cert_chain(file.name)


def context(svid: X509Svid | None, alpn: tuple[str, ...] = ("http/1.1",)) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.set_alpn_protocols(list(alpn))
    if svid is not None:
        load_svid(made, svid)
    return made


@contextlib.contextmanager
def connected(port: int, tls: ssl.SSLContext, sni: str | None = SNI):
    """A TLS connection to the peer port."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as tcp,
        tls.wrap_socket(tcp, server_hostname=sni, do_handshake_on_connect=False) as wrapped,
    ):
        wrapped.do_handshake()
        yield wrapped


def send(port: int, svid: X509Svid | None, data: bytes, sni: str | None = SNI) -> Answer | None:
    """What the peer port answers to ``data``; None if it closes without an answer."""
    try:
        with connected(port, context(svid), sni) as connection:
            received = exchange(connection, data)
    except OSError:
        return None
    if not received:
        return None
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return Answer(int(status.split()[1]), headers, body)
