"""``CONNECT`` through the real data plane to a real server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane_nodes import Node, call, spiffe_id
from hopseal.custody.record import parse_sealed_record
from hopseal.log.entries import CallEntry, Direction, RecordEntry
from outside_servers import Echo, connect, describe, service
from svid_authority import Authority
from waiting import wait_until


@contextlib.contextmanager
def tunnelling(folder: Path, **egress: object) -> Iterator[tuple[Node, Echo]]:
    """A node whose orchestrator may open tunnels to an echo."""
    with Echo() as echo:
        node = Node(folder / "a", Authority(), settings={"egress": {"allow_private": True, **egress}}).start()
        try:
            describe(node, {"orchestrator": {"services": [service(port=echo.port, opaque=True)]}})
            yield node, echo
        finally:
            node.stop()


def ends(node: Node) -> list[CallEntry]:
    return [each for each in node.log().entries if isinstance(each, CallEntry)]


def wait_for_end(node: Node) -> CallEntry:
    wait_until(lambda: ends(node), what="the end of the tunnel in the log")
    (end,) = ends(node)
    return end


def test_a_tunnel_moves_bytes_and_its_record_and_end_are_logged(tmp_path: Path) -> None:
    with tunnelling(tmp_path) as (node, echo):
        connection, head = connect(node, f"localhost:{echo.port}")
        with connection:
            assert head.startswith("HTTP/1.1 200")
            assert "custody-handle" in head.lower()
            connection.sendall(b"12345")
            assert connection.recv(5) == b"12345"
            assert node.metric("tunnels") == 1
        end = wait_for_end(node)
        (record,) = (each for each in node.log().entries if isinstance(each, RecordEntry))
        assert (record.aud, record.op) == (f"https://localhost:{echo.port}", f"CONNECT localhost:{echo.port}")
        assert record.sealed is not None
        assert (end.rec, end.cid) == (parse_sealed_record(record.sealed).hash, record.cid)
        assert (end.kind, end.phase, end.direction) == ("tunnel", "end", Direction.SENT)
        assert (end.sent, end.received, end.fin, end.why) == (5, 5, "eof", "closed")
        assert end.iss == spiffe_id("orchestrator")
        event = node.wait_for_call(direction="out", code="ok")
        assert (event["custody"], event["kind"], event["complete"]) == ("none", "tunnel", True)
        wait_until(lambda: node.metric("tunnels") == 0, what="the gauge")


@pytest.mark.parametrize("target", ["localhost:{other}", "127.0.0.1:{port}", "db.example.com:{port}", "localhost:443"])
def test_a_tunnel_to_anything_else_is_refused(tmp_path: Path, target: str) -> None:
    with tunnelling(tmp_path) as (node, echo):
        connection, head = connect(node, target.format(port=echo.port, other=echo.port + 1))
        connection.close()
        assert "403" in head.partition("\r\n")[0]
        assert node.wait_for_call(code="egress_denied")["kind"] == "tunnel"
        assert [each for each in node.log().entries if isinstance(each, RecordEntry | CallEntry)] == []


@pytest.mark.parametrize("target", ["localhost", "[::1]:443", "user@localhost:443", "localhost:0"])
def test_a_malformed_target_is_refused(tmp_path: Path, target: str) -> None:
    with tunnelling(tmp_path) as (node, _echo):
        connection, head = connect(node, target)
        connection.close()
        assert "400" in head.partition("\r\n")[0]


def test_requests_do_not_reach_what_is_opaque_nor_tunnels_what_is_not(tmp_path: Path) -> None:
    with tunnelling(tmp_path) as (node, echo):
        assert call(node, f"localhost:{echo.port}").code == "egress_denied"
        describe(node, {"orchestrator": {"services": [service(port=echo.port)]}})
        connection, head = connect(node, f"localhost:{echo.port}")
        connection.close()
        assert "403" in head.partition("\r\n")[0]


def test_a_tunnel_to_an_address_that_is_not_public_is_refused(tmp_path: Path) -> None:
    with tunnelling(tmp_path, allow_private=False) as (node, echo):
        connection, _head = connect(node, f"localhost:{echo.port}")
        connection.close()
        node.wait_for_call(code="egress_address")


def test_a_tunnel_that_policy_denies_is_refused(tmp_path: Path) -> None:
    with tunnelling(tmp_path) as (node, echo):
        node.plane.set_policies('permit(principal, action, resource) when { context.protocol != "connect" };', "[]")
        connection, _head = connect(node, f"localhost:{echo.port}")
        connection.close()
        node.wait_for_call(code="policy_denied")


def test_a_withdrawal_closes_a_tunnel_within_a_second(tmp_path: Path) -> None:
    with tunnelling(tmp_path) as (node, echo):
        connection, _head = connect(node, f"localhost:{echo.port}")
        with connection:
            began = time.monotonic()
            node.withdraw("orchestrator")
            assert connection.recv(1) == b""
            assert time.monotonic() - began < 1
        assert wait_for_end(node).why == "withdrawn"


def test_a_changed_policy_or_document_closes_a_tunnel_within_a_second(tmp_path: Path) -> None:
    def deny(node: Node) -> None:
        node.plane.set_policies("", "[]")

    def unlist(node: Node) -> None:
        describe(node, {})

    for number, change in enumerate((deny, unlist)):
        with tunnelling(tmp_path / str(number)) as (node, echo):
            connection, _head = connect(node, f"localhost:{echo.port}")
            with connection:
                began = time.monotonic()
                change(node)
                assert connection.recv(1) == b""
                assert time.monotonic() - began < 1
            assert wait_for_end(node).why in {"policy_denied", "egress_denied"}


def test_a_tunnel_survives_changes_that_do_not_concern_it(tmp_path: Path) -> None:
    with tunnelling(tmp_path) as (node, echo):
        connection, _head = connect(node, f"localhost:{echo.port}")
        with connection:
            describe(node, {"orchestrator": {"services": [service(port=echo.port, opaque=True), service("x.example")]}})
            node.plane.set_policies("permit(principal, action, resource);", "[]")
            connection.sendall(b"still")
            assert connection.recv(5) == b"still"


def test_an_idle_tunnel_and_an_old_one_are_closed(tmp_path: Path) -> None:
    for why, limits in (("idle", {"tunnel_idle_ms": 200}), ("lifetime", {"tunnel_life_ms": 200})):
        with tunnelling(tmp_path / why, **limits) as (node, echo):
            connection, _head = connect(node, f"localhost:{echo.port}")
            with connection:
                assert connection.recv(1) == b""
            assert wait_for_end(node).why == why


def test_a_tunnel_is_a_call_in_progress_until_it_ends(tmp_path: Path) -> None:
    with tunnelling(tmp_path) as (node, echo):
        connection, _head = connect(node, f"localhost:{echo.port}")
        with connection:
            assert node.metric("calls_in_progress") == 1
        wait_until(lambda: node.metric("calls_in_progress") == 0, what="the end of the call")


def test_stopping_closes_tunnels_and_their_end_is_logged(tmp_path: Path) -> None:
    with tunnelling(tmp_path) as (node, echo):
        connection, _head = connect(node, f"localhost:{echo.port}")
        with connection:
            connection.sendall(b"1")
            assert connection.recv(1) == b"1"
            node.plane.drain(0.1)
            node.stop()
            assert connection.recv(1) == b""
        node.stop = lambda: None  # type: ignore[method-assign]  # stopped already
