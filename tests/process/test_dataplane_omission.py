"""What a peer holds already is not sent again, and what it lost is: custody-wire §5.6, §5.7, §6.10."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dataplane_chain import three_in_a_row
from dataplane_nodes import TRUST_DOMAIN, Answer, Component, Node, Seen, answer, call
from dataplane_server import Peer, Reply, Request, honest
from hopseal.log.entries import Direction, RecordEntry
from svid_authority import Authority

CHAIN = "custody-chain"
CERTS = "custody-certs"


@dataclass
class Relay:
    """The orchestrator on ``a`` calls the reasoner on ``b``, which hands each call on to the tool."""

    a: Node
    b: Node
    calls: int = 1  # of the reasoner for one call of the orchestrator
    between: Callable[[], None] = lambda: None  # the reasoner's calls
    body: bytes = b"from reasoner"

    def run(self, calls: int = 1) -> Answer:
        self.calls = calls
        return call(self.a, "reasoner")


@contextlib.contextmanager
def relaying(folder: Path, authority: Authority, tool: int, **settings: object) -> Iterator[Relay]:
    path = folder / "reasoner.sock"

    def hand_on(handler: http.server.BaseHTTPRequestHandler, seen: Seen) -> None:
        for number in range(relay.calls):
            if number > 0:
                relay.between()
            inner = call(relay.b, "tool", body=relay.body, handle=seen.header("Custody-Handle"))
        answer(handler, inner.body, inner.status)

    with Component(path, hand_on), contextlib.ExitStack() as stack:
        a = Node(folder / "a", authority).start()
        stack.callback(a.stop)
        b = Node(folder / "b", authority, "reasoner", {"reasoner": path}, settings=dict(settings)).start()
        stack.callback(b.stop)
        a.route(reasoner=b.port)
        b.route(tool=tool)
        relay = Relay(a, b)
        yield relay


def custody_bytes(request: Request) -> int:
    return sum(len(name) + len(value) for name, value in request.headers if name in (CHAIN, CERTS, "custody-record"))


def fields(request: Request) -> dict[str, str]:
    return {name: value for name, value in request.headers if name in (CHAIN, CERTS)}


def received(node: Node) -> list[RecordEntry]:
    entries = [each for each in node.log().entries if isinstance(each, RecordEntry)]
    return [each for each in entries if each.direction is Direction.RECEIVED]


def refusing(missing: Callable[[Request], list[str]], *, at: Callable[[int], bool]) -> Callable[[Peer, Request], Reply]:
    """An honest peer that, at its n-th request, lacks something."""

    def respond(peer: Peer, request: Request) -> Reply:
        if not at(len(peer.requests)):
            return honest(peer, request)
        problem = {"code": "custody_unresolved", "missing": missing(request)}
        body = json.dumps(problem).encode()
        return Reply(428, [("content-type", "application/problem+json")], body)

    return respond


def its_parent(request: Request) -> list[str]:
    return [f"rec:{request.record.record.prev}"]


def test_the_second_call_of_a_chain_carries_fewer_bytes(tmp_path: Path) -> None:
    authority = Authority(TRUST_DOMAIN)
    with Peer(authority) as tool, relaying(tmp_path, authority, tool.port) as relay:
        assert relay.run(calls=3).status == 200
        first, second, third = tool.requests
        assert set(fields(first)) == {CHAIN, CERTS}
        assert fields(second) == fields(third) == {}
        assert custody_bytes(second) < custody_bytes(first) / 2
        # Another chain shares the certificates with the one before.
        assert relay.run().status == 200
        assert set(fields(tool.requests[3])) == {CHAIN}


def test_what_was_left_out_is_sent_once_more_to_a_peer_that_lacks_it(tmp_path: Path) -> None:
    authority = Authority(TRUST_DOMAIN)
    respond = refusing(its_parent, at=lambda count: count == 2)
    with Peer(authority, respond) as tool, relaying(tmp_path, authority, tool.port) as relay:
        assert relay.run(calls=3).status == 200
        first, short, full, last = tool.requests
        assert fields(short) == {}
        # And for a while everything, as its memory may be too small for its load.
        assert fields(full) == fields(last) == fields(first)
        assert full.record.record.jti != short.record.record.jti
        assert full.record.record.prev == short.record.record.prev


def test_a_peer_that_always_lacks_something_is_asked_twice_and_no_more(tmp_path: Path) -> None:
    authority = Authority(TRUST_DOMAIN)
    respond = refusing(its_parent, at=lambda _: True)
    with Peer(authority, respond) as tool, relaying(tmp_path, authority, tool.port) as relay:
        got = relay.run()
        assert (got.status, got.code or json.loads(got.body)["code"]) == (428, "custody_unresolved")
        assert len(tool.requests) == 2


def test_a_peer_that_lacks_what_nobody_sent_is_asked_once(tmp_path: Path) -> None:
    authority = Authority(TRUST_DOMAIN)
    respond = refusing(lambda _: ["rec:" + "A" * 43], at=lambda _: True)
    with Peer(authority, respond) as tool, relaying(tmp_path, authority, tool.port) as relay:
        assert relay.run().status == 428
        assert len(tool.requests) == 1


@pytest.mark.parametrize("status", [403, 500])
def test_an_answer_that_is_no_success_acknowledges_nothing(tmp_path: Path, status: int) -> None:
    authority = Authority(TRUST_DOMAIN)
    with (
        Peer(authority, lambda peer, request: honest(peer, request, Reply(status))) as tool,
        relaying(tmp_path, authority, tool.port) as relay,
    ):
        assert relay.run(calls=2).status == status
        first, second = tool.requests
        assert fields(first) == fields(second) != {}


def test_a_stream_carries_everything_as_it_cannot_be_sent_twice(tmp_path: Path) -> None:
    authority = Authority(TRUST_DOMAIN)
    small = {"streams": "accept", "body_limit_bytes": 1000}
    with Peer(authority) as tool, relaying(tmp_path, authority, tool.port, **small) as relay:
        relay.body = b"x" * 5000
        assert relay.run(calls=2).status == 200
        first, second = tool.requests
        assert second.record.record.bm == "stream"
        assert set(fields(first)) == set(fields(second)) == {CHAIN, CERTS}


def test_a_peer_with_a_new_certificate_has_acknowledged_nothing(tmp_path: Path) -> None:
    authority = Authority(TRUST_DOMAIN)
    with Peer(authority) as tool, relaying(tmp_path, authority, tool.port) as relay:
        assert relay.run(calls=2).status == 200
        assert fields(tool.requests[1]) == {}
        with Peer(authority) as rotated:
            relay.b.route(tool=rotated.port)
            assert relay.run().status == 200
            assert set(fields(rotated.requests[0])) == {CHAIN, CERTS}


def test_a_receiver_puts_in_front_what_was_left_out_and_logs_the_whole_chain(tmp_path: Path) -> None:
    authority = Authority(TRUST_DOMAIN)
    path = tmp_path / "tool.sock"
    with Component(path), contextlib.ExitStack() as stack:
        c = Node(tmp_path / "c", authority, None, {"tool": path}).start()
        stack.callback(c.stop)
        with relaying(tmp_path, authority, c.port) as relay:
            assert relay.run(calls=2).status == 200
        first, second = received(c)
        assert first.ancestors == second.ancestors
        assert len(second.ancestors) == 1


def test_a_receiver_that_lost_its_memory_gets_everything_on_the_retry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(TRUST_DOMAIN)
    # The same leaf as before, and an empty log: to its callers it is the peer that acknowledged.
    monkeypatch.setattr(authority, "issue", functools.cache(authority.issue))
    path = tmp_path / "tool.sock"
    with Component(path), contextlib.ExitStack() as stack:
        before = Node(tmp_path / "before", authority, None, {"tool": path}).start()
        again = {"peer_listen": f"127.0.0.1:{before.port}"}
        after = Node(tmp_path / "after", authority, None, {"tool": path}, settings=again)

        def restart() -> None:
            before.stop()
            stack.callback(after.start().stop)

        with relaying(tmp_path, authority, before.port) as relay:
            relay.between = restart
            assert relay.run(calls=2).status == 200
        refused, accepted = received(after)
        assert (refused.code, accepted.accepted) == ("custody_unresolved", True)
        assert accepted.ancestors == received(before)[0].ancestors


def test_a_receiver_checks_each_signature_once_and_those_it_remembers_never(tmp_path: Path) -> None:
    """The first call of a chain costs a check for each of its records, another one only that of its own."""
    with three_in_a_row(tmp_path) as row:
        root = call(row.a, "reasoner").handle
        handle = row.reasoner.seen[0].header("Custody-Handle")
        assert root is not None
        assert row.b.metric("signature_checks") == 1
        for checks in (2, 3):
            assert call(row.b, "tool", handle=handle).status == 200
            assert row.c.metric("signature_checks") == checks
        # Beside the root's, those of the two receipts.
        assert row.b.metric("signature_checks") == 3
