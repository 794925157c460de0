"""Following the container engines: containers that stop, start, or are entered.

Owns: what follows from each engine event, and finding the components among running containers.
Does not own: the engine's protocol (``attestor.engine``) or attestation (``attestor.attestation``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import structlog

from attestor.attestation import Attestations
from attestor.engine.api import RunningContainer
from attestor.engine.events import RESYNCED, ContainerEvent
from attestor.entered import EnteredContainers
from attestor.facts import ContainerFacts
from attestor.peer import PinnedProcess
from hopseal.errors import DeniedError, HopsealError

_log = structlog.get_logger("hopseal.attestor")

MAX_WAITING = 1024
PROBE_INTERVAL_S = 5.0
_NO_CONTAINER = "0" * 64
_STOPPED = frozenset({"die", "destroy"})


class RunningContainers(Protocol):
    """What an engine can be asked: ``attestor.engine.api.Engine``."""

    @property
    def socket(self) -> str:
        """Path of the engine's socket."""

    async def list_running(self) -> tuple[RunningContainer, ...]:
        """Every running container."""

    async def inspect(self, container_id: str) -> ContainerFacts:
        """Facts about one container."""


class ContainerFollower:
    """Keeps the attestations in step with one engine; ``run`` works until cancelled.

    Args:
        follow: the engine's events without end.
        pin: a pinned process for the pid that the engine named.
    """

    def __init__(
        self,
        engine: RunningContainers,
        follow: Callable[[], AsyncIterator[ContainerEvent]],
        attestations: Attestations,
        entered: EnteredContainers,
        pin: Callable[[int], PinnedProcess],
    ) -> None:
        self._engine = engine
        self._follow = follow
        self._attestations = attestations
        self._entered = entered
        self._pin = pin
        self._problem = ""
        self._to_observe: asyncio.Queue[tuple[str, int | None]] = asyncio.Queue(MAX_WAITING)

    @property
    def problem(self) -> str:
        """What is wrong with the engine, one sentence; empty while it answers."""
        return self._problem

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._observe_waiting(), name="containers-observe")
            group.create_task(self._probe(), name="containers-probe")
            async for event in self._follow():
                await self._handle(event)

    async def _handle(self, event: ContainerEvent) -> None:
        if event.action == RESYNCED:
            self._attestations.measure_again()
            await self._list_all()
        elif event.action in _STOPPED:
            self._attestations.container_stopped(event.container_id)
            self._entered.forget(event.container_id)
        elif event.action == "exec_start":
            self._entered.note(event.container_id, event.at_ns)
            self._attestations.measure_again(event.container_id)
        elif event.action == "start":
            self._queue(event.container_id, None)

    async def _list_all(self) -> None:
        try:
            for container in await self._engine.list_running():
                self._queue(container.id, container.pid)
        except HopsealError as error:
            _log.warning("containers_not_listed", code=error.code, detail=error.detail)

    def _queue(self, container_id: str, pid: int | None) -> None:
        try:
            self._to_observe.put_nowait((container_id, pid))
        except asyncio.QueueFull:
            # It is attested all the same when it calls; only `status` does not know it before.
            _log.warning("container_not_observed", container=container_id, code="queue_full")

    async def _observe_waiting(self) -> None:
        while True:
            container_id, pid = await self._to_observe.get()
            try:
                if pid is None:
                    pid = (await self._engine.inspect(container_id)).pid
                await self._attestations.observe(self._pin(pid))
            except HopsealError as error:
                _log.info("container_not_observed", container=container_id, code=error.code)

    async def _probe(self) -> None:
        """Ask the engine about a container that does not exist: it answers that, or it does not answer."""
        while True:
            problem = ""
            try:
                await self._engine.inspect(_NO_CONTAINER)
            except DeniedError:
                pass
            except HopsealError as error:
                problem = f"container engine {self._engine.socket}: {error.message}"
                problem += f" ({error.remedy})" if error.remedy else ""
            if problem != self._problem:
                self._problem = problem
                _log.warning("engine_health", engine=self._engine.socket, problem=problem or "none any more")
            await asyncio.sleep(PROBE_INTERVAL_S)
