"""Calls that are open when the answer to their question changes: ended within a second on either side, others go on."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest

from dataplane_nodes import Answer, Component, Node, Seen, answer, call, spiffe_id, statements
from hopseal.custody.outcome import Fin
from hopseal.custody.receipt import parse_sealed_receipt
from hopseal.log.entries import Direction
from svid_authority import Authority
from waiting import wait_until

WITHIN_S = 1.0
PERMIT = '@id("everything") permit(principal, action, resource);'
NO_CUT = '@id("no cut") forbid(principal, action, resource) when { context.path like "/cut*" };'
DECISION = "hopseal-decision"


def sets(*texts: str, admin: str = "", observe: bool = False) -> str:
    made = [
        {"name": f"set{n}", "layer": "operator", "observe": observe and n > 0, "pieces": [text]}
        for n, text in enumerate(texts)
    ]
    if admin:
        made.append({"name": "admin", "layer": "admin", "observe": False, "pieces": [admin]})
    return json.dumps(made)


def put(node: Node, *texts: str, admin: str = "", observe: bool = False, **facts: object) -> None:
    node.plane.set_policy_sets(sets(*texts, admin=admin, observe=observe), json.dumps(facts))


class Events:
    """A component that streams an event every 20 ms, or answers /cut/wait only when told."""

    def __init__(self) -> None:
        self.hung_up: list[str] = []
        self.waiting = threading.Event()
        self.go_on = threading.Event()

    def respond(self, handler: http.server.BaseHTTPRequestHandler, seen: Seen) -> None:
        if seen.path.endswith("/wait"):
            self.waiting.set()
            self.go_on.wait(20)
            with contextlib.suppress(OSError):
                answer(handler, b"late")
            return
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        try:
            while not self.go_on.wait(0.02):
                handler.wfile.write(b"9\r\ndata: x\n\n\r\n")
        except OSError:
            self.hung_up.append(seen.path)


@dataclass
class Stream:
    """An open event stream as the calling component has it."""

    node: Node
    path: str
    received: bytes = b""
    ended: float | None = None
    _connection: socket.socket = field(default_factory=lambda: socket.socket(socket.AF_UNIX))

    def __enter__(self) -> Self:
        self._connection.settimeout(20)
        self._connection.connect(str(self.node.out))
        self._connection.sendall(f"GET {self.path} HTTP/1.1\r\nHost: tool.crm\r\n\r\n".encode())
        threading.Thread(target=self._read, daemon=True).start()
        try:
            wait_until(lambda: b"data: x" in self.received, what="the first event")
        except AssertionError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := self._connection.recv(65536):
                self.received += chunk
        self.ended = time.monotonic()

    @property
    def is_whole(self) -> bool:
        return self.received.endswith(b"0\r\n\r\n")

    def lives(self) -> None:
        before = len(self.received)
        wait_until(lambda: len(self.received) > before + 50, what=f"more events of {self.path}")
        assert self.ended is None

    def ends_within(self, since: float) -> None:
        wait_until(lambda: self.ended is not None, what=f"the end of {self.path}")
        assert self.ended is not None
        assert self.ended - since < WITHIN_S
        assert not self.is_whole


@dataclass
class Scene:
    a: Node
    b: Node
    events: Events

    def side(self, name: str) -> Node:
        return self.a if name == "caller" else self.b


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    authority = Authority("example.org")
    events = Events()
    path = tmp_path / "tool.sock"
    with Component(path, respond=events.respond):
        a = Node(tmp_path / "a", authority).start()
        b = Node(tmp_path / "b", authority, caller=None, listens={"tool": path}).start()
        a.route(tool=b.port)
        put(a, PERMIT)
        put(b, PERMIT)
        try:
            yield Scene(a, b, events)
        finally:
            events.go_on.set()
            a.stop()
            b.stop()


@pytest.mark.parametrize("side", ["caller", "callee"])
def test_a_policy_that_forbids_cuts_the_streams_it_forbids_and_no_other(scene: Scene, side: str) -> None:
    node = scene.side(side)
    with Stream(scene.a, "/cut/1") as cut, Stream(scene.a, "/keep") as kept, Stream(scene.a, "/cut/2") as second:
        began = time.monotonic()
        put(node, PERMIT, NO_CUT)
        cut.ends_within(began)
        second.ends_within(began)
        kept.lives()
        wait_until(lambda: sorted(scene.events.hung_up) == ["/cut/1", "/cut/2"], what="the component to notice")
        put(node, PERMIT)
        with Stream(scene.a, "/cut/3") as again:
            again.lives()
        kept.lives()
    direction = "out" if side == "caller" else "in"
    told = node.wait_for_call(direction=direction, code="policy_revoked")
    assert "no cut" in told["detail"]
    assert told["question"]["path"].startswith("/cut")
    found = json.loads(node.plane.decision(told["decision"]) or "{}")
    assert (found["allowed"], found["policy"]) == (False, ["no cut"])
    assert node.metric("policy_decisions", outcome="revoked") == 2


def test_a_cut_stream_has_a_receipt_that_says_it_was_cut(scene: Scene) -> None:
    with Stream(scene.a, "/cut") as cut:
        began = time.monotonic()
        put(scene.b, PERMIT, NO_CUT)
        cut.ends_within(began)
    wait_until(lambda: statements(scene.b, Direction.SENT))
    receipt = parse_sealed_receipt(statements(scene.b, Direction.SENT)[-1].sealed or "")
    assert receipt.claims.outcome.fin is Fin.ABORT


@pytest.mark.parametrize("side", ["caller", "callee"])
def test_a_call_that_waits_for_its_answer_is_refused(scene: Scene, side: str) -> None:
    got: list[tuple[Answer, float]] = []
    waiter = threading.Thread(target=lambda: got.append((call(scene.a, path="/cut/wait"), time.monotonic())))
    waiter.start()
    assert scene.events.waiting.wait(10)
    began = time.monotonic()
    put(scene.side(side), PERMIT, NO_CUT)
    waiter.join(10)
    ((refused, at),) = got
    assert at - began < WITHIN_S
    assert (refused.status, refused.code) == (403, "policy_denied" if side == "caller" else "custody_forbidden")
    decision = refused.headers[DECISION]
    assert json.loads(scene.side(side).plane.decision(decision) or "{}")["question"]["path"] == "/cut/wait"


@pytest.mark.parametrize("side", ["caller", "callee"])
def test_an_admins_constraint_cuts_what_operators_permit(scene: Scene, side: str) -> None:
    with Stream(scene.a, "/cut") as cut, Stream(scene.a, "/keep") as kept:
        began = time.monotonic()
        put(scene.side(side), PERMIT, admin=NO_CUT)
        cut.ends_within(began)
        kept.lives()


def test_an_observed_policy_cuts_nothing(scene: Scene) -> None:
    with Stream(scene.a, "/cut") as stream:
        put(scene.b, PERMIT, NO_CUT, observe=True)
        stream.lives()
        time.sleep(0.6)  # longer than open calls wait to be judged by the clock
        stream.lives()
    scene.events.go_on.set()
    assert call(scene.a, path="/cut/wait").status == 200
    told = scene.b.wait_for_call(direction="in", operation="POST /cut/wait")
    assert told["would_deny"] == ['set1: forbidden by "no cut" of set1']
    assert scene.b.metric("policy_would_deny", set="set1") == 1


@pytest.mark.parametrize("side", ["caller", "callee"])
def test_a_label_that_changes_cuts_what_it_forbids(scene: Scene, side: str) -> None:
    calm = """permit(principal, action, resource)
        when { !(context has callee_threat && context.callee_threat == "high") };"""
    node = scene.side(side)
    put(node, calm)
    with Stream(scene.a, "/keep") as stream:
        threats = [{"pattern": "spiffe://example.org/*", "label": "low"}]
        node.plane.set_policy_facts(json.dumps({"threats": threats}))
        stream.lives()
        began = time.monotonic()
        node.plane.set_policy_facts(json.dumps({"threats": [{**threats[0], "label": "high"}]}))
        stream.ends_within(began)


def test_posture_that_is_measured_lower_cuts_what_needs_more(scene: Scene) -> None:
    needs = "permit(principal, action, resource) when { principal has posture_level && principal.posture_level >= 1 };"
    measured = {"measured_at": int(time.time()), "posture": "restricted"}
    put(scene.a, needs, evidence={spiffe_id("orchestrator"): measured})
    with Stream(scene.a, "/keep") as stream:
        began = time.monotonic()
        lower = {**measured, "posture": "privileged"}
        scene.a.plane.set_policy_facts(json.dumps({"evidence": {spiffe_id("orchestrator"): lower}}))
        stream.ends_within(began)


def test_time_alone_cuts_what_it_forbids(scene: Scene) -> None:
    ends = time.time() + 2
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ends)) + f".{int(ends * 1000) % 1000:03}Z"
    put(scene.b, f'permit(principal, action, resource) when {{ context.time < datetime("{moment}") }};')
    with Stream(scene.a, "/keep") as stream:
        stream.lives()
        stream.ends_within(time.monotonic() + ends - time.time())
    assert call(scene.a, path="/keep").code == "custody_forbidden"


def test_a_component_without_document_any_more_loses_its_streams(scene: Scene) -> None:
    known = {
        "uid": {"type": "Hopseal::Component", "id": spiffe_id("tool")},
        "attrs": {"documented": True, "trust_domain": "example.org", "role": "connector"},
        "parents": [],
    }
    needs = 'permit(principal, action, resource) when { resource has role && resource.role == "connector" };'
    put(scene.a, needs, entities=[known])
    with Stream(scene.a, "/keep") as stream:
        stream.lives()
        began = time.monotonic()
        put(scene.a, needs)
        stream.ends_within(began)


@pytest.mark.parametrize("side", ["caller", "callee"])
def test_a_withdrawn_identity_cuts_its_streams(scene: Scene, side: str) -> None:
    with Stream(scene.a, "/keep") as stream:
        began = time.monotonic()
        scene.side(side).withdraw("orchestrator" if side == "caller" else "tool")
        stream.ends_within(began)


@pytest.mark.parametrize("side", ["caller", "callee"])
def test_a_trust_bundle_without_the_peers_authority_cuts_its_streams(scene: Scene, side: str) -> None:
    with Stream(scene.a, "/keep") as stream:
        began = time.monotonic()
        scene.side(side).plane.set_bundles([("example.org", [Authority("example.org").der], 2)])
        stream.ends_within(began)


def test_a_certificate_that_ends_cuts_its_streams(scene: Scene) -> None:
    ttl_s = 14  # of 74 s, a sixth is less: the key may still sign
    scene.a.give("orchestrator", ttl_s=ttl_s)
    given = time.time()
    with Stream(scene.a, "/keep") as stream:
        stream.lives()
        # A second for NumericDate's whole seconds, and one for the sleep that ends after the certificate does.
        wait_until(lambda: stream.ended is not None, what="the end of the stream", timeout_s=ttl_s + 10)
        assert time.time() - given < ttl_s + 2 + WITHIN_S


def test_a_bad_reload_cuts_nothing_and_leaves_the_good_one(scene: Scene) -> None:
    with Stream(scene.a, "/cut") as stream:
        for bad in ("permit(", "forbid(principal, action, resource) when { context.nope };"):
            with pytest.raises(Exception, match="set1"):
                put(scene.b, PERMIT, bad)
        stream.lives()


def test_an_open_call_leaves_no_trace_when_it_is_over(scene: Scene) -> None:
    with Stream(scene.a, "/keep"):
        assert (scene.a.metric("open_calls"), scene.b.metric("open_calls")) == (1, 1)
    wait_until(lambda: scene.a.metric("open_calls") == scene.b.metric("open_calls") == 0)
