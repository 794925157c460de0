"""Calls in a flood of handshakes beside calls without one: the same callers, in alternating rounds.

Whoever floods sends the first message of a handshake from many addresses and nothing else: it costs the sender next to
nothing and us a key exchange and a signature. On a busy machine the flood's own processes take time from the calls, so
read the ratio together with how many hellos a second got through.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from bench.effort import ROUNDS, SECONDS
from bench.figures import Figure, figure
from dataplane_nodes import Connection, Node, pair

CALLERS = 4
PAUSE_S = 0.005
HELLOS_PER_S = 1000
ADDRESSES = 200
HELD = 200
AT_MOST = 2.0


def run() -> list[Figure]:
    """Measure the median and the 99th percentile of calls, with and without the flood."""
    with tempfile.TemporaryDirectory(prefix="hopseal-bench-") as name, pair(Path(name) / "pair") as (a, b, _tool):
        measure(a)
        medians, tails, hellos = [], [], []
        for _ in range(ROUNDS):
            quiet = measure(a)
            with flood(b.port) as sent:
                flooded = measure(a)
            medians.append((percentile(flooded, 50), percentile(quiet, 50)))
            tails.append((percentile(flooded, 99), percentile(quiet, 99)))
            hellos.append((sent.value / SECONDS, float(HELLOS_PER_S)))
        return [
            figure("call p50 in a flood of handshakes", "ms", "without", medians),
            figure("call p99 in a flood of handshakes", "ms", "without", tails, at_most=AT_MOST),
            figure("hellos per second that got through", "", "meant", hellos),
        ]


def measure(node: Node) -> list[float]:
    """Milliseconds of every call that some callers make at once."""
    took: list[float] = []
    end = time.monotonic() + SECONDS

    def keep_calling() -> None:
        with contextlib.closing(Connection(node.out)) as connection:
            while time.monotonic() < end:
                began = time.perf_counter()
                connection.request("POST", "/mcp", b"{}", {"Host": "tool.crm"})
                connection.getresponse().read()
                took.append((time.perf_counter() - began) * 1000)
                time.sleep(PAUSE_S)

    callers = [threading.Thread(target=keep_calling) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return sorted(took)


def percentile(found: list[float], percent: int) -> float:
    return found[min(len(found) - 1, len(found) * percent // 100)]


@contextlib.contextmanager
def flood(port: int) -> Iterator[Synchronized[int]]:
    """Hellos at a steady rate from a process of its own; yields how many were sent."""
    over, sent = multiprocessing.Event(), multiprocessing.Value("q", 0)
    process = multiprocessing.Process(target=send_hellos, args=(port, over, sent))
    process.start()
    try:
        yield sent
    finally:
        over.set()
        process.join()


def send_hellos(
    port: int, over: multiprocessing.synchronize.Event, sent: multiprocessing.sharedctypes.Synchronized[int]
) -> None:
    hello, held, began = first_message(), list[socket.socket](), time.monotonic()
    while not over.is_set():
        source = f"127.0.0.{2 + sent.value % ADDRESSES}"
        with contextlib.suppress(OSError):
            connection = socket.create_connection(("127.0.0.1", port), source_address=(source, 0))
            connection.sendall(hello)
            held.append(connection)
        if len(held) > HELD:
            held.pop(0).close()
        sent.value += 1
        ahead = sent.value / HELLOS_PER_S - (time.monotonic() - began)
        if ahead > 0:
            time.sleep(ahead)


def first_message() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.set_alpn_protocols(["h2"])
    tls = made.wrap_bio(incoming, outgoing, server_hostname="tool.crm.hopseal.invalid")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()
