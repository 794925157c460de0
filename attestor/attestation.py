"""Who is being watched: one shared tracking for each process, from pinning to verdicts.

Owns: which processes are watched, how many, and for whom. Does not own: when one is measured
(``attestor.tracking``) or what follows (``attestor.case``).

* Admission comes before attestation; joining a tracking that runs is free.
* A process that is attested stays watched when nobody asks any more, so that its drift is seen; one
  that was refused is kept on record until it exits. Both are dropped first when room is needed.
* ``attestor.verdict`` has the verdict types.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog

from attestor.admission import Admission
from attestor.approved import ApprovedSet
from attestor.latest import Latest
from attestor.peer import PinnedProcess
from attestor.registry import ProcessKey, key_of
from attestor.standing import message_of
from attestor.states import State
from attestor.tracking import Surroundings, Tracking, Wake
from attestor.verdict import Attested, Match, Refused, Verdict
from hopseal.ids import SpiffeId

__all__ = ["Attestations", "Attested", "Capacity", "Match", "Refused", "Verdict"]

_SWEEP_EVERY = 64  # starts between two looks at how many refused processes are kept

_log = structlog.get_logger("hopseal.attestor")


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many processes are watched at most, and how many that were refused are kept until they exit."""

    processes: int
    refused: int = 256


