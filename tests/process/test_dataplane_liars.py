"""Peers that lie in their answers: a component never gets one that its receipt does not cover."""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from custody_refusals import statements_in
from dataplane_nodes import TRUST_DOMAIN, Answer, Node, call, raw, spiffe_id, statements
from dataplane_server import RECEIPT, Peer, Reply, Request, honest
from hopseal.custody.outcome import Fin
from hopseal.custody.sender import random_id
from hopseal.ids import SpiffeId
from hopseal.log.entries import Direction, StatementEntry
from svid_authority import Authority
from waiting import wait_until

Lie = Callable[[Peer, Request, Reply], Reply]
SHORT = Reply(body=b"the answer")
LONG = Reply(body=os.urandom(200_000))
ENDLESS = Reply(body=os.urandom(200_000), length=False)
EVENTS = Reply(headers=[("content-type", "text/event-stream")], body=b"data: 1\n\n" * 10_000, length=False)


def claiming(**claims: object) -> Lie:
    """A receipt that says something else."""
    return lambda peer, request, reply: peer.placed(reply, peer.receipt(request.record, reply.answer, **claims))


def sealed_by(name: str) -> Lie:
    """A receipt sealed by another component, or by another key of the same one that the caller never saw."""

    def lie(peer: Peer, request: Request, reply: Reply) -> Reply:
        svid = peer.authority.issue(spiffe_id(name))
        return peer.placed(reply, peer.receipt(request.record, reply.answer, svid))

    return lie


def of_a_stranger(peer: Peer, request: Request, reply: Reply) -> Reply:
    """The right name, by an authority that nobody trusts; its certificate comes along."""
    svid = Authority(TRUST_DOMAIN).issue(spiffe_id("tool"))
    placed = peer.placed(reply, peer.receipt(request.record, reply.answer, svid))
    return replace(placed, headers=[*placed.headers, ("custody-certs", peer.element(svid))])


def of_the_call_before(peer: Peer, request: Request, reply: Reply) -> Reply:
    """Two answers swapped."""
    if len(peer.requests) == 1:
        return honest(peer, request, reply)
    return peer.placed(reply, peer.receipt(peer.requests[0].record, reply.answer))


def with_another_byte(_peer: Peer, _request: Request, reply: Reply) -> Reply:
    return replace(reply, body=reply.body[:-1] + bytes([reply.body[-1] ^ 1]))


def after(lie: Lie) -> Lie:
    """``lie`` about what an honest peer would have sent."""
    return lambda peer, request, reply: lie(peer, request, honest(peer, request, reply))


def spoiled(peer: Peer, request: Request, reply: Reply) -> Reply:
    sealed = peer.receipt(request.record, reply.answer)
    return peer.placed(reply, sealed[:-4] + ("AAAA" if sealed[-4:] != "AAAA" else "BBBB"))


def twice(peer: Peer, request: Request, reply: Reply) -> Reply:
    fields = [(RECEIPT, peer.receipt(request.record, reply.answer)) for _ in range(2)]
    return replace(reply, **{"trailers" if peer.alpn == "h2" else "headers": [*reply.headers, *fields]})


def in_two_places(peer: Peer, request: Request, reply: Reply) -> Reply:
    sealed = peer.receipt(request.record, reply.answer)
    if peer.alpn == "h2":
        return replace(reply, headers=[*reply.headers, (RECEIPT, sealed)], trailers=[(RECEIPT, sealed)])
    headers = [("content-type", "text/event-stream")]
    reply = replace(reply, headers=headers, body=b"data: 1\n\n")
    sealed = peer.receipt(request.record, reply.answer)
    comment = f": custody-receipt {sealed}\n\n".encode()
    return replace(reply, headers=[*headers, (RECEIPT, sealed)], body=reply.body + comment)


def under_another_name(peer: Peer, request: Request, reply: Reply) -> Reply:
    sealed = peer.receipt(request.record, reply.answer)
    placed = peer.placed(reply, sealed)
    renamed = [("custody_receipt", sealed)]
    return replace(placed, headers=[*reply.headers, *(renamed if peer.alpn != "h2" else [])], trailers=renamed)


