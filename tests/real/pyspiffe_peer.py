"""A py-spiffe program: serves or calls over mutual TLS with an SVID, and knows nothing of custody.

``pyspiffe_peer.py serve FOLDER PEER-ID`` prints its port, ``call FOLDER PEER-ID PORT SNI PATH`` status and body.
"""

from __future__ import annotations

import http.client
import http.server
import ssl
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from spiffe import SpiffeId, TrustDomain, X509Bundle, X509Svid


def load(folder: Path, side: int) -> ssl.SSLContext:
    svid = X509Svid.load(str(folder / "svid.pem"), str(folder / "key.pem"), Encoding.PEM)
    bundle = X509Bundle.load(TrustDomain(svid.spiffe_id.trust_domain.name), str(folder / "bundle.pem"), Encoding.PEM)
    context = ssl.SSLContext(side)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    authorities = "".join(each.public_bytes(Encoding.PEM).decode() for each in bundle.x509_authorities)
    context.load_verify_locations(cadata=authorities)
    context.load_cert_chain(folder / "svid.pem", folder / "key.pem")
    return context


def peer_of(connection: ssl.SSLSocket) -> SpiffeId:
    certificate = x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (name,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return SpiffeId(name)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    accepted = ""

    def do_POST(self) -> None:
        peer = str(peer_of(self.connection))  # type: ignore[arg-type]
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        answer = f"hello {peer} {self.path} {body.decode()}".encode()
        self.send_response(200 if peer == self.accepted else 403)
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("X-Seen", ",".join(self.headers))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


def serve(context: ssl.SSLContext, accepted: str) -> None:
    Handler.accepted = accepted
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print(server.server_address[1], flush=True)
    server.serve_forever()


class Connection(http.client.HTTPSConnection):
    def __init__(self, port: int, context: ssl.SSLContext, sni: str) -> None:
        super().__init__("127.0.0.1", port, timeout=10)
        self._tls, self._sni = context, sni

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._sni)


def call(context: ssl.SSLContext, expected: str, port: int, sni: str, path: str) -> None:
    connection = Connection(port, context, sni)
    connection.connect()
    if str(peer_of(connection.sock)) != expected:
        sys.exit("another peer answered")
    connection.request("POST", path, body=b"", headers={"Content-Type": "application/json"})
    response = connection.getresponse()
    print(response.status)
    print(response.read().decode(), end="")


def main() -> None:
    mode, folder, peer, *rest = sys.argv[1:]
    if mode == "serve":
        serve(load(Path(folder), ssl.PROTOCOL_TLS_SERVER), peer)
    else:
        port, sni, path = rest
        call(load(Path(folder), ssl.PROTOCOL_TLS_CLIENT), peer, int(port), sni, path)


if __name__ == "__main__":
    main()
