"""A data plane with a control process of a few lines, for tests: identities, admissions, components."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import select
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from broker._dataplane import DataPlane
from hopseal.log.entries import Direction, StatementEntry, StatementKind
from hopseal.log.reader import LogContents, read_log
from svid_authority import Authority
from waiting import wait_until

TRUST_DOMAIN = "example.org"
PERMIT_ALL = '@id("everything") permit(principal, action, resource);'
NAMES = ("orchestrator", "reasoner", "tool")


def spiffe_id(name: str) -> str:
    return f"spiffe://{TRUST_DOMAIN}/agents/crm/{name}"


def components(
    listens: dict[str, Path], *, may_start: tuple[str, ...] = ("orchestrator",), protocol: str = "h1"
) -> str:
    return json.dumps(
        [
            {
                "component": f"crm/{name}",
                "agent": "crm",
                "name": name,
                "spiffe_id": spiffe_id(name),
                "listen": str(listens[name]) if name in listens else None,
                "listen_host": None,
                "listen_protocol": protocol,
                "may_start": name in may_start,
            }
            for name in NAMES
        ]
    )


@dataclass
class Node:
    """One data plane; ``caller`` is what every process that connects to its ``out.sock`` is admitted as."""

    folder: Path
    authority: Authority
    caller: str | None = "orchestrator"
    listens: dict[str, Path] = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    events: list[dict] = field(default_factory=list)
    protocol: str = "h1"  # what the components' sockets speak
    on_event: Callable[[dict], bool] | None = None  # true: handled, skip the usual answer

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log_dir = self.folder / "log"
        self.log_dir.mkdir(exist_ok=True)
        self.out = self.folder / "out.sock"
        settings = {
            "trust_domain": TRUST_DOMAIN,
            "node": self.folder.name,
            "out_socket": str(self.out),
            "peer_listen": "127.0.0.1:0",
            "log_dir": str(self.log_dir),
            "worker_threads": 1,
            **self.settings,
        }
        self.plane = DataPlane(json.dumps(settings))
        self.plane.set_bundles([(TRUST_DOMAIN, [self.authority.der], 1)])
        self.plane.set_components(components(self.listens, protocol=self.protocol))
        self.plane.set_policies(PERMIT_ALL, "[]")
        if self.caller:
            self.give(self.caller)
        for name in self.listens:
            self.give(name)
        self._ended = threading.Event()
        self._control = threading.Thread(target=self._run_control, daemon=True)
        self.port = 0
        self.routes = "{}"

    def start(self) -> Node:
        self.port = self.plane.start()
        self._control.start()
        return self

    def succeeded(self) -> Node:
        """Another data plane that has taken over from this one, which drains on; both run in this process."""
        settings = {**self.settings, "peer_listen": f"127.0.0.1:{self.port}"}
        node = Node(self.folder, self.authority, self.caller, self.listens, settings, on_event=self.on_event)
        node.routes = self.routes
        node.plane.set_routes(node.routes)
        descriptors = [os.dup(each) for each in self.plane.descriptors()]
        node.port = node.plane.take_over(*descriptors, *self.plane.hand_over())
        node._control.start()
        return node

    def stop(self) -> None:
        self._ended.set()
        if self._control.is_alive():
            self._control.join()
        self.plane.stop()

    def give(self, name: str, *, ttl_s: int = 600) -> bytes:
        """Issue an SVID to the only instance of ``name``; the leaf's DER."""
        svid = self.authority.issue(spiffe_id(name), ttl_s=ttl_s)
        chain = list(svid.chain_der)
        self.plane.set_identity(instance(name), f"crm/{name}", spiffe_id(name), chain, svid.key_pkcs8, svid.expires_at)
        return chain[0]

    def withdraw(self, name: str) -> None:
        self.plane.withdraw(instance(name), f"crm/{name}", "drifted")

    def route(self, **ports: int) -> None:
        self.routes = json.dumps({f"crm/{name}": [f"127.0.0.1:{port}"] for name, port in ports.items()})
        self.plane.set_routes(self.routes)

    def of(self, event: str) -> list[dict]:
        return [found for found in list(self.events) if found["event"] == event]

    def log(self) -> LogContents:
        return read_log((self.log_dir / "custody.log").read_bytes())

    def metric(self, name: str, **labels: str) -> float:
        for metric in json.loads(self.plane.stats())["metrics"]:
            if metric["name"] == f"hopseal_broker_{name}":
                samples = [found for found in metric["samples"] if found["labels"].items() >= labels.items()]
                return sum(found["value"] for found in samples)
        raise AssertionError(f"no metric {name}")

    def wait_for_call(self, **expected: object) -> dict:
        def matching() -> list[dict]:
            return [call for call in self.of("call") if expected.items() <= call.items()]

        wait_until(matching, what=f"a call event with {expected}")
        return matching()[0]

    def _run_control(self) -> None:
        while not self._ended.is_set():
            select.select([self.plane.event_fd()], [], [], 0.05)
            for text in self.plane.take_events():
                event = json.loads(text)
                self.events.append(event)
                if self.on_event is None or not self.on_event(event):
                    self.answer(event)

    def answer(self, event: dict) -> None:
        """Admit whoever asks, as the control process does once the attestor agreed."""
        if event["event"] == "caller_seen":
            if self.caller is None:
                self.plane.refuse_caller(event["pidfd_inode"], "identity_none", False)
            else:
                self.plane.admit_caller(event["pidfd_inode"], instance(self.caller), f"crm/{self.caller}")
        elif event["event"] == "listener_seen":
            name = event["component"].removeprefix("crm/")
            self.plane.admit_listener(event["component"], event["pidfd_inode"], instance(name))


