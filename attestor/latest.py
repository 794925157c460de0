"""One value that changes, for any number of followers.

Owns: handing the newest value on. Does not own: a queue; a slow follower misses what was
in between and holds nobody back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Latest(Generic[_T]):
    """The newest value of something; used from one event loop only."""

    def __init__(self) -> None:
        self._value: _T | None = None
        self._version = 0
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def value(self) -> _T | None:
        """The newest value; None before the first."""
        return self._value

    def set(self, value: _T, *, final: bool = False) -> None:
        """Publish ``value``; after a ``final`` one followers end and nothing more may be set."""
        if self._closed:
            return
        self._value = value
        self._version += 1
        self._closed = final
        self._wake()

    def close(self) -> None:
        """End every follower after the newest value."""
        self._closed = True
        self._wake()

    async def follow(self) -> AsyncIterator[_T]:
        """The newest value at once if there is one, then each newer one; ends after the final one."""
        seen = 0
        while True:
            if self._version != seen and self._value is not None:
                seen = self._version
                yield self._value
            elif self._closed:
                return
            else:
                await self._changed.wait()

    def _wake(self) -> None:
        # A fresh event for each change: whoever waits on the old one wakes exactly once.
        self._changed.set()
        self._changed = asyncio.Event()
