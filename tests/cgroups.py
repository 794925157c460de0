"""Real cgroups of the unified hierarchy for tests, removed at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def unified_root() -> Path:
    """Where the unified hierarchy is mounted, on pure and on hybrid systems."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return Path(before.split(" ")[4])
    raise RuntimeError("no unified cgroup hierarchy is mounted")


@contextmanager
def cgroup(path: str) -> Iterator[Path]:
    """The folder of the cgroup ``path``, made with all its parents; empty again when this ends."""
    root = unified_root()
    made: list[Path] = []
    folder = root
    for part in path.strip("/").split("/"):
        folder /= part
        if not folder.exists():
            folder.mkdir()
            made.append(folder)
    try:
        yield folder
    finally:
        for each in reversed(made):
            for pid in (each / "cgroup.procs").read_text(encoding="ascii").split():
                (root / "cgroup.procs").write_text(pid, encoding="ascii")
            os.rmdir(each)


def move(pid: int, folder: Path) -> None:
    """Put a process into the cgroup."""
    (folder / "cgroup.procs").write_text(str(pid), encoding="ascii")
