"""Resident memory: of a whole broker, Python included, and of the data plane alone; idle and with 1000 connections."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from bench.effort import ROUNDS, rss_mb
from bench.figures import Figure, figure
from bench.pairs import envoy, hopseal_pair, origin
from bench.plane import planes
from bench.programs import Reachable, build, finished, started

CONNECTIONS = 1_000
SAMPLE_S = 0.1
BROKER_MB = {"idle": 90.0, "loaded": 150.0}
PLANE_MB = {"idle": 20.0, "loaded": 60.0}


class Measured(Protocol):
    """A proxy whose memory can be told."""

    def __call__(self) -> float: ...


def run() -> list[Figure]:
    """One of each at a time, each started anew."""
    programs = build("load", "origin")
    rounds = [once(programs) for _ in range(ROUNDS)]
    figures = []
    for kind, bounds in (("the whole broker", BROKER_MB), ("the data plane", PLANE_MB)):
        for state, bound in bounds.items():
            what = "idle" if state == "idle" else f"{CONNECTIONS} connections"
            found = [(each[kind, state], bound) for each in rounds]
            figures.append(figure(f"{kind}, {what}", "MB", f"{bound:g} MB", found, at_most=1.0))
            beside = [(each[kind, state], each["Envoy", state]) for each in rounds]
            figures.append(figure(f"{kind}, {what}", "MB", "one Envoy", beside))
    return figures


def once(programs: dict[str, Path]) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory(prefix="hopseal-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        socket = folder / "origin.sock"
        stack.enter_context(origin(programs["origin"], socket))
        ours = stack.enter_context(hopseal_pair(programs, folder))
        (folder / "envoy").mkdir()
        theirs = stack.enter_context(envoy(folder / "envoy", socket, http2=True))
        alone = stack.enter_context(planes(folder / "planes", socket))
        python_mb = float(alone.answer["python_mb"])
        both = (
            ("the whole broker", ours, lambda: rss_mb(ours.pids[:1])),
            ("Envoy", theirs, lambda: rss_mb(theirs.pids[:1])),
            ("the data plane", alone, lambda: (alone.rss_mb() - python_mb) / 2),
        )
        for kind, at, measured in both:
            found[kind, "idle"] = measured()
            found[kind, "loaded"] = loaded(programs["load"], at, measured)
    return found


def loaded(load: Path, at: Reachable, measured: Measured) -> float:
    """The most while so many connections each wait for an answer."""
    process, most = started(load, at, CONNECTIONS), 0.0
    while process.poll() is None:
        most = max(most, measured())
        time.sleep(SAMPLE_S)
    figures = finished(process)
    if figures["failed"] or figures["answers"] < CONNECTIONS:
        raise RuntimeError(f"{at.target}: {figures}")
    return most
