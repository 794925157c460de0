"""A data plane that takes over from another one: sockets, log, replay store and handles pass, and no call is lost."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from broker._dataplane import DataPlaneError
from dataplane_chain import three_in_a_row
from dataplane_nodes import Answer, Component, Connection, Node, Seen, answer, call, pair, statements
from dataplane_peer import Message, connected, context, http_request, send
from hopseal.custody.encoding import decode_b64url
from hopseal.log.entries import Direction, RecordEntry
from waiting import wait_until


def records(node: Node, direction: Direction) -> list[RecordEntry]:
    found = [each for each in node.log().entries if isinstance(each, RecordEntry)]
    return [each for each in found if each.direction is direction and each.accepted]


class Load:
    """Clients that call without pause: some on one connection for as long as it lasts, some on new ones."""

    def __init__(self, node: Node, *, kept: int = 3, fresh: int = 3, handles: int = 2) -> None:
        self.node = node
        self.outcomes: Counter[str] = Counter()
        self._stop = threading.Event()
        loops = [self._on_one_connection] * kept + [self._on_new_connections] * fresh + [self._in_a_task] * handles
        self._threads = [threading.Thread(target=loop) for loop in loops]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def total(self) -> int:
        return self.outcomes.total()

    def wait_for(self, more: int) -> None:
        before = self.total
        wait_until(lambda: self.total >= before + more, timeout_s=30)

    def _on_one_connection(self) -> None:
        connection: Connection | None = None
        while not self._stop.is_set():
            # What any client does: a connection that the other side said it ends is not used again.
            connection = connection or Connection(self.node.out)
            outcome, ends = self._exchange(connection)
            self.outcomes[outcome] += 1
            if ends:
                connection.close()
                connection = None
        if connection:
            connection.close()

    @staticmethod
    def _exchange(connection: Connection) -> tuple[str, bool]:
        try:
            connection.request("POST", "/mcp", b"{}", {"Host": "tool.crm"})
            response = connection.getresponse()
            body = response.read()
        except OSError as error:
            return repr(error), True
        return "200" if response.status == 200 else body.decode(), response.will_close

    def _on_new_connections(self) -> None:
        while not self._stop.is_set():
            self.outcomes[self._try(lambda: call(self.node))] += 1

    def _in_a_task(self) -> None:
        handle = call(self.node, "hopseal.local", "/task", body=b"").handle
        while not self._stop.is_set():
            self.outcomes[self._try(lambda: call(self.node, handle=handle))] += 1

    @staticmethod
    def _try(attempt: Callable[[], Answer]) -> str:
        try:
            return attempt().code or "200"
        except OSError as error:
            return repr(error)


@contextlib.contextmanager
def replaced(node: Node) -> Iterator[Node]:
    """The successor of ``node``, which has drained and ended."""
    new = node.succeeded()
    try:
        node.plane.drain(20)
        node.stop()
        yield new
    finally:
        new.stop()


def test_no_call_and_no_entry_is_lost_over_several_restarts_of_both_sides(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, b, _tool):
        nodes = [a, b]
        with Load(a) as load:
            for turn in range(6):
                load.wait_for(40)
                side = turn % 2
                old, nodes[side] = nodes[side], nodes[side].succeeded()
                old.plane.drain(20)
                old.stop()
                load.wait_for(40)
        assert set(load.outcomes) == {"200"}, load.outcomes
        try:
            for node, direction in zip(nodes, (Direction.SENT, Direction.RECEIVED), strict=True):
                log = node.log()
                assert not log.damage
                assert [entry.n for entry in log.entries] == list(range(len(log.entries)))
                found = [entry.jti for entry in records(node, direction)]
                assert len(set(found)) == len(found) >= load.total
            receipts = {each.rec for each in statements(nodes[1], Direction.SENT)}
            assert len(receipts) >= load.total
            assert {each.rec for each in statements(nodes[0], Direction.RECEIVED)} == receipts
        finally:
            for node in nodes:
                node.stop()


def test_a_call_in_progress_ends_where_it_began_and_is_logged_by_the_successor(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, b, tool):
        reached, go_on = threading.Event(), threading.Event()

        def slow(handler: object, seen: Seen) -> None:
            reached.set()
            assert go_on.wait(20)
            answer(handler, b"late")

        tool.respond = slow
        got: list[object] = []
        caller = threading.Thread(target=lambda: got.append(call(a, timeout=30)))
        caller.start()
        assert reached.wait(10)
        new_a, new_b = a.succeeded(), b.succeeded()
        try:
            assert not statements(b, Direction.SENT)
            go_on.set()
            caller.join()
            for old in (a, b):
                old.plane.drain(20)
                old.stop()
            assert [(each.status, each.body) for each in got] == [(200, b"late")]
            sent, received = statements(new_b, Direction.SENT), statements(new_a, Direction.RECEIVED)
            assert [each.rec for each in sent] == [each.rec for each in received]
            assert all(each.accepted for each in received)
        finally:
            new_a.stop()
            new_b.stop()


def test_a_handle_is_good_after_the_hand_over_and_only_for_its_instance(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, _b, _tool):
        handle = call(a, "hopseal.local", "/task", body=json.dumps({"task": {"id": "t-1"}}).encode()).handle
        narrower = call(a, "hopseal.local", "/handle", body=b'{"authority":{"hops":1}}', handle=handle).handle
        assert call(a, handle=handle).status == 200
        with replaced(a) as new:
            for given in (handle, narrower):
                got = call(new, handle=given)
                assert (got.status, got.code) == (200, None)
            told = json.loads(call(new, "hopseal.local", "/handle", method="GET", body=b"", handle=narrower).body)
            assert (told["task"]["id"], told["authority"]["hops"]) == ("t-1", 1)
            assert call(new, handle="A" * 22).code == "handle_unknown"
            new.caller = "reasoner"


def test_what_a_component_does_during_its_call_is_told_of_in_the_receipt_of_the_process_that_began_it(
    tmp_path: Path,
) -> None:
    with three_in_a_row(tmp_path) as row:
        reached, go_on = threading.Event(), threading.Event()
        nodes = [row.b]

        def calls_on(handler: object, seen: Seen) -> None:
            handle = seen.header("custody-handle")
            assert call(row.b, handle=handle).status == 200
            reached.set()
            assert go_on.wait(20)
            assert call(nodes[-1], handle=handle).status == 200
            answer(handler, b"done")

        row.reasoner.respond = calls_on
        got: list[int] = []
        caller = threading.Thread(target=lambda: got.append(call(row.a, "reasoner.crm", timeout=30).status))
        caller.start()
        assert reached.wait(10)
        nodes.append(row.b.succeeded())
        try:
            go_on.set()
            caller.join()
            row.b.plane.drain(20)
            assert got == [200]
            obtained = statements(nodes[-1], Direction.RECEIVED)
            given = statements(nodes[-1], Direction.SENT)
            assert (len(obtained), len(given)) == (2, 1)
            claims = json.loads(_payload(given[0].sealed))
            assert len(claims["kids"]) == 2
        finally:
            nodes[-1].stop()


def _payload(sealed: str | None) -> bytes:
    assert sealed is not None
    return decode_b64url(sealed.split(".")[0])


@pytest.fixture
def svid(tmp_path: Path) -> Iterator[tuple[Node, Component, object]]:
    with pair(tmp_path) as (_a, b, tool):
        yield b, tool, b.authority.issue("spiffe://example.org/agents/crm/orchestrator")


def test_a_record_that_was_accepted_before_is_refused_by_the_successor(svid: tuple) -> None:
    old, tool, given = svid
    message = Message(given).wire()
    assert send(old.port, given, message).code is None
    with replaced(old) as new:
        assert send(new.port, given, message).code == "custody_replayed"
        assert len(tool.seen) == 1


def test_a_record_is_accepted_by_one_of_the_two_while_both_live(svid: tuple) -> None:
    """A connection that is still open to the going process, and a new one: neither replays what the other took."""
    old, tool, given = svid
    first, second = Message(given), Message(given)
    fields = [*second.headers, ("custody-record", second.sealed())]
    opened = _request_without_end(second, fields)
    with connected(old.port, context(given)) as late:
        late.sendall(opened[:-1])
        wait_until(lambda: old.metric("calls_in_progress") == 1, what="the request is being read")
        new = old.succeeded()
        try:
            assert send(new.port, given, second.wire(sealed=fields[-1][1])).code is None
            late.sendall(opened[-1:])
            assert b"custody_replayed" in _read_all(late)
            message = first.wire()
            assert send(new.port, given, message).code is None
            assert send(new.port, given, message).code == "custody_replayed"
            assert len(tool.seen) == 2
            old.plane.drain(20)
        finally:
            new.stop()


def test_what_the_going_process_accepts_the_successor_refuses(svid: tuple) -> None:
    old, tool, given = svid
    message = Message(given)
    fields = [*message.headers, ("custody-record", message.sealed())]
    opened = _request_without_end(message, fields)
    with connected(old.port, context(given)) as late:
        late.sendall(opened[:-1])
        wait_until(lambda: old.metric("calls_in_progress") == 1, what="the request is being read")
        new = old.succeeded()
        try:
            late.sendall(opened[-1:])
            assert _read_all(late).startswith(b"HTTP/1.1 200")
            assert send(new.port, given, message.wire(sealed=fields[-1][1])).code == "custody_replayed"
            assert len(tool.seen) == 1
            old.plane.drain(20)
            assert len(records(new, Direction.RECEIVED)) == 1
        finally:
            new.stop()


def _request_without_end(message: Message, fields: list[tuple[str, str]]) -> bytes:
    return http_request(message.method, message.path, [("host", "ignored"), *fields], message.body)


def _read_all(connection: object) -> bytes:
    received = b""
    with contextlib.suppress(OSError):
        while chunk := connection.recv(65536):
            received += chunk
    return received


def test_a_going_process_that_dies_costs_the_successor_nothing(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, _b, _tool):
        handle = call(a, "hopseal.local", "/task", body=b"").handle
        new = a.succeeded()
        try:
            a.stop()
            assert call(new, handle=handle).status == 200
            numbers = [entry.n for entry in new.log().entries]
            assert numbers == list(range(len(numbers)))
        finally:
            new.stop()


def test_a_process_hands_over_once_and_keeps_nothing_of_its_sockets(tmp_path: Path) -> None:
    with pair(tmp_path) as (a, _b, _tool):
        new = a.succeeded()
        try:
            with pytest.raises(DataPlaneError) as again:
                a.plane.hand_over()
            assert again.value.args[0] == "handover_failed"
            with pytest.raises(DataPlaneError):
                a.plane.descriptors()
            a.plane.drain(20)
            a.stop()
            assert a.out.exists()
            assert call(new).status == 200
        finally:
            new.stop()
        assert not a.out.exists()
