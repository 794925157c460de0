"""Answers forged, swapped, replayed, cut or altered: the attack table's rows about what comes back.

The attacker holds the tool's own key, as a component does that was broken into after it was attested, or sits beside
it. Whatever it does, the caller's component gets an error and never a wrong answer that passes as right.
"""

from __future__ import annotations

import concurrent.futures
import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from custody_refusals import refusals_in
from dataplane_nodes import TRUST_DOMAIN, Node, call, spiffe_id, statements
from dataplane_server import Peer, Reply, Request, Respond, honest
from hopseal.log.entries import Direction, StatementEntry
from svid_authority import Authority
from waiting import wait_until

EVENTS = [("content-type", "text/event-stream")]


def refused_with(node: Node, *codes: str) -> None:
    """What came back stands in the log as refused, with these codes, and leaf text that never passes for a receipt."""
    wait_until(lambda: len(refusals_in(node.log_dir)) == len(codes))
    found = refusals_in(node.log_dir)
    assert [each.code for each in found] == list(codes)
    assert all(isinstance(each, StatementEntry) and each.direction is Direction.RECEIVED for each in found)


@contextmanager
def attacked(folder: Path, respond: Respond, **peer: str) -> Iterator[Node]:
    authority = Authority(TRUST_DOMAIN)
    node = Node(folder / "n", authority).start()
    try:
        with Peer(authority, respond, **peer) as server:
            node.route(tool=server.port)
            yield node
    finally:
        node.stop()


def test_answers_of_two_users_cannot_be_swapped(tmp_path: Path) -> None:
    """Two calls are open at once; each gets the other's answer, with the other's receipt."""
    both = threading.Barrier(2, timeout=10)
    made: dict[bytes, Reply] = {}

    def swap(peer: Peer, request: Request) -> Reply:
        made[request.body] = honest(peer, request, Reply(body=b"for " + request.body))
        both.wait()
        return next(reply for body, reply in made.items() if body != request.body)

    authority = Authority(TRUST_DOMAIN)
    nodes = [Node(tmp_path / name, authority).start() for name in ("a", "b")]
    try:
        with Peer(authority, swap) as peer, concurrent.futures.ThreadPoolExecutor(2) as threads:
            for node in nodes:
                node.route(tool=peer.port)
            answers = list(threads.map(lambda n: call(nodes[n], body=b"user %d" % n), range(2)))
        assert [answer.code for answer in answers] == ["receipt_invalid"] * 2
        assert not any(b"for user" in answer.body for answer in answers)
        for node in nodes:
            refused_with(node, "custody_chain")
    finally:
        for node in nodes:
            node.stop()


def test_an_old_answer_cannot_be_played_again(tmp_path: Path) -> None:
    first: list[Reply] = []

    def replay(peer: Peer, request: Request) -> Reply:
        first.append(honest(peer, request, Reply(body=b"the balance is 100")))
        return first[0]

    with attacked(tmp_path, replay) as node:
        assert call(node).body == b"the balance is 100"
        assert call(node).code == "receipt_invalid"
        refused_with(node, "custody_chain")


def test_another_component_cannot_answer_in_the_tools_place(tmp_path: Path) -> None:
    """Its own key is good; the name that was called is not its own."""
    with attacked(tmp_path, honest, name="reasoner") as node:
        assert call(node).code == "peer_untrusted"
        assert not statements(node, Direction.RECEIVED)
        node.wait_for_call(direction="out", code="peer_untrusted")


def test_a_receipt_by_a_stolen_older_key_of_the_tool_is_refused(tmp_path: Path) -> None:
    def with_older_key(peer: Peer, request: Request) -> Reply:
        older = peer.authority.issue(spiffe_id("tool"), ttl_s=-5)
        reply = Reply()
        placed = peer.placed(reply, peer.receipt(request.record, reply.answer, older))
        return replace(placed, headers=[*placed.headers, ("custody-certs", peer.element(older))])

    with attacked(tmp_path, with_older_key) as node:
        assert call(node).code == "receipt_invalid"
        refused_with(node, "custody_untrusted")


def test_an_event_stream_that_ends_early_is_seen_to(tmp_path: Path) -> None:
    """Every event is whole; the last ones are missing, and so is the receipt that would be true of the rest."""

    def drop_the_end(peer: Peer, request: Request) -> Reply:
        events = [b"data: %d\n\n" % n for n in range(100)]
        whole = honest(peer, request, Reply(headers=EVENTS, body=b"".join(events), length=False))
        return replace(whole, body=b"".join(events[:-1]))

    with attacked(tmp_path, drop_the_end) as node:
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            call(node)
        refused_with(node, "custody_binding")


def test_an_event_put_into_a_stream_is_seen(tmp_path: Path) -> None:
    def insert(peer: Peer, request: Request) -> Reply:
        events = [b"data: %d\n\n" % n for n in range(100)]
        whole = honest(peer, request, Reply(headers=EVENTS, body=b"".join(events), length=False))
        return replace(whole, body=b"".join([*events[:50], b"data: pay the attacker\n\n", *events[50:]]))

    with attacked(tmp_path, insert) as node:
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            call(node)
        refused_with(node, "custody_binding")


def test_an_error_cannot_be_made_a_success_nor_a_success_an_error(tmp_path: Path) -> None:
    def lie(peer: Peer, request: Request) -> Reply:
        made = honest(peer, request, Reply(status=500 if request.body == b"fail" else 200))
        return replace(made, status=200 if request.body == b"fail" else 500)

    with attacked(tmp_path, lie) as node:
        assert call(node, body=b"fail").code == "receipt_invalid"
        assert call(node, body=b"work").code == "receipt_invalid"
        refused_with(node, "custody_binding", "custody_binding")
