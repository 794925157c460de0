"""The go-spiffe program of the tests, built once into the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).with_name("gospiffe")
BUILD_TIMEOUT_S = 300


def find_gospiffe() -> Path:
    """The program; skips the test if no Go is here to build it (which fails in CI)."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hopseal"
    program = cache / f"gospiffe-{digest}"
    if program.is_file():
        return program
    go = shutil.which("go") or next((str(each) for each in (Path("/usr/local/go/bin/go"),) if each.is_file()), None)
    if go is None:
        pytest.skip("no Go toolchain: the go-spiffe program cannot be built")
    cache.mkdir(parents=True, exist_ok=True)
    made = program.with_suffix(f".{os.getpid()}")
    command = [go, "build", "-mod=readonly", "-o", str(made), "."]
    subprocess.run(command, cwd=SOURCES, check=True, timeout=BUILD_TIMEOUT_S)
    made.replace(program)
    return program
