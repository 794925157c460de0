"""The newest value of something, for any number of followers that each may be slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Generic, TypeVar

from hopseal.errors import UnavailableError

T = TypeVar("T")


class Watch(Generic[T]):
    """Holds one value, or the reason why there is none now.

    Followers see every state that they are quick enough for, and always the newest; nothing queues up.
    """

    def __init__(self) -> None:
        self._state: T | UnavailableError | None = None
        self._version = 0
        self._changed = asyncio.Event()

    @property
    def current(self) -> T | None:
        """The value, or None if there is none now."""
        return None if isinstance(self._state, UnavailableError) else self._state

    def publish(self, value: T) -> None:
        """Give followers ``value``; nothing happens if it equals the present one."""
        if self._state != value:
            self._replace(value)

    def fail(self, error: UnavailableError) -> None:
        """Raise ``error`` from every follower, present and future, until a value is published again."""
        if not isinstance(self._state, UnavailableError) or self._state.code != error.code:
            self._replace(error)

    async def follow(self) -> AsyncGenerator[T, None]:
        """The value as soon as there is one, then each newer one.

        Raises:
            UnavailableError: given to :meth:`fail`.
        """
        seen = 0
        while True:
            while self._version == seen:
                await self._changed.wait()
            seen = self._version
            state = self._state
            if isinstance(state, UnavailableError):
                raise UnavailableError(state.code, state.message, detail=state.detail, remedy=state.remedy)
            if state is not None:
                yield state

    def _replace(self, state: T | UnavailableError) -> None:
        self._state = state
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()
