"""Fifty components that call at once, each with an SVID of its own, beside the same fifty as one component.

Batches of statements are per key, so fifty keys have the smaller ones.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.effort import ROUNDS
from bench.figures import Figure, figure
from bench.pairs import origin
from bench.plane import Planes, planes
from bench.programs import build, finished, started

COMPONENTS = 50
LEAST = 0.5


def run() -> list[Figure]:
    """Fifty processes with a connection each, in turns admitted as fifty components and as one."""
    programs = build("load", "origin")
    with tempfile.TemporaryDirectory(prefix="hopseal-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        socket = folder / "origin.sock"
        stack.enter_context(origin(programs["origin"], socket))
        many = stack.enter_context(planes(folder / "many", socket, components=COMPONENTS))
        one = stack.enter_context(planes(folder / "one", socket))
        for pair in (many, one):
            pair.set_policies(COMPONENTS)
        rounds = [(together(programs["load"], many), together(programs["load"], one)) for _ in range(ROUNDS)]
    return [
        figure(
            f"calls of {COMPONENTS} components",
            "/s",
            "the same as one component",
            [(many[0], one[0]) for many, one in rounds],
            at_least=LEAST,
        ),
        figure(
            f"CPU of a call of {COMPONENTS} components",
            "µs",
            "the same as one component",
            [(many[1], one[1]) for many, one in rounds],
        ),
    ]


def together(load: Path, pair: Planes) -> tuple[float, float]:
    """Calls a second of all, and processor time of a call in microseconds."""
    before = pair.cpu_s()
    processes = [started(load, pair, 1) for _ in range(COMPONENTS)]
    figures = [finished(process) for process in processes]
    if any(each["failed"] or each["refused"] for each in figures):
        raise RuntimeError(f"{pair.target}: {figures[0]}")
    answers = sum(each["answers"] for each in figures)
    return sum(each["per_second"] for each in figures), (pair.cpu_s() - before) / answers * 1e6
