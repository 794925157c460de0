"""Garbage, slow clients and floods on the broker's own HTTP: bounded, and the others are answered."""

from __future__ import annotations

import http.client
import os
import socket

import pytest

from broker_process import BrokerProcess
from waiting import wait_until


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    made = BrokerProcess(tmp_path_factory.mktemp("broker"))
    made.start()
    yield made
    made.kill()


def connect(broker: BrokerProcess, where: str) -> socket.socket:
    if where == "admin":
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
        try:
            sock.connect(str(broker.folder / "admin" / "admin.sock"))
        except OSError:
            sock.close()
            raise
        return sock
    port = broker.events("broker_started")[0]["metrics_port"]
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def fetch(broker: BrokerProcess, where: str, path: str) -> int:
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = connect(broker, where)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def answers(broker: BrokerProcess, where: str) -> bool:
    try:
        return fetch(broker, where, "/metrics") == 200
    except (OSError, http.client.HTTPException):
        return False


WHERE = pytest.mark.parametrize("where", ["admin", "metrics"])

GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET /metrics\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 50_000 + b"\r\n",
    b"\r\n" * 1000,
]


@WHERE
@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_answered_with_an_error_or_nothing(broker, where, garbage):
    with connect(broker, where) as sock:
        try:
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
            answer = sock.recv(4096)
        except OSError:
            answer = b""
        assert not answer.startswith(b"HTTP/1.1 200"), answer
    assert answers(broker, where)


@WHERE
@pytest.mark.parametrize("path", ["/v1/../v1/status", "/%2e%2e/etc/passwd", "//metrics", "/v1/agents/x/suspend", "/"])
def test_only_the_named_paths_exist(broker, where, path):
    assert fetch(broker, where, path) == 404


@WHERE
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(broker, where, method):
    connection = http.client.HTTPConnection("localhost", timeout=10)
    connection.sock = connect(broker, where)
    connection.request(method, "/metrics", body=b"x" * 100)
    assert connection.getresponse().status in {404, 405}
    connection.close()


@WHERE
def test_a_flood_of_connections_is_bounded_and_ends(broker, where):
    folder = f"/proc/{broker.pid}/fd"
    before = len(os.listdir(folder))
    held = []
    try:
        for _ in range(300):
            try:
                held.append(connect(broker, where))
            except OSError:
                break
        wait_until(lambda: len(os.listdir(folder)) <= before + 70)
    finally:
        for sock in held:
            sock.close()
    wait_until(lambda: answers(broker, where))
    wait_until(lambda: len(os.listdir(folder)) <= before + 2)
