"""The Rust programs of the benchmarks, and running the load generator."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any, Protocol

from bench.effort import OTHER_CORE, SECONDS, WARMUP_S, pinned

CRATE = Path("broker") / "dataplane"


class Reachable(Protocol):
    """What the load generator can be pointed at."""

    @property
    def target(self) -> str: ...
    @property
    def host(self) -> str: ...


def build(*names: str) -> dict[str, Path]:
    """Those of the crate's examples, built if anything changed."""
    target = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hopseal" / "target"
    command = ["cargo", "build", "--locked", "--release", "--manifest-path", str(CRATE / "Cargo.toml")]
    for name in names:
        command += ["--example", name]
    subprocess.run(command, check=True, env={**os.environ, "CARGO_TARGET_DIR": str(target)})
    return {name: target / "release" / "examples" / name for name in names}


def digest(program: Path) -> str:
    return "sha256:" + hashlib.sha256(program.read_bytes()).hexdigest()


def drive(
    load: Path, at: Reachable, connections: int, *, path: str = "/", upload: int | None = None, once: bool = False
) -> dict[str, Any]:
    """Load for a while, or ``once`` on each connection; the figures of the load generator.

    Raises:
        RuntimeError: anything was refused or failed, or nothing was answered.
    """
    figures = finished(started(load, at, connections, path=path, upload=upload, once=once))
    if figures["failed"] or figures["refused"] or not figures["requests"]:
        raise RuntimeError(f"{at.target}: {figures}")
    return figures


def started(
    load: Path, at: Reachable, connections: int, *, path: str = "/", upload: int | None = None, once: bool = False
) -> subprocess.Popen[str]:
    times = ["0", "0"] if once else [str(WARMUP_S), str(SECONDS)]
    options = [] if upload is None else ["--upload", str(upload)]
    command = pinned(OTHER_CORE, [load, at.target, at.host, path, str(connections), *times, *options])
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the load generator ended with {process.returncode}")
    figures: dict[str, Any] = json.loads(output)
    return figures
