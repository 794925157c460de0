"""One policy, a hundred and ten thousand: what they add to a call, and how long the most take to load."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.effort import ROUNDS
from bench.figures import Figure, figure
from bench.pairs import origin
from bench.plane import Planes, planes
from bench.programs import build, drive

COUNTS = (1, 100, 10_000)
CONNECTIONS = 64
MOST_CPU = 1.5
MOST_LOAD_S = 2.0


def run() -> list[Figure]:
    """The same calls under each, in turns."""
    programs = build("load", "origin")
    with tempfile.TemporaryDirectory(prefix="hopseal-bench-") as name:
        folder = Path(name)
        socket = folder / "origin.sock"
        with origin(programs["origin"], socket), planes(folder / "planes", socket) as pair:
            rounds = [{count: measure(programs["load"], pair, count) for count in COUNTS} for _ in range(ROUNDS)]
    one, hundred, most = COUNTS
    return [
        figure(
            f"CPU of a call, {hundred} policies",
            "µs",
            "one policy",
            [(each[hundred][0], each[one][0]) for each in rounds],
            at_most=MOST_CPU,
        ),
        figure(
            f"CPU of a call, {most:,} policies",
            "µs",
            "one policy",
            [(each[most][0], each[one][0]) for each in rounds],
        ),
        figure(
            f"loading {most:,} policies",
            "s",
            f"{MOST_LOAD_S:g} s",
            [(each[most][1], MOST_LOAD_S) for each in rounds],
            at_most=1.0,
        ),
    ]


def measure(load: Path, pair: Planes, count: int) -> tuple[float, float]:
    """Processor time of a call in microseconds, and how long loading took in seconds."""
    took_s = pair.set_policies(count)
    before = pair.cpu_s()
    figures = drive(load, pair, CONNECTIONS)
    return (pair.cpu_s() - before) / figures["answers"] * 1e6, took_s
