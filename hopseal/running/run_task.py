"""The one task that all calls of a run belong to.

Owns: opening it, and going on under a new chain before the broker ends the old one. Does not own: whether this
component may begin tasks.
Source: custody-wire §8.4 "Resume".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from hopseal.errors import InvalidError
from hopseal.sdk.tasks import Task, open_task, resume_task

_RENEW_BEFORE_S = 60  # a call that begins now should still end under the same chain


class RunTask:
    """Implements what the bridge asks for a handle.

    Args:
        task_id: of the task; the broker makes up an ID if None.
        clock: epoch seconds.
    """

    def __init__(self, task_id: str | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._task_id = task_id
        self._clock = clock
        self._task: Task | None = None
        self._lock = asyncio.Lock()

    def open(self) -> Task:
        """Open it now; raises what ``open_task`` raises."""
        self._task = open_task(self._task_id)
        self._task_id = self._task.id
        return self._task

    async def handle(self) -> str | None:
        """The handle for a call that begins now."""
        async with self._lock:
            task = self._task
            if task is None or task.expires_at - _RENEW_BEFORE_S <= self._clock():
                task = await asyncio.to_thread(self._renew, task)
            return task.handle

    def _renew(self, task: Task | None) -> Task:
        if task is None:
            return self.open()
        try:
            self._task = resume_task(task.handle)
        except InvalidError:
            # Its chain ended while nobody called, or no call was made under it: there is nothing to go on from.
            return self.open()
        return self._task


class GivenHandle:
    """The task that the run was given, or none: then every call begins one."""

    def __init__(self, handle: str | None) -> None:
        self._handle = handle

    async def handle(self) -> str | None:
        """The handle for a call that begins now."""
        return self._handle
