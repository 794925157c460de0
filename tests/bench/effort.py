"""How long the benchmarks measure, and on which cores: what decides how far a figure can be trusted.

``BENCH_ROUNDS=1 BENCH_SECONDS=1`` gives a quick look; the figures in the documents are of the defaults.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "4"))
WARMUP_S = min(1.0, SECONDS / 2)
_CORES = sorted(os.sched_getaffinity(0))
PAIR_CORE, OTHER_CORE = _CORES[0], _CORES[-1]
_TICKS = os.sysconf("SC_CLK_TCK")


def pinned(core: int, command: Sequence[str | Path]) -> list[str]:
    """``command`` on one core, with all that it starts."""
    return ["taskset", "--cpu-list", str(core), *map(str, command)]


def cpu_s(pids: Sequence[int]) -> float:
    """Processor time of processes so far, user and system."""
    return sum(_ticks(pid) for pid in pids) / _TICKS


def rss_mb(pids: Sequence[int]) -> float:
    """Resident memory of processes now, in 10^6 bytes."""
    return sum(_resident_kib(pid) for pid in pids) * 1024 / 1e6


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
