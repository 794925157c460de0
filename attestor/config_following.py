"""Following the declared files of one process, which files those are may change.

Owns: one running watch at a time, replaced when the files change. Does not own: inotify
(``attestor.config_watch``) or what follows from a change (``attestor.tracking``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Protocol, Self

import structlog

from attestor.peer import PinnedProcess
from hopseal.errors import HopsealError

_log = structlog.get_logger("hopseal.attestor")


class ConfigWatcher(Protocol):
    """What watches files as a process sees them: ``attestor.config_watch.ConfigWatches``."""

    def watch(self, process: PinnedProcess, paths: Iterable[str]) -> AbstractAsyncContextManager[AsyncIterator[None]]:
        """Yields once for any number of changes; entering raises ``HopsealError`` if it cannot be watched."""


class ConfigFollower:
    """Calls ``on_change`` when a followed file may have changed.

    Where files cannot be watched the periodic measurement finds the change, and the log says so.
    """

    def __init__(self, watcher: ConfigWatcher, process: PinnedProcess, on_change: Callable[[], None]) -> None:
        self._watcher = watcher
        self._process = process
        self._on_change = on_change
        self._paths: frozenset[str] = frozenset()
        self._task: asyncio.Task[None] | None = None
        self._has_warned = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def follow(self, paths: frozenset[str]) -> None:
        """Follow exactly ``paths``; returns once the watch stands, so that what is read next is not missed."""
        if paths == self._paths:
            return
        await self._stop()
        if not paths:
            return
        self._paths = paths
        standing = asyncio.Event()
        self._task = asyncio.create_task(self._follow(paths, standing))
        await standing.wait()

    async def _follow(self, paths: frozenset[str], standing: asyncio.Event) -> None:
        try:
            async with self._watcher.watch(self._process, paths) as changes:
                standing.set()
                async for _ in changes:
                    self._on_change()
        except HopsealError as error:
            self._paths = frozenset()  # the next measurement tries again
            if not self._has_warned:
                self._has_warned = True
                _log.warning("config_watch_unavailable", pid=self._process.pid, code=error.code, detail=error.detail)
            if standing.is_set():
                self._on_change()
        finally:
            standing.set()

    async def _stop(self) -> None:
        task, self._task = self._task, None
        self._paths = frozenset()
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
