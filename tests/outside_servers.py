"""Servers that know nothing of custody: services outside, and SPIFFE peers that are not Hopseal."""

from __future__ import annotations

import datetime as dt
import json
import socket
import socketserver
import ssl
import tempfile
import threading
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from dataplane_nodes import NAMES, Node, spiffe_id
from dataplane_peer import load_svid
from dataplane_server import Peer, Reply, Request, Respond
from hopseal.custody.binding import Header
from svid_authority import Authority


def describe(node: Node, outside: dict[str, dict], *, may_start: tuple[str, ...] = ("orchestrator",)) -> None:
    """Tell ``node`` its components, with what each document says of parties without custody."""
    described = [
        {
            "component": f"crm/{name}",
            "agent": "crm",
            "name": name,
            "spiffe_id": spiffe_id(name),
            "listen": str(node.listens[name]) if name in node.listens else None,
            "listen_host": None,
            "listen_protocol": node.protocol,
            "may_start": name in may_start,
            "brokered": outside.get(name, {}).pop("brokered", True),
            "outside": outside.get(name, {}),
        }
        for name in NAMES
    ]
    node.plane.set_components(json.dumps(described))


def service(host: str = "localhost", port: int = 443, *, opaque: bool = False) -> dict[str, object]:
    """One service as a document lists it."""
    return {"host": host, "port": port, "opaque": opaque}


class WebAuthority:
    """Issues certificates for names, as a public authority does."""

    def __init__(self, folder: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "roots of the web")])
        self.ca_file = folder / "web-roots.pem"
        folder.mkdir(exist_ok=True)
        built = self._build(self._name, self._key.public_key(), ca=True)
        self.ca_file.write_bytes(built.public_bytes(Encoding.PEM))

    def context(self, name: str, *, alpn: str | None, tls: ssl.TLSVersion) -> tuple[ssl.SSLContext, bytes]:
        """A server's TLS for ``name``, and the DER of its public key."""
        key, leaf = self._issue(name)
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = made.maximum_version = tls
        if alpn is not None:
            made.set_alpn_protocols([alpn])
        with tempfile.NamedTemporaryFile() as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            file.write(leaf.public_bytes(Encoding.PEM))
            file.flush()
            made.load_cert_chain(file.name)
        return made, key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def files(self, name: str) -> tuple[bytes, bytes]:
        """Key and certificate for ``name``, in PEM."""
        key, leaf = self._issue(name)
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), leaf.public_bytes(Encoding.PEM)

    def _issue(self, name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
        return key, self._build(subject, key.public_key(), name=name)

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool = False, name: str = ""
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder(self._name, subject, key, x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if name:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def hello(_peer: Peer, _request: Request) -> Reply:
    """A plain answer."""
    return Reply(headers=[("content-type", "text/plain")], body=b"from outside")


class Service(Peer):
    """An HTTPS server outside, on a port of its own at ``localhost``."""

    def __init__(
        self,
        web: WebAuthority,
        respond: Respond = hello,
        *,
        alpn: str | None = "h2",
        name: str = "localhost",
        tls: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ) -> None:
        super().__init__(Authority(), respond, alpn=alpn or "http/1.1", tls=tls)
        self._made, self.public_key = web.context(name, alpn=alpn, tls=tls)

    def _tls(self) -> ssl.SSLContext:
        return self._made

    def _answer(self, headers: list[Header], body: bytes, trailers: list[Header]) -> Reply:
        request = Request(None, headers, body, trailers)
        self.requests.append(request)
        return self.respond(self, request)


class PlainPeer(Service):
    """A SPIFFE peer that requires a client certificate and speaks plain HTTP behind it."""

    def __init__(
        self, authority: Authority, respond: Respond = hello, *, alpn: str | None = "h2", own_id: str = ""
    ) -> None:
        Peer.__init__(self, authority, respond, alpn=alpn or "http/1.1")
        self.svid = authority.issue(own_id or "spiffe://example.org/ledger")
        self._made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._made.minimum_version = ssl.TLSVersion.TLSv1_3
        self._made.verify_mode = ssl.CERT_REQUIRED
        self._made.load_verify_locations(cadata=authority.certificate.public_bytes(Encoding.PEM).decode())
        if alpn is not None:
            self._made.set_alpn_protocols([alpn])
        load_svid(self._made, self.svid)
        self.clients: list[str] = []

    def _serve(self, connection: ssl.SSLSocket) -> None:
        names = dict(connection.getpeercert() or {}).get("subjectAltName", ())
        self.clients += [value for _, value in names]


class Echo:
    """A TCP server at ``localhost`` that sends back what it gets."""

    def __enter__(self) -> Self:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                while data := self.request.recv(65536):
                    self.request.sendall(data)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            block_on_close = False
            allow_reuse_address = True

            def handle_error(self, request: object, client_address: object) -> None:
                """Who hangs up is part of some tests."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def connect(node: Node, target: str, *, headers: dict[str, str] | None = None) -> tuple[socket.socket, str]:
    """What ``CONNECT target`` gives: the connection, and the head of the answer."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(str(node.out))
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}", *(f"{k}: {v}" for k, v in (headers or {}).items())]
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
    head = b""
    while b"\r\n\r\n" not in head:
        chunk = connection.recv(1)
        if not chunk:
            break
        head += chunk
    return connection, head.decode("latin-1")
