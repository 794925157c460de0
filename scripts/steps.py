"""Running long set-up steps with progress: one line per step, its last output while it runs, its time at the end.

Owns: how a step looks on a terminal and in a pipe. Does not own: what the steps are (``bootstrap.py``).
Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

HEARTBEAT_S = 15.0
TAIL_LINES = 40


class StepFailedError(Exception):
    """A set-up step ended badly; the message says what to do."""


def say(text: str) -> None:
    """Print one line at once."""
    print(text, flush=True)


def skip(title: str, why: str) -> None:
    """Say that a step had nothing to do."""
    say(f"  ✓ {title} ({why})")


def run(
    title: str, command: Sequence[str | os.PathLike[str]], *, cwd: Path, env: Mapping[str, str] | None = None
) -> None:
    """Run ``command``, showing that it lives; raise StepFailedError with its last lines if it fails."""
    started = time.monotonic()
    say(f"  … {title}")
    process = subprocess.Popen(
        [os.fspath(part) for part in command],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    beat = threading.Thread(target=_heartbeat, args=(process, title, tail, started), daemon=True)
    beat.start()
    if process.stdout is None:
        raise StepFailedError(f"{title}: no output pipe")
    for line in process.stdout:
        if line.strip():
            tail.append(line.rstrip())
    code = process.wait()
    beat.join()
    seconds = time.monotonic() - started
    if code != 0:
        shown = "\n".join(f"      {line}" for line in tail)
        raise StepFailedError(f"{title} failed after {seconds:.0f} s (exit {code}):\n{shown}")
    say(f"  ✓ {title} in {seconds:.1f} s")


def _heartbeat(process: subprocess.Popen[str], title: str, tail: deque[str], started: float) -> None:
    """Show the newest output line while ``process`` runs: rewritten on a terminal, now and then in a pipe."""
    terminal = sys.stdout.isatty()
    shown_at = started
    while process.poll() is None:
        time.sleep(0.2)
        now = time.monotonic()
        newest = tail[-1].strip()[:90] if tail else ""
        if terminal:
            sys.stdout.write(f"\r\x1b[2K    {now - started:4.0f} s  {newest}")
            sys.stdout.flush()
        elif now - shown_at >= HEARTBEAT_S:
            shown_at = now
            say(f"    {title}: {now - started:.0f} s, {newest}")
    if terminal:
        sys.stdout.write("\r\x1b[2K")
        sys.stdout.flush()