def instance(name: str) -> str:
    return f"instance-of-{name}"


@dataclass
class Seen:
    """One request as a component got it."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that hangs up is part of some tests."""


@dataclass
class Component:
    """A small HTTP server on a Unix socket; ``respond`` writes the answer, else it is the request's body."""

    path: Path
    respond: Callable[[http.server.BaseHTTPRequestHandler, Seen], None] | None = None
    seen: list[Seen] = field(default_factory=list)

    def __enter__(self) -> Self:
        component = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = False

            def do_GET(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                seen = Seen(self.command, self.path, list(self.headers.items()), self.rfile.read(length))
                component.seen.append(seen)
                if component.respond is None:
                    answer(self, seen.body or b"hello")
                else:
                    component.respond(self, seen)

            do_POST = do_PUT = do_DELETE = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Silent."""

        self._server = _Server(str(self.path), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def answer(
    handler: http.server.BaseHTTPRequestHandler, body: bytes, status: int = 200, headers: dict[str, str] | None = None
) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def answer_without_end(handler: http.server.BaseHTTPRequestHandler, _seen: Seen) -> None:
    """Send one ``x`` after the other until nobody takes them."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while True:
        handler.wfile.write(b"1\r\nx\r\n")
        time.sleep(0.01)


class Connection(http.client.HTTPConnection):
    """An HTTP connection to a Unix socket."""

    def __init__(self, path: Path, timeout: float = 10) -> None:
        super().__init__("unused", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str | None:
        """The reason code of a problem document."""
        if self.headers.get("content-type") != "application/problem+json":
            return None
        return json.loads(self.body)["code"]

    @property
    def handle(self) -> str | None:
        return self.headers.get("custody-handle")


def call(
    node: Node,
    host: str = "tool.crm",
    path: str = "/mcp",
    *,
    method: str = "POST",
    body: bytes = b"{}",
    headers: dict[str, str] | None = None,
    handle: str | None = None,
    timeout: float = 10,
) -> Answer:
    """One call through ``out.sock``."""
    sent = {"Host": host, **(headers or {})}
    if handle is not None:
        sent["Custody-Handle"] = handle
    connection = Connection(node.out, timeout)
    with contextlib.closing(connection):
        connection.request(method, path, body or None, sent)
        response = connection.getresponse()
        lowered = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, lowered, response.read())


def raw(path: Path, data: bytes, *, timeout: float = 5, step: int | None = None) -> bytes:
    """Everything that comes back for ``data`` until the other side closes or is silent for ``timeout``."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(str(path))
        return exchange(connection, data, step=step)


def exchange(connection: socket.socket, data: bytes, *, step: int | None = None) -> bytes:
    received = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        for start in range(0, len(data), step or len(data)):
            connection.sendall(data[start : start + (step or len(data))])
        while chunk := connection.recv(65536):
            received += chunk
    return received


@contextlib.contextmanager
def pair(folder: Path, **settings: object) -> Iterator[tuple[Node, Node, Component]]:
    """Node ``a`` with the orchestrator, node ``b`` with the tool behind a Unix socket."""
    authority = Authority(TRUST_DOMAIN)
    folder.mkdir(exist_ok=True)
    path = folder / "tool.sock"
    with Component(path) as tool:
        a = Node(folder / "a", authority, settings=dict(settings)).start()
        b = Node(folder / "b", authority, caller=None, listens={"tool": path}, settings=dict(settings)).start()
        a.route(tool=b.port)
        try:
            yield a, b, tool
        finally:
            a.stop()
            b.stop()


def statements(node: Node, direction: Direction, kind: StatementKind = StatementKind.RECEIPT) -> list[StatementEntry]:
    found = [each for each in node.log().entries if isinstance(each, StatementEntry)]
    return [each for each in found if each.direction is direction and each.kind is kind]


def deadline(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
