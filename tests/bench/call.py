"""A brokered call (mTLS, sealed record, policy and durable log on both sides) beside pairs that only forward.

Client → A → mutual TLS → B → origin; A and B of each pair on one core, client and origin on another; closed loop over
Unix sockets, in rounds that take turns. Every Hopseal call here opens a new task, so every one carries a root record.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.effort import ROUNDS
from bench.figures import Figure, figure
from bench.pairs import Pair, all_pairs
from bench.programs import build, drive
from real.nodes import Node, get

SIGNATURES = 2  # of a call: its record and its receipt
CHECKS_TARGET = 0.15
BUSY = 64
LEAST_RATE = {"Envoy pair, h1": 1.3, "Envoy pair, h2": 1.0}
MOST_CPU = {"Envoy pair, h1": 0.65}
PLAIN_RATE = 3.5


@dataclass(frozen=True, slots=True)
class Sample:
    """One pair under load for one round."""

    per_second: float
    cpu_us: float
    p50_us: float
    p99_us: float


Round = dict[str, Sample]


def run() -> list[Figure]:
    """Throughput and processor time at 64 connections, latency at one."""
    programs = build("load", "origin", "plain")
    with tempfile.TemporaryDirectory(prefix="hopseal-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with all_pairs(programs, folder) as pairs:
            ours, *peers = pairs
            direct = Pair("the origin alone", f"unix:{folder / 'origin.sock'}", "origin", ())
            busy = rounds(programs["load"], pairs, BUSY)
            idle = rounds(programs["load"], [*pairs, direct], 1)
            checks = [(checks_per_call(programs["load"], ours), SIGNATURES) for _ in range(ROUNDS)]
    names = [each.name for each in peers]
    return [
        *(each for peer in names for each in beside(busy, ours.name, peer)),
        *(each for peer in names for each in latency(idle, ours.name, peer, direct.name)),
        *plain_rates(busy),
        figure("signature checks per call", "", "one by one", checks, at_most=CHECKS_TARGET / SIGNATURES),
    ]


def rounds(load: Path, pairs: Sequence[Pair], connections: int, path: str = "/") -> list[Round]:
    """Each pair in turn, over and over."""
    return [{pair.name: sample(load, pair, connections, path) for pair in pairs} for _ in range(ROUNDS)]


def sample(load: Path, pair: Pair, connections: int, path: str) -> Sample:
    before = pair.cpu_s()
    figures = drive(load, pair, connections, path=path)
    cpu_us = (pair.cpu_s() - before) / figures["answers"] * 1e6
    return Sample(figures["per_second"], cpu_us, figures["p50_us"], figures["p99_us"])


def beside(measured: list[Round], ours: str, peer: str) -> Iterable[Figure]:
    """Ours beside one peer, under load."""
    yield figure(
        f"calls, {BUSY} connections",
        "/s",
        peer,
        [(each[ours].per_second, each[peer].per_second) for each in measured],
        at_least=LEAST_RATE.get(peer),
    )
    yield figure(
        f"CPU of a call, {BUSY} connections",
        "µs",
        peer,
        [(each[ours].cpu_us, each[peer].cpu_us) for each in measured],
        at_most=MOST_CPU.get(peer),
    )
    yield figure(f"p99, {BUSY} connections", "µs", peer, [(each[ours].p99_us, each[peer].p99_us) for each in measured])


def latency(measured: list[Round], ours: str, peer: str, direct: str) -> Iterable[Figure]:
    """What a pair adds to the origin's own answer, at one connection."""

    def added(each: Round, name: str) -> float:
        return each[name].p50_us - each[direct].p50_us

    yield figure(
        "added p50, 1 connection",
        "µs",
        peer,
        [(added(each, ours), added(each, peer)) for each in measured],
        at_most=1.0 if peer.startswith("Envoy") else None,
    )


def plain_rates(measured: list[Round]) -> Iterable[Figure]:
    """A pair of our libraries that only forwards, beside Envoy of the same protocol."""
    for protocol in ("h1", "h2"):
        plain, peer = f"plain forwarding, {protocol}", f"Envoy pair, {protocol}"
        rates = [(each[plain].per_second, each[peer].per_second) for each in measured]
        yield figure(f"plain forwarding, {protocol}, {BUSY} connections", "/s", peer, rates, at_least=PLAIN_RATE)


def checks_per_call(load: Path, pair: Pair) -> float:
    """By the brokers' own counters, warm-up included."""
    before = [counters(node) for node in pair.nodes]
    drive(load, pair, BUSY)
    after = [counters(node) for node in pair.nodes]
    checks = sum(now[0] - then[0] for now, then in zip(after, before, strict=True))
    return checks / sum(now[1] - then[1] for now, then in zip(after, before, strict=True))


def counters(node: Node) -> tuple[float, float]:
    """Signatures checked and calls that came in, so far."""
    metrics = {
        each["name"]: each["samples"] for each in get(node.broker_admin, "/v1/status").json()["stats"]["metrics"]
    }
    (checks,) = metrics["hopseal_broker_signature_checks"]
    calls = [each for each in metrics["hopseal_broker_calls"] if each["labels"]["direction"] == "in"]
    return checks["value"], sum(each["value"] for each in calls)
