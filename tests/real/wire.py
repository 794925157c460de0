"""A component that holds its own key and speaks to a broker's peer port itself: what an attacker can do on the wire."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hopseal.custody.authority import Authority
from hopseal.custody.binding import bind_request, content_digest
from hopseal.custody.delegation import Task
from hopseal.custody.headers import format_custody_fields
from hopseal.custody.record import Record
from hopseal.custody.seal import Signer
from hopseal.custody.sender import random_id, seal_records
from hopseal.ids import SpiffeId
from real.netns import Namespace

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Identity:
    """An SVID with its key, as files that SPIRE's own client wrote."""

    folder: Path
    spiffe_id: SpiffeId
    signer: Signer

    @property
    def leaf_der(self) -> bytes:
        return self.signer.leaf_der


def fetch_identity(spire_agent: Path, api_socket: Path, folder: Path) -> Identity:
    """Let SPIRE's client fetch an SVID from our Workload API, as the component that it is."""
    command = [str(spire_agent), "api", "fetch", "x509", "-socketPath", str(api_socket), "-write", str(folder)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    leaf = x509.load_pem_x509_certificates((folder / "svid.0.pem").read_bytes())[0]
    key = serialization.load_pem_private_key((folder / "svid.0.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    signer = Signer(leaf.public_bytes(serialization.Encoding.DER), key)
    return Identity(folder, SpiffeId.parse(uri), signer)


def connect_in(namespace: Namespace | None, address: tuple[str, int]) -> socket.socket:
    """A TCP connection made inside ``namespace`` (None: where the test is), by a thread that enters it alone."""
    if namespace is None:
        return socket.create_connection(address, timeout=10)
    made: list[socket.socket | Exception] = []

    def dial() -> None:
        try:
            with Path(f"/run/netns/{namespace.name}").open("rb") as entry:
                if _LIBC.setns(entry.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(socket.create_connection(address, timeout=10))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=dial)
    thread.start()
    thread.join()
    (outcome,) = made
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@dataclass(frozen=True, slots=True)
class Peer:
    """The peer port of one node, and the component behind it that is called."""

    namespace: Namespace | None
    address: tuple[str, int]
    component: str
    agent: str
    spiffe_id: str

    @property
    def authority(self) -> str:
        return f"{self.component}.{self.agent}"

    def send(
        self,
        identity: Identity,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        *,
        method: str = "POST",
        path: str = "/run",
    ) -> tuple[int, dict[str, Any]]:
        """One request over mutual TLS with ``identity``: status and JSON answer."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(str(identity.folder / "bundle.0.pem"))
        context.load_cert_chain(str(identity.folder / "svid.0.pem"), str(identity.folder / "svid.0.key"))
        context.set_alpn_protocols(["http/1.1"])
        raw = connect_in(self.namespace, self.address)
        with context.wrap_socket(raw, server_hostname=f"{self.authority}.hopseal.invalid") as secured:
            connection = http.client.HTTPConnection(self.authority)
            connection.sock = secured
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value)
            connection.putheader("content-length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            text = answer.read()
        return answer.status, json.loads(text) if text else {}

    def bound(self, body: bytes, *, method: str = "POST", path: str = "/run") -> tuple[list[tuple[str, str]], str]:
        """Covered headers of a request and its binding."""
        headers = [("content-type", "application/json"), ("content-digest", content_digest(body))]
        return headers, bind_request(method, f"https://{self.authority}{path}", headers, body)


def root_record(identity: Identity, peer: Peer, rqb: str, *, now: int | None = None, ttl_s: int = 30) -> Record:
    """The record of a call to ``peer`` that begins a task, as of ``now``."""
    at = int(time.time()) if now is None else now
    return Record(
        iss=identity.spiffe_id,
        aud=peer.spiffe_id,
        iat=at,
        exp=at + ttl_s,
        jti=new_id(),
        cid=new_id(),
        hop=0,
        rqb=rqb,
        root_claims=frozenset({"obo", "task", "auth"}),
        task=Task(id=new_id()),
        auth=Authority(exp=at + 600, hops=4),
    )


def seal(identity: Identity, record: Record) -> str:
    (text,) = seal_records([record], identity.signer, int(time.time()))
    return text


def fields(record: str, chain: Sequence[str] = (), certs: Sequence[bytes] = ()) -> list[tuple[str, str]]:
    return [(name, value) for name, value in format_custody_fields(record, chain, certs)]


def new_id() -> str:
    return random_id(os.urandom(16))


def temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="hs-svid-"))
    folder.chmod(0o700)
    return folder
