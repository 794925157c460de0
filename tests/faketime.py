"""A wall clock that is off, for one process."""

from __future__ import annotations

from pathlib import Path

import pytest


def shifted(offset_s: int) -> dict[str, str]:
    """The environment of a process whose wall clock is off; timers go on as they are."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        pytest.skip("libfaketime is not installed; run `make test`")
    return {"LD_PRELOAD": str(library), "FAKETIME": f"{offset_s:+d}s", "DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}
