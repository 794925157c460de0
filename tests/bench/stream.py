"""A body of 1 GiB in either direction through the pair: its throughput beside Envoy's, and memory while it passes."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.effort import ROUNDS
from bench.figures import Figure, figure
from bench.pairs import Pair, all_pairs
from bench.programs import build, finished, started

BODY_BYTES = int(os.environ.get("BENCH_STREAM_MB", "1024")) << 20
MOST_GROWTH_MB = (64 << 20) / 1e6
SAMPLE_S = 0.05


@dataclass(frozen=True, slots=True)
class Passage:
    """One body through one pair."""

    mb_per_s: float
    cpu_s: float
    grown_mb: float


def run() -> list[Figure]:
    """Answers and requests, in turns with both Envoys."""
    programs = build("load", "origin", "plain")
    with tempfile.TemporaryDirectory(prefix="hopseal-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with all_pairs(programs, folder) as pairs:
            ours, *peers = (pair for pair in pairs if pair.name == "Hopseal" or pair.name.startswith("Envoy"))
            found = {way: turns(programs["load"], [ours, *peers], way) for way in ("answer", "request")}
    size = f"{BODY_BYTES >> 20} MiB"
    return [
        *(
            figure(
                f"{way} of {size}",
                "MB/s",
                peer.name,
                [(each[ours.name].mb_per_s, each[peer.name].mb_per_s) for each in measured],
                at_least=1.0,
            )
            for way, measured in found.items()
            for peer in peers
        ),
        *(
            figure(
                f"CPU of a body of {size}, {way}",
                "s",
                peer.name,
                [(each[ours.name].cpu_s, each[peer.name].cpu_s) for each in measured],
            )
            for way, measured in found.items()
            for peer in peers
        ),
        *(
            figure(
                f"memory while a body of {size} passes, {way}",
                "MB",
                "64 MiB",
                [(each[ours.name].grown_mb, MOST_GROWTH_MB) for each in measured],
                at_most=1.0,
            )
            for way, measured in found.items()
        ),
    ]


def turns(load: Path, pairs: Sequence[Pair], way: str) -> list[dict[str, Passage]]:
    """Each pair in turn, over and over."""
    return [{pair.name: passage(load, pair, way) for pair in pairs} for _ in range(ROUNDS)]


def passage(load: Path, pair: Pair, way: str) -> Passage:
    """One body, while somebody watches the memory of both proxies."""
    path, upload = (f"/{BODY_BYTES}", None) if way == "answer" else ("/", BODY_BYTES)
    before, most, began, used_s = pair.rss_mb(), 0.0, time.perf_counter(), pair.cpu_s()
    process = started(load, pair, 1, path=path, upload=upload, once=True)
    while process.poll() is None:
        most = max(most, pair.rss_mb())
        _wait(process)
    took = time.perf_counter() - began
    figures = finished(process)
    if figures["requests"] != 1 or figures["bytes"] < (BODY_BYTES if upload is None else 1):
        raise RuntimeError(f"{pair.name}: {figures}")
    return Passage(BODY_BYTES / 1e6 / took, pair.cpu_s() - used_s, max(0.0, most - before))


def _wait(process: subprocess.Popen[str]) -> None:
    try:
        process.wait(SAMPLE_S)
    except subprocess.TimeoutExpired:
        return