def the_record_itself(peer: Peer, request: Request, reply: Reply) -> Reply:
    return peer.placed(reply, request.record.text)


def with_another_type(_peer: Peer, _request: Request, reply: Reply) -> Reply:
    headers = [(name, "text/html" if name == "content-type" else value) for name, value in reply.headers]
    return replace(reply, headers=headers)


LIES: dict[str, Lie] = {
    "receipt_missing none": lambda _peer, _request, reply: reply,
    "receipt_missing cut": after(lambda _peer, _request, reply: replace(reply, cut=True)),
    "receipt_invalid another component": sealed_by("reasoner"),
    "receipt_invalid another key": sealed_by("tool"),
    "receipt_invalid stranger": of_a_stranger,
    "receipt_invalid signature": spoiled,
    "receipt_invalid body": after(with_another_byte),
    "receipt_invalid status": after(lambda _peer, _request, reply: replace(reply, status=201)),
    "receipt_invalid content type": after(with_another_type),
    "receipt_invalid digest": claiming(cd="A" * 43),
    "receipt_invalid length": claiming(length=7),
    "receipt_invalid head": claiming(rsb="A" * 43),
    "receipt_invalid record": claiming(rec="A" * 43),
    "receipt_invalid chain": claiming(cid=random_id(b"x" * 16)),
    "receipt_invalid issuer": claiming(iss=SpiffeId.parse(spiffe_id("reasoner"))),
    "receipt_invalid audience": claiming(aud=SpiffeId.parse(spiffe_id("reasoner"))),
    "receipt_invalid earlier": claiming(iat=int(time.time()) - 3600),
    "receipt_invalid later": claiming(iat=int(time.time()) + 3600),
    "receipt_invalid denied success": claiming(fin=Fin.DENY),
    "answer_aborted": claiming(fin=Fin.ABORT),
    "receipt_invalid twice": twice,
    "receipt_invalid two places": in_two_places,
    "receipt_invalid type": the_record_itself,
    "receipt_invalid malformed": lambda peer, _request, reply: peer.placed(reply, "a.b.c.d.e"),
}


@contextmanager
def lied_to(folder: Path, lie: Lie, reply: Reply, alpn: str = "h2", **settings: object) -> Iterator[Node]:
    authority = Authority(TRUST_DOMAIN)
    node = Node(folder / "n", authority, settings=settings).start()
    try:
        with Peer(authority, lambda peer, request: lie(peer, request, reply), alpn=alpn) as peer:
            node.route(tool=peer.port)
            yield node
    finally:
        node.stop()


def refused(node: Node) -> StatementEntry:
    wait_until(lambda: [each for each in statements(node, Direction.RECEIVED) if each.st])
    found = statements_in(node.log_dir)[-1]
    assert isinstance(found, StatementEntry)
    assert found.direction is Direction.RECEIVED
    return found


@pytest.mark.parametrize("alpn", ["h2", "http/1.1"])
@pytest.mark.parametrize("name", LIES)
def test_a_short_answer_that_lies_is_refused_whole(tmp_path: Path, name: str, alpn: str) -> None:
    code = name.split(maxsplit=1)[0]
    with lied_to(tmp_path, LIES[name], SHORT, alpn) as node:
        got = call(node)
        assert (got.status, got.code) == (502, code)
        assert SHORT.body not in got.body
        entry = refused(node)
        assert entry.accepted == (code == "answer_aborted" or name.endswith("denied success"))
        node.wait_for_call(direction="out", code=code)


def breaks_off(node: Node, reply: Reply) -> None:
    """The caller sees an error, and never the whole answer."""
    got: list[Answer] = []
    with pytest.raises((http.client.IncompleteRead, ConnectionError)) as caught:
        got.append(call(node))
    if isinstance(caught.value, http.client.IncompleteRead):
        assert len(caught.value.partial) < len(reply.body) or not reply.length


@pytest.mark.parametrize("reply", [LONG, ENDLESS, EVENTS], ids=["length", "chunked", "events"])
@pytest.mark.parametrize("name", [name for name in LIES if name != "receipt_invalid two places"])
def test_a_long_answer_that_lies_breaks_off(tmp_path: Path, name: str, reply: Reply) -> None:
    with lied_to(tmp_path, LIES[name], reply) as node:
        breaks_off(node, reply)
        event = node.wait_for_call(direction="out", code=name.split(maxsplit=1)[0])
        assert event["complete"] is False
        refused(node)


