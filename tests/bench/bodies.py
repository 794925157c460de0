"""Answers of 1 KB, 64 KB and 1 MB through each pair: calls a second and processor time of a call."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.call import BUSY, rounds
from bench.figures import Figure, figure
from bench.pairs import all_pairs
from bench.programs import build

SIZES = {"1 KB": 1_000, "64 KB": 64_000, "1 MB": 1_000_000}


def run() -> list[Figure]:
    """Every size in turn."""
    programs = build("load", "origin", "plain")
    with tempfile.TemporaryDirectory(prefix="hopseal-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with all_pairs(programs, folder) as pairs:
            ours, *peers = pairs
            measured = {each: rounds(programs["load"], pairs, BUSY, f"/{size}") for each, size in SIZES.items()}
    return [
        made
        for size, found in measured.items()
        for peer in peers
        for made in (
            figure(
                f"answers of {size}, {BUSY} connections",
                "/s",
                peer.name,
                [(each[ours.name].per_second, each[peer.name].per_second) for each in found],
            ),
            figure(
                f"CPU of an answer of {size}",
                "µs",
                peer.name,
                [(each[ours.name].cpu_us, each[peer.name].cpu_us) for each in found],
            ),
        )
    ]
