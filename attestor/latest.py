"""One value that changes, or the reason why there is none now, for any number of followers.

Owns: handing the newest on. Does not own: a queue; a slow follower misses what was in between and
holds nobody back.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Generic, TypeVar

from hopseal.errors import UnavailableError
from hopseal.watch import Watch

_T = TypeVar("_T")


class Latest(Generic[_T]):
    """The newest value of something; used from one event loop only."""

    def __init__(self) -> None:
        self._watch: Watch[_T | UnavailableError | None] = Watch(None)

    @property
    def value(self) -> _T | None:
        """The newest value; None before the first and while there is none."""
        state = self._watch.value
        return None if isinstance(state, UnavailableError) else state

    def publish(self, value: _T, *, final: bool = False) -> None:
        """Give followers ``value``, unless it equals the present one; after a ``final`` one they end."""
        if self._watch.value != value:
            self._watch.publish(value)
        if final:
            self.close()

    def fail(self, error: UnavailableError) -> None:
        """Raise ``error`` from every follower, present and future, until a value is published again."""
        state = self._watch.value
        if not isinstance(state, UnavailableError) or state.code != error.code:
            self._watch.publish(error)

    def close(self) -> None:
        """End every follower after the newest value."""
        self._watch.close()

    async def follow(self) -> AsyncGenerator[_T, None]:
        """The newest value as soon as there is one, then each newer one; ends after the final one.

        Raises:
            UnavailableError: given to :meth:`fail`.
        """
        seen = 0
        while (version := await self._watch.wait_change(seen)) != seen:
            seen = version
            state = self._watch.value
            if isinstance(state, UnavailableError):
                raise UnavailableError(state.code, state.message, detail=state.detail, remedy=state.remedy)
            if state is not None:
                yield state