@pytest.mark.parametrize(
    "name", ["receipt_missing none", "receipt_missing cut", "receipt_invalid body", "receipt_invalid another component"]
)
def test_a_long_answer_over_http_1_1_that_lies_breaks_off(tmp_path: Path, name: str) -> None:
    with lied_to(tmp_path, LIES[name], LONG, "http/1.1") as node:
        breaks_off(node, LONG)


def test_answers_swapped_between_two_calls_are_refused(tmp_path: Path) -> None:
    with lied_to(tmp_path, of_the_call_before, SHORT) as node:
        assert call(node).body == SHORT.body
        assert call(node).code == "receipt_invalid"


def test_a_receipt_under_a_twin_of_its_name_is_none(tmp_path: Path) -> None:
    with lied_to(tmp_path, under_another_name, SHORT) as node:
        assert call(node).code == "receipt_invalid"


@pytest.mark.parametrize("status", [200, 302])
def test_a_problem_document_excuses_no_success_from_a_receipt(tmp_path: Path, status: int) -> None:
    body = b'{"code":"custody_forbidden"}'
    reply = Reply(status, [("content-type", "application/problem+json")], body)
    with lied_to(tmp_path, LIES["receipt_missing none"], reply) as node:
        assert call(node).code == "receipt_missing"


def test_of_a_refusal_without_receipt_nothing_but_the_code_passes(tmp_path: Path) -> None:
    body = b'{"code":"custody_expired","detail":"do as I say","missing":["no item"]}'
    headers = [("content-type", "application/problem+json"), ("x-own", "1"), ("set-cookie", "a=b")]
    with lied_to(tmp_path, LIES["receipt_missing none"], Reply(400, headers, body)) as node:
        got = call(node)
        assert (got.status, got.code) == (400, "custody_expired")
        assert b"do as I say" not in got.body
        assert not {"x-own", "set-cookie"} & got.headers.keys()


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"code":"Not a code"}', b"x"])
def test_an_error_that_is_no_refusal_needs_a_receipt(tmp_path: Path, body: bytes) -> None:
    reply = Reply(503, [("content-type", "application/problem+json")], body)
    with lied_to(tmp_path, LIES["receipt_missing none"], reply) as node:
        assert call(node).code == "receipt_missing"


def test_a_caller_that_cannot_see_a_stream_break_off_gets_none(tmp_path: Path) -> None:
    """HTTP/1.0 has no chunks: the end of a stream and its breaking off look alike."""
    with lied_to(tmp_path, honest, replace(SHORT, length=False)) as node:
        assert b"the answer" in http_1_0(node)
    with lied_to(tmp_path / "long", honest, ENDLESS) as node:
        received = http_1_0(node)
        assert b"answer_too_long" in received
        assert ENDLESS.body[:100] not in received


def http_1_0(node: Node) -> bytes:
    return raw(node.out, b"GET /mcp HTTP/1.0\r\nHost: tool.crm\r\n\r\n")


def test_a_short_answer_that_never_ends_is_an_error_in_time(tmp_path: Path) -> None:
    def stall(peer: Peer, request: Request, reply: Reply) -> Reply:
        whole = honest(peer, request, reply)
        return replace(whole, headers=[*whole.headers, ("content-length", "11")], length=False, stall=True)

    with lied_to(tmp_path, stall, SHORT, timeouts_ms={"response_head": 500}) as node:
        assert call(node).code == "peer_timeout"


def test_lies_end_with_the_call(tmp_path: Path) -> None:
    """A connection that brought a lie still serves what is honest."""

    def sometimes(peer: Peer, request: Request, reply: Reply) -> Reply:
        return honest(peer, request, reply) if len(peer.requests) % 2 else reply

    with lied_to(tmp_path, sometimes, SHORT) as node:
        assert [call(node).code for _ in range(6)] == [None, "receipt_missing"] * 3
        assert node.metric("pool_connections") == 1
