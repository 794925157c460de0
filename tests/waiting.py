"""Waiting for a condition with a deadline, instead of sleeping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

POLL_S = 0.01


def wait_until(predicate: Callable[[], object], *, timeout_s: float = 10.0, what: str = "condition") -> None:
    """Return once ``predicate()`` is true; fail the test after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not hold within {timeout_s} s")
        time.sleep(POLL_S)


async def async_wait_until(
    predicate: Callable[[], object | Awaitable[object]], *, timeout_s: float = 10.0, what: str = "condition"
) -> None:
    """Return once ``predicate()`` (plain or awaitable) is true; fail the test after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while True:
        outcome = predicate()
        if isinstance(outcome, Awaitable):
            outcome = await outcome
        if outcome:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not hold within {timeout_s} s")
        await asyncio.sleep(POLL_S)
