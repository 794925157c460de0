"""The state changes of components, kept across restarts for ``hopseal status --history``.

Owns: what of a change is kept, and the queue to the disk. Does not own: the files
(``attestor.history_files``) or the changes (``attestor.case``).

Attesting never waits for the disk: a disk that is slow or full costs history, not identities. What was
lost is counted in the history itself and makes the node unhealthy while it lasts.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from attestor.explain import item_json
from attestor.history_files import HistoryFiles, ReadHistory
from attestor.registry import Record
from attestor.standing import Standing

MAX_WAITING: Final = 4096
SLOW_S: Final = 5.0
FLUSH_TIMEOUT_S: Final = 5.0

_log = structlog.get_logger("hopseal.attestor")


class History:
    """Takes changes at once and writes them in a thread of its own; :meth:`run` works until cancelled.

    Args:
        files: where to.
        clock: epoch seconds.
        monotonic: seconds.
    """

    def __init__(
        self,
        files: HistoryFiles,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._files = files
        self._clock = clock
        self._monotonic = monotonic
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[str, Mapping[str, Any]]] = deque()
        self._lost: Counter[str] = Counter()
        self._arrived = asyncio.Event()
        self._batches: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._writing_since: float | None = None
        self._failure = ""

    def note(self, record: Record, standing: Standing, documents_sha256: str) -> None:
        """Keep that the process of ``record`` became ``standing``; never waits."""
        self._put(standing.qualified, change_json(record, standing, documents_sha256))

    @property
    def problem(self) -> str:
        """What is wrong with keeping history now, for the operator; empty when nothing is."""
        since = self._writing_since
        if since is not None and self._monotonic() - since > SLOW_S:
            return "history: the disk does not answer"
        return self._failure

    async def read(self, qualified: str | None, limit: int) -> ReadHistory:
        """The newest changes of one component or, with None, of all.

        Raises:
            OSError: they cannot be read.
        """
        if qualified is None:
            return await asyncio.to_thread(self._files.read_all, limit)
        return await asyncio.to_thread(self._files.read, qualified, limit)

    async def run(self) -> None:
        """Write what arrives; when cancelled, what has arrived."""
        thread = threading.Thread(target=self._write_batches, name="history", daemon=True)
        thread.start()
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                await self._write_waiting()
        finally:
            if self._waiting:
                self._batches.put(self._next_batch())
            self._batches.put(None)
            # A thread cannot be ended; it ends with its write, or with the process.
            await asyncio.to_thread(thread.join, FLUSH_TIMEOUT_S)

    def _put(self, qualified: str, change: Mapping[str, Any]) -> None:
        if len(self._waiting) >= self._max_waiting:
            lost, _ = self._waiting.popleft()  # the newest says more
            self._lost[lost] += 1
        self._waiting.append((qualified, change))
        self._arrived.set()

    async def _write_waiting(self) -> None:
        batch = self._next_batch()
        self._writing_since = self._monotonic()
        self._batches.put(batch)
        await batch.done.wait()
        self._writing_since = None
        self._lost.update(batch.lost)
        if batch.failure != self._failure:
            self._failure = batch.failure
            _log.warning("history_health", problem=batch.failure or "none any more")

    def _next_batch(self) -> _Batch:
        changes: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for qualified, lost in self._lost.items():
            changes[qualified].append({"at": self._clock(), "component": qualified, "lost": lost})
        for qualified, change in self._waiting:
            changes[qualified].append(change)
        self._lost.clear()
        self._waiting.clear()
        return _Batch(changes, asyncio.get_running_loop())

    def _write_batches(self) -> None:
        while (batch := self._batches.get()) is not None:
            batch.write(self._files)


class _Batch:
    """Changes of several components that are written together."""

    def __init__(self, changes: Mapping[str, list[Mapping[str, Any]]], loop: asyncio.AbstractEventLoop) -> None:
        self._changes = changes
        self._loop = loop
        self.done = asyncio.Event()
        self.lost: Counter[str] = Counter()
        self.failure = ""

    def write(self, files: HistoryFiles) -> None:
        """Called in the thread; never raises, because it must go on with the next."""
        for qualified, changes in self._changes.items():
            try:
                files.append(qualified, changes)
            except OSError as error:
                self.failure = f"history: {error.strerror or error}; state changes are lost until it can be written"
                self.lost[qualified] += sum(int(change.get("lost", 1)) for change in changes)
        try:
            self._loop.call_soon_threadsafe(self.done.set)
        except RuntimeError:
            return  # the loop has ended, nobody waits


def change_json(record: Record, standing: Standing, documents_sha256: str) -> dict[str, Any]:
    """One change as it is kept and shown: digests, names and numbers, never a file's or variable's content."""
    return {
        "at": standing.since,
        "component": standing.qualified,
        "state": standing.state,
        "code": standing.code,
        "pid": record.pid,
        "uid": record.uid,
        "instance": record.instance,
        "documents": documents_sha256,
        "items": [item_json(item) for item in standing.items],
    }
