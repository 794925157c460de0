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
        """Make ``value`` the current one and wake every follower."""
        self._value = value
        self._version += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def wait_change(self, seen: int) -> int:
        """Wait until the version is another than ``seen``; the current version."""
        while self._version == seen:
            await self._changed.wait()
        return self._version
