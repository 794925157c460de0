"""What the demo prints: steps with their time, in colour on a terminal."""

from __future__ import annotations

import sys
import time

_STARTED = time.monotonic()


def heading(text: str) -> None:
    """A new part of the story."""
    print(f"\n{_paint('1', text)}", flush=True)


def step(text: str) -> None:
    """Something that happened, with the seconds since the start."""
    print(f"{_paint('2', f'{time.monotonic() - _STARTED:5.1f} s')}  {text}", flush=True)


def command(words: str) -> None:
    """A command that is about to print for itself."""
    print(f"\n{_paint('36', '$ ' + words)}", flush=True)


def seconds() -> float:
    """Since the start."""
    return time.monotonic() - _STARTED


def good(text: str) -> str:
    """``text`` in the colour of things that are as they should be."""
    return _paint("32", text)


def bad(text: str) -> str:
    """``text`` in the colour of refusals."""
    return _paint("31", text)


def _paint(code: str, text: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if sys.stdout.isatty() else text
