"""What the corpus is run against: our two sockets, and Envoy's, each with a component that keeps every byte."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import envoy
from dataplane_nodes import TRUST_DOMAIN, Node, spiffe_id
from dataplane_peer import context
from http_corpus import Case, custody_fields
from http_corpus_run import run
from raw_origin import RawOrigin
from svid_authority import Authority
from waiting import wait_until

HTTP1, HTTP2 = ("http/1.1",), ("h2",)
TIMEOUTS = {"header_read": 1000, "body_read": 1000, "idle": 2000}
ENVOY_TIMEOUT = "0.5s"


@dataclass
class Ours:
    """Node ``a`` with the caller, node ``b`` with the component behind ``origin``."""

    a: Node
    b: Node
    origin: RawOrigin

    def __post_init__(self) -> None:
        svid = self.a.authority.issue(spiffe_id("orchestrator"))
        self._svid, self._tls = svid, {alpn: context(svid, alpn) for alpn in (HTTP1, HTTP2)}

    def out(self, case: Case) -> str:
        return run(case, lambda: unix(self.a.out), self.origin, [])

    def peer(self, case: Case) -> str:
        return run(case, lambda: self.at_peer_port(is_h2=case.is_h2), self.origin, self.custody(case))

    def custody(self, case: Case) -> list[tuple[str, str]]:
        return custody_fields(self._svid, *case.bound)

    def at_peer_port(self, *, is_h2: bool) -> contextlib.AbstractContextManager[socket.socket]:
        return secure(self.b.port, self._tls[HTTP2 if is_h2 else HTTP1], "tool.crm.hopseal.invalid")


@contextmanager
def ours(folder: Path, **settings: object) -> Iterator[Ours]:
    """Two running nodes with short deadlines."""
    authority, path = Authority(TRUST_DOMAIN), folder / "tool.sock"
    settings = {"timeouts_ms": TIMEOUTS, **settings}
    with RawOrigin(path) as origin:
        a = Node(folder / "a", authority, settings=dict(settings)).start()
        b = Node(folder / "b", authority, caller=None, listens={"tool": path}, settings=dict(settings)).start()
        a.route(tool=b.port)
        try:
            yield Ours(a, b, origin)
        finally:
            a.stop()
            b.stop()


@dataclass
class Envoy:
    """One Envoy with both sockets in front of ``origin``."""

    entry: Path
    port: int
    tls: dict[tuple[str, ...], ssl.SSLContext]
    origin: RawOrigin

    def out(self, case: Case) -> str:
        return run(case, lambda: unix(self.entry), self.origin, [])

    def peer(self, case: Case) -> str:
        tls = self.tls[HTTP2 if case.is_h2 else HTTP1]
        return run(case, lambda: secure(self.port, tls, "b.example.org"), self.origin, [])


@contextmanager
def envoys(folder: Path) -> Iterator[Envoy]:
    """An Envoy that is set up as its own guide for edges says, with deadlines like ours."""
    envoy.certificates(folder)
    entry, port, path = folder / "envoy.sock", envoy.free_port(), folder / "origin.sock"
    listeners = [
        envoy.listener({"pipe": {"path": str(entry), "mode": 0o777}}, "origin", None),
        envoy.listener(
            {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "origin",
            _both(envoy.server_tls(folder, http2=True)),
        ),
    ]
    for index, each in enumerate(listeners):
        each["name"] = f"listener-{index}"
        _harden(each["filter_chains"][0]["filters"][0]["typed_config"])
    cluster = envoy.cluster("origin", {"pipe": {"path": str(path)}}, None, http2=False)
    with RawOrigin(path) as origin:
        process = envoy.start(folder, 0, {"listeners": listeners, "clusters": [cluster]}, prefix=())
        try:
            wait_until(lambda: entry.exists() and envoy.listens(port), timeout_s=20, what="Envoy")
            yield Envoy(entry, port, {alpn: _client(folder, alpn) for alpn in (HTTP1, HTTP2)}, origin)
        finally:
            process.terminate()
            process.wait(10)


def _both(tls: dict) -> dict:
    tls["typed_config"]["common_tls_context"]["alpn_protocols"] = ["h2", "http/1.1"]
    return tls


def _harden(manager: dict) -> None:
    """What Envoy's guide "Configuring Envoy as an edge proxy" asks for."""
    manager |= {
        "common_http_protocol_options": {"idle_timeout": "1s", "headers_with_underscores_action": "REJECT_REQUEST"},
        "request_headers_timeout": ENVOY_TIMEOUT,
        "stream_idle_timeout": ENVOY_TIMEOUT,
        "request_timeout": ENVOY_TIMEOUT,
        "delayed_close_timeout": "0.1s",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "http2_protocol_options": {"max_concurrent_streams": 100},
    }


def _client(folder: Path, alpn: tuple[str, ...]) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.set_alpn_protocols(list(alpn))
    made.load_cert_chain(folder / "a.pem", folder / "a.key")
    return made


@contextmanager
def unix(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        yield connection


@contextmanager
def secure(port: int, tls: ssl.SSLContext, name: str) -> Iterator[socket.socket]:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as tcp,
        tls.wrap_socket(tcp, server_hostname=name) as connection,
    ):
        yield connection
