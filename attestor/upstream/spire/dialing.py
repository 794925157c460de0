"""How often and how closely together SPIRE Agent is asked.

Owns: the gate in front of new streams, and the back-off after failures. Does not own: any stream.

An agent that is asked for very many streams in the same instant, as after its own restart, can be slow
for everybody; so openings are spread and bounded, and retries are jittered.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from hopseal.backoff import Backoff

MAX_OPENING = 100
OPENING_INTERVAL_S = 0.001
FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 5.0


class OpeningGate:
    """Lets at most ``MAX_OPENING`` streams be between their request and their first answer."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(MAX_OPENING)
        self._next_at = 0.0

    @asynccontextmanager
    async def opening(self) -> AsyncIterator[Callable[[], None]]:
        """A place among those opening; call what it gives once the first answer is there."""
        await self._places.acquire()
        is_held = True

        def opened() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                self._places.release()

        try:
            now = asyncio.get_running_loop().time()
            self._next_at = max(now, self._next_at + OPENING_INTERVAL_S)
            await asyncio.sleep(self._next_at - now)
            yield opened
        finally:
            opened()


def make_backoff(source: random.Random | None = None) -> Backoff:
    """The pauses after failures of one stream."""
    chosen = source or random.Random()  # noqa: S311 - jitter, no secret
    return Backoff(chosen, first_s=FIRST_BACKOFF_S, longest_s=MAX_BACKOFF_S)
