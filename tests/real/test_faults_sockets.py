"""Every socket of a running node under garbage, half messages and floods, while callers keep getting answers."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from real.nodes import Node, get
from real.oneagent import Load, OneAgent, embedded_agent
from real.rogue import Rogue, rogue_on
from waiting import wait_until

ELSEWHERE = "127.0.0.2"
HANDSHAKE_WITHIN_S = 2.0  # far less than what a handshake may take before it is given up
H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GARBAGE = {
    "zeros": bytes(4096),
    "noise": os.urandom(65_536),
    "half a request": b"POST /run HTTP/1.1\r\nHost: serv",
    "half a body": b"POST /run HTTP/1.1\r\nHost: server.back\r\nContent-Length: 9999\r\n\r\n{",
    "half a frame": H2_PREFACE + b"\x00\x40\x00\x01\x04\x00\x00\x00\x01half",
    "half a hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "endless line": b"GET /" + b"a" * 262_144,
}
SOCKETS = ("workload", "broker", "attestor admin", "broker admin", "out", "peer")


@pytest.fixture(scope="module")
def agent() -> Iterator[OneAgent]:
    with embedded_agent() as agent:
        yield agent


@pytest.fixture(scope="module")
def load(agent: OneAgent) -> Load:
    return agent.start_load(2)


@pytest.fixture(scope="module")
def rogue(agent: OneAgent) -> Iterator[Rogue]:
    with rogue_on(agent) as rogue:
        yield rogue


def path_of(node: Node, name: str) -> Path:
    return {
        "workload": node.api_socket,
        "broker": node.attestor_admin.with_name("broker.sock"),
        "attestor admin": node.attestor_admin,
        "broker admin": node.broker_admin,
        "out": node.out_socket,
    }[name]


def connect(agent: OneAgent, name: str) -> socket.socket:
    if name == "peer":
        return socket.create_connection(("127.0.0.1", agent.peer_port()), timeout=5, source_address=(ELSEWHERE, 0))
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path_of(agent.node, name)))
    except OSError:
        connection.close()
        raise
    return connection


@contextmanager
def held(agent: OneAgent, name: str, count: int) -> Iterator[list[socket.socket]]:
    """``count`` silent connections."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(agent, name)) for _ in range(count)]


def assert_answers(agent: OneAgent) -> None:
    """A caller that is new to the node gets its answer."""
    caller = agent.start_caller()
    answer = caller.call()
    assert (answer["status"], answer["code"]) == (200, None)
    agent.stop_actor(caller)


def open_files(agent: OneAgent, daemon: str) -> int:
    return len(os.listdir(f"/proc/{agent.node.processes[daemon].pid}/fd"))


@pytest.mark.parametrize("name", SOCKETS)
def test_garbage_and_half_messages_harm_nobody(agent, load, name):
    with ExitStack() as stack:
        for garbage in GARBAGE.values():
            connection = stack.enter_context(connect(agent, name))
            connection.setblocking(False)
            try:
                connection.send(garbage)
            except OSError:
                continue  # cut off already
        load.wait_calls(5)
        assert_answers(agent)
        assert get(agent.node.attestor_admin, "/v1/status").json()["healthy"]
        assert get(agent.node.broker_admin, "/v1/status").json()["healthy"]


@pytest.mark.parametrize("name", ["broker", "attestor admin", "broker admin"])
def test_a_flood_of_silent_connections_on_an_operators_socket_harms_no_caller(agent, load, name):
    before = {daemon: open_files(agent, daemon) for daemon in ("attestor", "broker")}
    with held(agent, name, 300):
        load.wait_calls(10)
        assert_answers(agent)
    agent.wait_health("attestor", healthy=True)
    agent.wait_health("broker", healthy=True)
    for daemon, files in before.items():
        wait_until(lambda daemon=daemon, files=files: open_files(agent, daemon) <= files + 8, timeout_s=15)


@pytest.mark.parametrize(("name", "count"), [("workload", 500), ("out", 1500)])
def test_a_strangers_flood_on_a_components_socket_harms_no_other_user(agent, load, name, count):
    before = {daemon: open_files(agent, daemon) for daemon in ("attestor", "broker")}
    flood = agent.start_flood(path_of(agent.node, name), count)
    load.wait_calls(10)
    assert_answers(agent)
    with rogue_on(agent) as rogue:  # another user gets an SVID, too
        assert rogue.send(rogue.message())[0] == 200
    agent.stop_actor(flood)
    for daemon, files in before.items():
        wait_until(lambda daemon=daemon, files=files: open_files(agent, daemon) <= files + 8, timeout_s=15)


def client_hello() -> bytes:
    """The first message of a client that the broker would answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    sent = ssl.MemoryBIO()
    begun = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="server.back.hopseal.invalid")
    with contextlib.suppress(ssl.SSLWantReadError):
        begun.do_handshake()
    return sent.read()


@pytest.mark.parametrize("hello", [b"", GARBAGE["half a hello"], client_hello()], ids=["silent", "half", "whole"])
def test_a_flood_of_handshakes_that_never_end_keeps_no_peer_out(agent, load, rogue, hello):
    before = open_files(agent, "broker")
    with held(agent, "peer", 300) as connections:
        for connection in connections:
            connection.sendall(hello)
        began = time.monotonic()
        assert rogue.send(rogue.message())[0] == 200
        assert time.monotonic() - began < HANDSHAKE_WITHIN_S
        load.wait_calls(10)
    wait_until(lambda: open_files(agent, "broker") <= before + 8, timeout_s=15)


def test_callers_that_end_before_their_answer_leave_nothing_behind(agent, load):
    before = {daemon: open_files(agent, daemon) for daemon in ("attestor", "broker")}
    agent.vanish(60)
    load.wait_calls(10)
    for daemon, files in before.items():
        wait_until(lambda daemon=daemon, files=files: open_files(agent, daemon) <= files + 8, timeout_s=15)
    assert_answers(agent)


def test_no_call_of_the_load_failed_under_any_of_this(agent, load):
    load.wait_calls(5)
    agent.stop_actors()
    assert load.failed == []
    agent.assert_logged(load.answers)
