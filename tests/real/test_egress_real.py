"""Peers that nobody here wrote, without custody: Envoy, a go-spiffe and a py-spiffe program, called and calling."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from bench.envoy import cluster, free_port, listener, listens, start
from dataplane_nodes import Component, Node, call, spiffe_id, statements
from hopseal.log.entries import CallEntry, Direction, StatementKind
from outside_servers import describe
from real.gospiffe_build import find_gospiffe
from svid_authority import Authority
from waiting import wait_until

LEDGER = "spiffe://example.org/ledger"
EDGE = "spiffe://example.org/edge/gateway"
SNI = "tool.crm.hopseal.invalid"
TRANSPORT = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
PYSPIFFE = Path(__file__).with_name("pyspiffe_peer.py")


def write_svid(folder: Path, authority: Authority, own_id: str) -> Path:
    """The files that peers load: ``svid.pem``, ``key.pem``, ``bundle.pem``."""
    folder.mkdir(parents=True, exist_ok=True)
    svid = authority.issue(own_id)
    key = load_der_private_key(svid.key_pkcs8, None)
    chain = b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in svid.chain_der)
    (folder / "svid.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "bundle.pem").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    return folder


def envoy_tls(kind: str, folder: Path, peer: str, *alpn: str, **more: Any) -> dict[str, Any]:
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": list(alpn),
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(folder / "svid.pem")},
                "private_key": {"filename": str(folder / "key.pem")},
            }
        ],
        "validation_context": {
            "trusted_ca": {"filename": str(folder / "bundle.pem")},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer}}],
        },
    }
    config = {"@type": f"{TRANSPORT}.{kind}TlsContext", "common_tls_context": common, **more}
    return {"name": "envoy.transport_sockets.tls", "typed_config": config}


@contextlib.contextmanager
def envoy(folder: Path, port: int, listeners: list[Any], clusters: list[Any]) -> Iterator[None]:
    process = start(folder, port, {"listeners": listeners, "clusters": clusters}, ())
    try:
        wait_until(lambda: listens(port), timeout_s=30, what=f"Envoy, see {folder}")
        yield
    finally:
        process.terminate()
        process.wait(10)


def tcp(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


@contextlib.contextmanager
def calling(folder: Path, authority: Authority, port: int) -> Iterator[Node]:
    """A node whose orchestrator calls the ledger."""
    node = Node(folder / "node", authority).start()
    try:
        describe(node, {"orchestrator": {"peers": [{"name": "ledger", "spiffe_id": LEDGER}]}})
        node.plane.set_routes(json.dumps({LEDGER: [f"127.0.0.1:{port}"]}))
        yield node
    finally:
        node.stop()


@contextlib.contextmanager
def serving(folder: Path, authority: Authority) -> Iterator[tuple[Node, Component]]:
    """A node whose tool accepts the edge without custody."""
    folder.mkdir(exist_ok=True)
    with Component(folder / "tool.sock") as tool:
        node = Node(folder / "node", authority, caller=None, listens={"tool": folder / "tool.sock"}).start()
        try:
            describe(node, {"tool": {"accepts": ["spiffe://example.org/edge/*"]}})
            yield node, tool
        finally:
            node.stop()


def check_observed(node: Node) -> None:
    (observed,) = statements(node, Direction.SENT, StatementKind.OBSERVATION)
    assert (observed.iss, observed.st) == (spiffe_id("orchestrator"), 200)
    assert node.wait_for_call(direction="out", code="ok")["kind"] == "peer"


def check_accepted(node: Node, tool: Component) -> None:
    (seen,) = tool.seen
    assert seen.header("custody-handle") is None
    wait_until(lambda: len(lines(node)) == 2, what="both lines of the call")
    begin, end = lines(node)
    assert (begin.iss, begin.op, end.st, end.fin) == (EDGE, f"{seen.method} {seen.path}", 200, "eof")


def lines(node: Node) -> list[CallEntry]:
    return [each for each in node.log().entries if isinstance(each, CallEntry)]


@pytest.mark.parametrize("alpn", ["h2", "http/1.1"])
def test_envoy_is_called(tmp_path: Path, alpn: str) -> None:
    authority, port = Authority(), free_port()
    files = write_svid(tmp_path / "envoy", authority, LEDGER)
    tls = envoy_tls("Downstream", files, spiffe_id("orchestrator"), alpn, require_client_certificate=True)
    with Component(tmp_path / "app.sock") as app:
        app_cluster = cluster("app", {"pipe": {"path": str(app.path)}}, None, http2=False)
        with (
            envoy(files, port, [listener(tcp(port), "app", tls)], [app_cluster]),
            calling(tmp_path, authority, port) as node,
        ):
            got = call(node, "ledger", "/entries?x=1", body=b'{"a":1}')
            assert (got.status, got.body, got.headers["server"]) == (200, b'{"a":1}', "envoy")
            (seen,) = app.seen
            assert seen.path == "/entries?x=1"
            assert not [name for name, _ in seen.headers if name.lower().startswith("custody")]
            check_observed(node)


def test_envoy_with_another_id_is_not_called(tmp_path: Path) -> None:
    authority, port = Authority(), free_port()
    files = write_svid(tmp_path / "envoy", authority, "spiffe://example.org/other")
    tls = envoy_tls("Downstream", files, spiffe_id("orchestrator"), "h2", require_client_certificate=True)
    with Component(tmp_path / "app.sock") as app:
        app_cluster = cluster("app", {"pipe": {"path": str(app.path)}}, None, http2=False)
        with (
            envoy(files, port, [listener(tcp(port), "app", tls)], [app_cluster]),
            calling(tmp_path, authority, port) as node,
        ):
            assert call(node, "ledger").code == "peer_untrusted"
            assert app.seen == []


@pytest.mark.parametrize("alpn", ["h2", "http/1.1"])
def test_envoy_calls(tmp_path: Path, alpn: str) -> None:
    authority, port = Authority(), free_port()
    with serving(tmp_path, authority) as (node, tool):
        files = write_svid(tmp_path / "envoy", authority, EDGE)
        tls = envoy_tls("Upstream", files, spiffe_id("tool"), alpn, sni=SNI)
        upstream = cluster("tool", tcp(node.port), tls, http2=alpn == "h2")
        with envoy(files, port, [listener(tcp(port), "tool", None)], [upstream]):
            received = http_get(port, "/mcp")
        assert received.startswith(b"HTTP/1.1 200")
        assert b"custody" not in received.lower()
        check_accepted(node, tool)


def http_get(port: int, path: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: peer\r\nConnection: close\r\n\r\n".encode())
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        return received


def programs() -> dict[str, list[str]]:
    return {"go": [str(find_gospiffe())], "py": [sys.executable, str(PYSPIFFE)]}


@contextlib.contextmanager
def peer_program(command: list[str], folder: Path, peer: str) -> Iterator[int]:
    with subprocess.Popen([*command, "serve", str(folder), peer], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.parametrize("language", ["go", "py"])
def test_a_spiffe_program_is_called(tmp_path: Path, language: str) -> None:
    authority = Authority()
    files = write_svid(tmp_path / "peer", authority, LEDGER)
    with (
        peer_program(programs()[language], files, spiffe_id("orchestrator")) as port,
        calling(tmp_path, authority, port) as node,
    ):
        got = call(node, "ledger", "/entries", body=b"x")
        assert got.status == 200
        assert got.body.startswith(f"hello {spiffe_id('orchestrator')} ".encode())
        assert b"/entries x" in got.body
        assert "custody" not in got.headers["x-seen"].lower()
        check_observed(node)


@pytest.mark.parametrize("language", ["go", "py"])
def test_a_spiffe_program_calls(tmp_path: Path, language: str) -> None:
    authority = Authority()
    files = write_svid(tmp_path / "peer", authority, EDGE)
    with serving(tmp_path, authority) as (node, tool):
        command = [*programs()[language], "call", str(files), spiffe_id("tool"), str(node.port), SNI, "/mcp"]
        made = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        assert made.stdout.startswith("200")
        assert made.stdout.endswith("hello")
        check_accepted(node, tool)


@pytest.mark.parametrize("language", ["go", "py"])
def test_a_spiffe_program_that_no_document_accepts_is_refused(tmp_path: Path, language: str) -> None:
    authority = Authority()
    files = write_svid(tmp_path / "peer", authority, "spiffe://example.org/stranger")
    with serving(tmp_path, authority) as (node, tool):
        command = [*programs()[language], "call", str(files), spiffe_id("tool"), str(node.port), SNI, "/mcp"]
        made = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        assert made.stdout.startswith("428")
        assert "custody_missing" in made.stdout
        assert (tool.seen, lines(node)) == ([], [])