class Attestations:
    """Verdicts on processes; an async context manager that must be entered before it is used.

    Args:
        around: what every tracking works with.
        admission: decides on processes that are not watched yet.
        crowd_of: the key of who shares an allowance with a process; cheap (``attestor.crowds``).
        capacity: bounds.
    """

    def __init__(
        self,
        around: Surroundings,
        admission: Admission,
        crowd_of: Callable[[PinnedProcess], str],
        capacity: Capacity,
    ) -> None:
        self._around = around
        self._admission = admission
        self._crowd_of = crowd_of
        self._capacity = capacity
        self._trackings: dict[ProcessKey, Tracking] = {}
        self._tasks: dict[Tracking, asyncio.Task[None]] = {}
        self._starts = 0
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks.values():
            task.cancel()
        await self._group.__aexit__(kind, error, trace)

    def __len__(self) -> int:
        return len(self._trackings)

    @asynccontextmanager
    async def watch(self, process: PinnedProcess) -> AsyncIterator[AsyncIterator[Verdict]]:
        """The verdicts on ``process``, which is taken over: the first as soon as it is known, then each change.

        The iterator ends after a ``Refused``; without one it ends only when the attestor stops. An SVID may be
        released only after :meth:`confirm`.
        """
        found = await self._join(process)
        if isinstance(found, Refused):
            yield _only(found)
            return
        found.users += 1
        found.was_served = True
        try:
            yield found.case.verdicts.follow()
        finally:
            found.users -= 1

    async def confirm(self, process: PinnedProcess) -> Verdict:
        """The verdict on a watched process after a cheap look that it is still what was measured."""
        tracking = self._trackings.get(key_of(process))
        verdict = None if tracking is None else await tracking.confirm()
        return verdict or Refused(State.GONE, "peer_gone", message_of("process_exited"))

    async def observe(self, process: PinnedProcess) -> None:
        """Watch ``process``, which is taken over, on behalf of nobody; for what an engine lists."""
        if key_of(process) in self._trackings or not self._has_room():
            process.close()
            return
        self._start(process)

    def approve(self, approved: ApprovedSet) -> None:
        """From now on this is what is approved; every watched process is judged by it at once.

        Those that were refused and that nobody asks about are looked at anew, so that ``status`` shows what
        the change means for what runs already.
        """
        self._around.bench.approved.publish(approved)
        for tracking in tuple(self._trackings.values()):
            if not tracking.case.is_final:
                tracking.wake(Wake.APPROVED)
            elif tracking.users == 0 and tracking.process.alive():
                self._start(tracking.process.duplicate())

    def container_stopped(self, container_id: str) -> None:
        """Withdraw from every process of the container."""
        for tracking in self._of_container(container_id):
            tracking.wake(Wake.CONTAINER_STOPPED)

    def measure_again(self, container_id: str | None = None) -> None:
        """Measure the container's processes, or all, soon."""
        trackings = self._trackings.values() if container_id is None else self._of_container(container_id)
        for tracking in trackings:
            tracking.wake(Wake.MEASURE)

    def note_svid(self, pidfd_inode: int, spiffe_id: SpiffeId, expires_at: int | None) -> None:
        """For ``status``: the process was handed this SVID, or (None) the upstream issues none for it."""
        approved = self._around.bench.approved_now()
        for approval in approved.approvals:
            if approval.spiffe_id == spiffe_id:
                self._around.bench.registry.note_svid(pidfd_inode, approval.qualified, expires_at)

    def count_users(self) -> int:
        """How many watches are open."""
        return sum(tracking.users for tracking in self._trackings.values())

    async def _join(self, process: PinnedProcess) -> Tracking | Refused:
        running = self._trackings.get(key_of(process))
        if running is not None and not running.case.is_final:
            process.close()
            running.users += 1  # it must not be dropped to make room while we look
            try:
                await running.confirm()
            finally:
                running.users -= 1
            return running
        refusal = self._refuse_unseen(process)
        if refusal is not None:
            # Counted; whoever floods must not be able to fill the log as well.
            _log.debug("process_not_admitted", pid=process.pid, uid=process.uid, code=refusal.code)
            self._around.bench.observer.verdict_reached(refusal.state, refusal.code)
            process.close()
            return refusal
        return self._start(process)

    def _refuse_unseen(self, process: PinnedProcess) -> Refused | None:
        if not self._admission.admit(process.uid, self._crowd_of(process)):
            code = "rate_limited"
        elif not self._has_room():
            code = "too_many_processes"
        else:
            return None
        return Refused(State.REFUSED, code, message_of(code), retry=True)

    def _start(self, process: PinnedProcess) -> Tracking:
        before = self._trackings.pop(key_of(process), None)
        if before is not None:
            before.hand_over()
            self._drop(before)
        tracking = Tracking(process, self._around)
        task = self._group.create_task(tracking.run(), name=f"tracking-{process.pid}")
        self._trackings[tracking.case.key] = tracking
        self._tasks[tracking] = task
        task.add_done_callback(lambda _: self._forget(tracking))
        self._starts += 1
        if self._starts % _SWEEP_EVERY == 0:
            self._keep_refused_few()
        return tracking

    def _forget(self, tracking: Tracking) -> None:
        self._tasks.pop(tracking, None)
        if self._trackings.get(tracking.case.key) is tracking:
            del self._trackings[tracking.case.key]

    def _drop(self, tracking: Tracking) -> None:
        task = self._tasks.get(tracking)
        if task is not None:
            task.cancel()

    def _has_room(self) -> bool:
        """Whether one more process can be watched, after dropping one that nobody asks about if need be."""
        if len(self._trackings) < self._capacity.processes:
            return True
        idle = [each for each in self._trackings.values() if each.users == 0]
        if not idle:
            return False
        victim = next((each for each in idle if each.case.is_final), idle[0])
        del self._trackings[victim.case.key]
        self._drop(victim)
        return True

    def _keep_refused_few(self) -> None:
        refused = [each for each in self._trackings.values() if each.case.is_final and each.users == 0]
        for tracking in refused[: max(0, len(refused) - self._capacity.refused)]:
            del self._trackings[tracking.case.key]
            self._drop(tracking)

    def _of_container(self, container_id: str) -> Iterable[Tracking]:
        return [each for each in self._trackings.values() if each.container_id == container_id]


async def _only(verdict: Verdict) -> AsyncIterator[Verdict]:
    yield verdict


def approved_watch(first: ApprovedSet) -> Latest[ApprovedSet]:
    """A watch that holds ``first``; :meth:`Attestations.approve` changes it."""
    approved: Latest[ApprovedSet] = Latest()
    approved.publish(first)
    return approved
