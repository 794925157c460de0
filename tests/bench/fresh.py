"""A fresh mutual TLS connection: the server's processor time, beside Envoy's.

Full handshakes with TLS 1.3 and P-256 certificates on both sides, nothing resumed, nothing asked over them.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.effort import OTHER_CORE, PAIR_CORE, ROUNDS, cpu_s, pinned
from bench.envoy import envoy_pair
from bench.figures import Figure, figure
from bench.pairs import origin
from bench.plane import PEER_NAME, planes
from bench.programs import build

COUNT = int(os.environ.get("BENCH_HANDSHAKES", "2000"))
TASKS = 8


def run() -> list[Figure]:
    """The same client at both, in turns."""
    programs = build("handshakes", "origin")
    with tempfile.TemporaryDirectory(prefix="hopseal-bench-") as name:
        folder = Path(name)
        socket, theirs = folder / "origin.sock", folder / "envoy"
        theirs.mkdir()
        with (
            origin(programs["origin"], socket),
            planes(folder / "planes", socket) as pair,
            envoy_pair(theirs, socket, http2=True, prefix=pinned(PAIR_CORE, [])) as envoys,
        ):
            second = envoys.pids[1:]

            def ours() -> float:
                return each(programs["handshakes"], pair.port, PEER_NAME, folder / "planes" / "client", pair.cpu_s)

            def peer() -> float:
                return each(programs["handshakes"], envoys.port, "b.example.org", theirs / "a", lambda: cpu_s(second))

            rounds = [(ours(), peer()) for _ in range(ROUNDS)]
    return [figure("CPU of a fresh mutual TLS connection", "µs", "Envoy", rounds, at_most=1.0)]


def each(program: Path, port: int, name: str, client: Path, used_s: Callable[[], float]) -> float:
    """The server's processor time for one of them, in microseconds."""
    files = [client.with_suffix(".pem"), client.with_suffix(".key")]
    command = pinned(OTHER_CORE, [program, f"127.0.0.1:{port}", name, *files, "h2", str(TASKS), str(COUNT)])
    before = used_s()
    made = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    used = used_s() - before
    if made["failed"]:
        raise RuntimeError(f"{name}: {made}")
    return used / float(made["made"]) * 1e6
