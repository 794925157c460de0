"""A value that one task publishes and others follow.

Owns: waking the followers; each sees the newest value, never a queue of old ones.
Does not own: what the value means.
"""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Watch(Generic[_T]):
    """The newest value of something and a count of its changes. Belongs to one event loop.

    Args:
        value: what followers see before anything was published.
    """

    def __init__(self, value: _T) -> None:
        self._value = value
        self._version = 0
        self._is_closed = False
        self._changed = asyncio.Event()

    @property
    def value(self) -> _T:
        """What was published last."""
        return self._value

    @property
    def version(self) -> int:
        """How often a value was published."""
        return self._version

    def publish(self, value: _T) -> None:
        """Make ``value`` the current one and wake every follower; nothing happens once it is closed."""
        if not self._is_closed:
            self._value = value
            self._version += 1
            self._wake()

    def close(self) -> None:
        """Nothing more comes: wake every follower."""
        self._is_closed = True
        self._wake()

    async def wait_change(self, seen: int) -> int:
        """Wait until the version is another than ``seen``; the current one, ``seen`` itself once nothing more comes."""
        while self._version == seen and not self._is_closed:
            await self._changed.wait()
        return self._version

    def _wake(self) -> None:
        # A fresh event for each change: whoever waits on the old one wakes exactly once.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
