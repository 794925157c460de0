"""Blocking reads off the event loop, in a bounded pool where one stuck caller cannot starve the others.

Owns: threads, their bound, and fairness between keys. Does not own: what the
jobs read. A file may lie on a filesystem whose owner never answers, and a
thread inside such a read cannot be ended. So every key (a uid) has few slots, a
job that outlives its deadline keeps its slot until it returns, and another
thread is started in place of the stuck one, up to a fixed number.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final, TypeVar, cast

Result = TypeVar("Result")

DEFAULT_WORKERS: Final = 8
DEFAULT_STUCK_WORKERS: Final = 56  # threads started in place of ones past their deadline
DEFAULT_JOBS_PER_KEY: Final = 4


@dataclass(slots=True)
class _Slots:
    free: asyncio.Semaphore
    users: int = 0


@dataclass(slots=True)
class _Job:
    key: Hashable
    call: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]
    discard: Callable[[Any], None] | None
    started: bool = field(default=False)
    overdue: bool = field(default=False)


class Offload:
    """A thread pool whose threads end with the process; use from one event loop."""

    def __init__(
        self,
        *,
        workers: int = DEFAULT_WORKERS,
        stuck_workers: int = DEFAULT_STUCK_WORKERS,
        jobs_per_key: int = DEFAULT_JOBS_PER_KEY,
    ) -> None:
        self._workers = workers
        self._stuck_workers = stuck_workers
        self._jobs_per_key = jobs_per_key
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._slots: dict[Hashable, _Slots] = {}
        self._threads = 0
        self._in_flight = 0
        self._stuck = 0

    async def run(
        self,
        key: Hashable,
        call: Callable[[], Result],
        timeout_s: float,
        *,
        discard: Callable[[Result], None] | None = None,
    ) -> Result:
        """What ``call()`` returns, run in a thread.

        Args:
            key: on whose behalf; each has few slots.
            call: touches nothing of the event loop.
            timeout_s: for waiting and running together.
            discard: gets a result that nobody waits for any more, for instance to close descriptors in it.

        Raises:
            TimeoutError: no slot came free, or the call did not return, within ``timeout_s``; its result is dropped.
        """
        async with asyncio.timeout(timeout_s):
            slots = self._slots.setdefault(key, _Slots(asyncio.Semaphore(self._jobs_per_key)))
            slots.users += 1
            try:
                await slots.free.acquire()
            except BaseException:
                self._leave(key)
                raise
            job = self._submit(key, call, discard)
            try:
                return cast("Result", await job.answer)
            except asyncio.CancelledError:
                self._give_up(job)
                raise

    def close(self) -> None:
        """Let idle threads end; a stuck one ends with its read, or with the process."""
        for _ in range(self._threads):
            self._queue.put(None)
        self._threads = 0

    def _submit(self, key: Hashable, call: Callable[[], Any], discard: Callable[[Any], None] | None) -> _Job:
        loop = asyncio.get_running_loop()
        job = _Job(key, call, loop, loop.create_future(), discard)
        self._queue.put(job)
        self._in_flight += 1
        self._start_threads()
        return job

    def _give_up(self, job: _Job) -> None:
        """The waiter left: a job inside its call holds a thread that somebody else may need."""
        if job.answer.done() and not job.answer.cancelled():  # the answer came while the waiter was being cancelled
            if job.answer.exception() is None and job.discard is not None:
                job.discard(job.answer.result())
        elif job.started and not job.overdue:
            job.overdue = True
            self._stuck += 1
            self._start_threads()

    def _start_threads(self) -> None:
        wanted = min(self._in_flight, self._workers + min(self._stuck, self._stuck_workers))
        while self._threads < wanted:
            self._threads += 1
            threading.Thread(target=self._work, name="evidence", daemon=True).start()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            result, error = None, None
            if not job.answer.cancelled():
                job.started = True
                try:
                    result = job.call()
                except BaseException as raised:  # noqa: BLE001 - handed to the waiter, whatever it is
                    error = raised
            try:
                job.loop.call_soon_threadsafe(self._finish, job, result, error)
            except RuntimeError:  # the loop ended before a stuck read did, so nobody waits for the slot
                return

    def _finish(self, job: _Job, result: object, error: BaseException | None) -> None:
        self._in_flight -= 1
        if job.overdue:
            self._stuck -= 1
        if job.answer.done():
            if job.started and error is None and job.discard is not None:
                job.discard(result)
        elif error is None:
            job.answer.set_result(result)
        else:
            job.answer.set_exception(error)
        self._slots[job.key].free.release()
        self._leave(job.key)

    def _leave(self, key: Hashable) -> None:
        slots = self._slots[key]
        slots.users -= 1
        if not slots.users:
            del self._slots[key]
