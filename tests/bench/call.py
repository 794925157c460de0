"""A brokered call (mTLS, sealed record, policy on both sides, durable log on both sides) beside a stock Envoy pair.

The same origin and the same load generator, both in Rust, closed loop over Unix sockets; rounds alternate. Every
Hopseal call here opens a new task, so every one carries a root record. No target yet.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from bench.envoy import envoy_pair
from bench.figures import Figure, figure
from real.nodes import Node, get, running
from waiting import wait_until

CRATE = Path("broker") / "dataplane"
ROUNDS = 3
SECONDS = 4.0
WARMUP_S = 1.0
AGENT = "bench"
SIGNATURES = 2  # of a call: its record and its receipt
CHECKS_TARGET = 0.15


def run() -> list[Figure]:
    """Measure throughput at 64 connections and latency at one, in alternating rounds."""
    programs = build()
    with tempfile.TemporaryDirectory(prefix="hopseal-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with origin(programs["origin"], folder / "origin.sock"), hopseal(programs, folder) as node:
            ours = f"unix:{node.out_socket}", f"origin.{AGENT}"
            return [
                *(
                    each
                    for http2, peer in ((False, "Envoy pair, h1"), (True, "Envoy pair, h2"))
                    for each in compare(programs["load"], folder, ours, http2=http2, peer=peer)
                ),
                figure(
                    "signature checks per call, 64 connections",
                    "",
                    "record and receipt one by one",
                    [(checks_per_call(programs["load"], ours, node), SIGNATURES) for _ in range(ROUNDS)],
                    at_most=CHECKS_TARGET / SIGNATURES,
                ),
            ]


def compare(load: Path, folder: Path, ours: tuple[str, str], *, http2: bool, peer: str) -> list[Figure]:
    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        envoy_pair(Path(name), folder / "origin.sock", http2=http2) as entry,
    ):
        theirs = f"unix:{entry}", "bench.example.org"
        busy = [(drive(load, ours, 64), drive(load, theirs, 64)) for _ in range(ROUNDS)]
        idle = [(drive(load, ours, 1), drive(load, theirs, 1)) for _ in range(ROUNDS)]
    return [
        figure("calls, 64 connections", "/s", peer, pairs(busy, "per_second")),
        figure("latency p50, 64 connections", "µs", peer, pairs(busy, "p50_us")),
        figure("latency p99, 64 connections", "µs", peer, pairs(busy, "p99_us")),
        figure("latency p50, 1 connection", "µs", peer, pairs(idle, "p50_us")),
    ]


def checks_per_call(load: Path, ours: tuple[str, str], node: Node) -> float:
    """By the broker's own counters, warm-up included."""
    before = counters(node)
    drive(load, ours, 64)
    checks, calls = (after - first for after, first in zip(counters(node), before, strict=True))
    return checks / calls


def counters(node: Node) -> tuple[float, float]:
    """Signatures checked and calls that came in, so far."""
    metrics = {
        each["name"]: each["samples"] for each in get(node.broker_admin, "/v1/status").json()["stats"]["metrics"]
    }
    (checks,) = metrics["hopseal_broker_signature_checks"]
    calls = [each for each in metrics["hopseal_broker_calls"] if each["labels"]["direction"] == "in"]
    return checks["value"], sum(each["value"] for each in calls)


def pairs(rounds: list[tuple[dict[str, Any], dict[str, Any]]], key: str) -> list[tuple[float, float]]:
    return [(ours[key], theirs[key]) for ours, theirs in rounds]


def drive(load: Path, target: tuple[str, str], connections: int) -> dict[str, Any]:
    command = [str(load), *target, "/", str(connections), str(WARMUP_S), str(SECONDS)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, Any] = json.loads(answer.stdout)
    if figures["failed"] or figures["refused"] or not figures["requests"]:
        raise RuntimeError(f"{target[0]}: {figures}")
    return figures


def build() -> dict[str, Path]:
    """The Rust programs of the benchmarks, copied aside so that their digest is theirs alone."""
    target = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hopseal" / "target"
    command = ["cargo", "build", "--locked", "--release", "--manifest-path", str(CRATE / "Cargo.toml"), "--examples"]
    subprocess.run(command, check=True, env={**os.environ, "CARGO_TARGET_DIR": str(target)})
    return {name: target / "release" / "examples" / name for name in ("append", "load", "origin")}


@contextmanager
def origin(program: Path, socket: Path) -> Iterator[None]:
    process = subprocess.Popen([str(program), str(socket)])
    try:
        wait_until(socket.exists, what="origin")
        yield
    finally:
        process.terminate()
        process.wait(5)


@contextmanager
def hopseal(programs: dict[str, Path], folder: Path) -> Iterator[Node]:
    documents = folder / "agents"
    documents.mkdir()
    (documents / "bench.yaml").write_text(yaml.safe_dump(document(programs, folder)))
    embedded = {"kind": "embedded", "state_dir": str(folder / "authority")}
    node = Node("bench-1", folder / "node", documents, "bench.example.org", embedded)
    with running(node):
        wait_until(lambda: node.state(f"{AGENT}/origin") == "attested", timeout_s=20, what="origin attested")
        yield node


def document(programs: dict[str, Path], folder: Path) -> dict[str, Any]:
    load = {
        "name": "load",
        "role": "environment",
        "mayStart": True,
        "attest": {"exe": [digest(programs["load"])]},
        "calls": [{"to": "origin"}],
    }
    served = {
        "name": "origin",
        "role": "connector",
        "attest": {"exe": [digest(programs["origin"])]},
        "listen": f"unix://{folder / 'origin.sock'}",
    }
    return {
        "apiVersion": "hopseal.dev/v1alpha1",
        "kind": "Agent",
        "metadata": {"name": AGENT},
        "spec": {
            "version": "1.0.0",
            "description": "The benchmark's caller and callee",
            "owner": "bench@example.org",
            "team": "bench",
            "status": "active",
            "components": [load, served],
        },
    }


def digest(program: Path) -> str:
    return "sha256:" + hashlib.sha256(program.read_bytes()).hexdigest()
