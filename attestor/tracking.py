"""One process, watched from its first attestation until it is refused, and then until it exits.

Owns: when to measure again. Does not own: measuring (``attestor.evidence``), what follows
(``attestor.case``), or which processes are watched (``attestor.attestation``).

Order that matters
1. The config watch stands before the files are read, so no change falls between.
2. What is approved when a measurement ends decides, not what was approved when it began.
3. A refusal is final. Whoever wants to try again asks for a new watch.
4. An attested process whose evidence cannot be read is measured once more at once before it is
   refused. What was measured and differs refuses it the first time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import structlog

from attestor.case import Bench, Case
from attestor.config_following import ConfigFollower, ConfigWatcher
from attestor.facts import ContainerFacts, Evidence, ExeIdentity, ProcessFacts
from attestor.items import Item, Outcome
from attestor.matching import narrow_config
from attestor.peer import PinnedProcess
from attestor.states import Finding
from attestor.verdict import Verdict
from hopseal.errors import DeniedError

_log = structlog.get_logger("hopseal.attestor")

MAX_CONFIG_SETS = 32  # of more distinct sets of files only those are measured whose other items hold
MIN_MEASURE_GAP_S = 0.05  # a component that keeps touching its files must not keep the node busy


class Collector(Protocol):
    """What measures a process: ``attestor.evidence.EvidenceCollector``."""

    async def collect(
        self,
        process: PinnedProcess,
        config_files: frozenset[tuple[str, ...]],
        *,
        known: ContainerFacts | None = None,
    ) -> Evidence:
        """Everything measured; raises ``DeniedError`` if the process is gone or executed another program."""

    def confirm(self, process: PinnedProcess, exe: ExeIdentity) -> None:
        """Cheap: raises ``DeniedError`` if the process is gone or executes another program than ``exe``."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every tracking works with.

    Args:
        reattest_interval_s: between two measurements, give or take a tenth.
        attest_timeout_s: for one whole measurement.
        jitter: in [0, 1), different at each call.
        observe_duration: told the seconds of each measurement, and whether it was the first.
    """

    collector: Collector
    config_watcher: ConfigWatcher
    bench: Bench
    reattest_interval_s: float
    attest_timeout_s: float
    jitter: Callable[[], float]
    observe_duration: Callable[[float, bool], None]


class Wake(Enum):
    """Why a tracking looks again."""

    EXITED = "exited"
    CONTAINER_STOPPED = "container stopped"
    CONFIG = "config"
    APPROVED = "approved"
    MEASURE = "measure"


class Tracking:
    """One watched process; owns ``process`` and closes it when :meth:`run` ends.

    ``users`` counts open watches. Until ``was_served`` nobody got a verdict: a program that a container
    starts with and that executes another one is then measured anew instead of refused as changed.
    """

    def __init__(self, process: PinnedProcess, around: Surroundings) -> None:
        self.process = process
        self.case = Case(process, around.bench)
        self.users = 0
        self.was_served = False
        self._is_handed_over = False
        self._around = around
        self._wakes: set[Wake] = set()
        self._woken = asyncio.Event()
        self._exited = asyncio.Event()
        self._turn = asyncio.Lock()
        self._measured_mono = 0.0
        self._follower = ConfigFollower(around.config_watcher, process, lambda: self.wake(Wake.CONFIG))

    @property
    def container_id(self) -> str:
        """The container's id as last measured; empty outside containers."""
        container = self.case.evidence.container if self.case.evidence is not None else None
        return container.id if isinstance(container, ContainerFacts) else ""

    def wake(self, why: Wake) -> None:
        """Look again soon, for this reason."""
        self._wakes.add(why)
        self._woken.set()

    def hand_over(self) -> None:
        """Leave the record of the process to the tracking that follows this one."""
        self._is_handed_over = True

    async def run(self) -> None:
        """Watch until the process has exited; raises nothing but cancellation."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self.process.pidfd, self._note_exit)
        try:
            await self._watch_until_final()
            await self._exited.wait()
            self.case.end(Finding.ENDED, "process_exited")
        finally:
            loop.remove_reader(self.process.pidfd)
            self.case.verdicts.close()
            if not self._is_handed_over:
                self._around.bench.registry.end(self.case.key)
            self.process.close()

    async def confirm(self) -> Verdict | None:
        """The verdict, after a cheap look that the process is still what was measured.

        Security: asked right before a key is handed over, so that neither an exec nor a change of what
        is approved between the measurement and that moment goes unnoticed.
        """
        async with self._turn:
            if not self.case.is_final and not self.case.is_current:
                await self._look(measure=not self.case.covers_config())
            facts = self.case.evidence.process if self.case.evidence is not None else None
            if not self.case.is_final and isinstance(facts, ProcessFacts):
                try:
                    self._around.collector.confirm(self.process, facts.exe)
                except DeniedError:
                    await self._look(measure=True)
        if self.case.is_final:
            self.wake(Wake.MEASURE)
        return self.case.verdicts.value

    async def _watch_until_final(self) -> None:
        try:
            async with self._follower:
                while not self.case.is_final:
                    await self._step()
                    if not self.case.is_final:
                        await self._wait_for_wake()
        except Exception:  # noqa: BLE001 - one process that we fail on must not stop the node; it gets nothing
            _log.exception("attestation_failed", pid=self.process.pid)
            self.case.end(Finding.UNREADABLE, "attestor_failed", retry=True)

    async def _step(self) -> None:
        wakes, self._wakes = self._wakes, set()
        self._woken.clear()
        if Wake.EXITED in wakes:
            self.case.end(Finding.ENDED, "process_exited")
        elif Wake.CONTAINER_STOPPED in wakes:
            self.case.end(Finding.ENDED, "container_stopped")
        else:
            async with self._turn:
                if not self.case.is_final:
                    await self._look(measure=wakes != {Wake.APPROVED} or not self.case.covers_config())

    async def _wait_for_wake(self) -> None:
        interval_s = self._around.reattest_interval_s * (0.9 + 0.2 * self._around.jitter())
        try:
            async with asyncio.timeout_at(self._measured_mono + interval_s):
                await self._woken.wait()
        except TimeoutError:
            self.wake(Wake.MEASURE)
        if self._wakes <= {Wake.CONFIG, Wake.MEASURE}:
            await asyncio.sleep(self._measured_mono + MIN_MEASURE_GAP_S - asyncio.get_running_loop().time())

    async def _look(self, *, measure: bool) -> None:
        """Decide, on new evidence if ``measure`` or if the old leaves it open; called in turn only."""
        if not measure and not self.case.decide_again():
            return
        loop = asyncio.get_running_loop()
        started, is_first = loop.time(), self.case.evidence is None
        try:
            async with asyncio.timeout(self._around.attest_timeout_s):
                while self.case.take_evidence(await self._collect(), is_served=self.was_served):
                    pass
        except TimeoutError:
            self.case.end(Finding.UNREADABLE, "attestation_timeout", retry=True)
        except DeniedError as error:
            self._refuse_other_process(error)
        self._measured_mono = loop.time()
        self._around.observe_duration(self._measured_mono - started, is_first)

    async def _collect(self) -> Evidence:
        collect = self._around.collector.collect
        wanted = self.case.ask_for_config()
        before = self.case.evidence
        known = before.container if before is not None and isinstance(before.container, ContainerFacts) else None
        if len(wanted) > MAX_CONFIG_SETS:
            partial = await collect(self.process, frozenset(), known=known)
            wanted = narrow_config(partial, self._around.bench.approved_now())
            known = partial.container if isinstance(partial.container, ContainerFacts) else None
        await self._follower.follow(frozenset(path for files in wanted for path in files))
        return await collect(self.process, wanted, known=known)

    def _refuse_other_process(self, error: DeniedError) -> None:
        if error.code == "peer_gone":
            self.case.end(Finding.ENDED, "process_exited")
            return
        executed = Item("exe", (), (), Outcome.DIFFERS, "exe_changed", error.detail or error.message)
        self.case.end(Finding.DIFFERS, "exe_changed", item=executed, retry=True)

    def _note_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self.process.pidfd)
        self._exited.set()
        self.wake(Wake.EXITED)
