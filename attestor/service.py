"""The attestor daemon: the only place where its parts are put together.

Owns: construction, the order of start and stop.
Does not own: anything that the parts do, or the process they run in (``attestor.daemon``).

Start: status decisions, documents, sockets (so that a second daemon fails before it does anything),
upstream, attestations, APIs, admin socket. Stop: the APIs first, so that their clients see a lost
connection and not a withdrawal; then what they used. A second signal exits at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import structlog

from attestor.admin import AdminView, build_admin_app
from attestor.admin_server import AdminServer
from attestor.admission import Admission, Rate
from attestor.api.broker import BrokerServer
from attestor.api.connect import ConnectServer
from attestor.api.limits import ConnectionLimits
from attestor.api.workload import WorkloadServer
from attestor.approved import broker_approval, build_approved
from attestor.attestation import Attestations, Capacity, approved_watch
from attestor.case import Bench
from attestor.collectors.config import ConfigLimits
from attestor.config import AttestorConfig
from attestor.config_watch import ConfigWatches
from attestor.containers import ContainerFollower
from attestor.control import StatusStore
from attestor.crowds import crowd_of
from attestor.effective import EffectiveApprovals
from attestor.engine.api import Engine
from attestor.engine.events import ContainerEvents
from attestor.entered import EnteredContainers
from attestor.evidence import EvidenceCollector, EvidenceLimits
from attestor.gauges import add_gauges, add_socket_gauges
from attestor.history import History
from attestor.history_files import HistoryFiles
from attestor.latest import Latest
from attestor.matching import wants_children
from attestor.metrics import Metrics
from attestor.peer import pin_pid
from attestor.registry import Registry
from attestor.sockets import DaemonSockets
from attestor.tracking import Surroundings
from attestor.upstream import build_upstream
from hopseal import __version__
from hopseal.documents.follow import DocumentFollower
from hopseal.entries import Entry, broker_id
from hopseal.errors import HopsealError

_log = structlog.get_logger("hopseal.attestor")

_BURST_S = 4
_BROKER_SHARE = 10


class AttestorService:
    """One attestor; :meth:`run` works until it is told to stop.

    Raises:
        HopsealError: from the constructor or ``run``, when it cannot start.
    """

    def __init__(self, config: AttestorConfig, *, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._clock = clock
        store = StatusStore(config.state_dir)
        self._follower = DocumentFollower(config.documents, config.trust_domain, clock=clock)
        self._brokers = tuple(
            broker_approval(broker_id(config.trust_domain, each.node), each.attest) for each in config.brokers
        )
        self._registry = Registry()
        self._metrics = Metrics()
        self._history = History(HistoryFiles(config.state_dir / "history"), clock=clock)
        self._entered = EnteredContainers(self._registry)
        timeout_s = config.collector_timeout_s
        self._engines = (
            *(Engine("docker", str(path), timeout_s=timeout_s) for path in config.docker),
            *(Engine("podman", str(path), timeout_s=timeout_s) for path in config.podman),
        )
        self._collector = EvidenceCollector(
            self._engines,
            timeout_s=config.collector_timeout_s,
            limits=_evidence_limits(config),
            wants_children=lambda uid: wants_children(self._bench.approved_now(), uid),
        )
        self._entries: Latest[tuple[Entry, ...]] = Latest()
        self._upstream = build_upstream(
            config.upstream, config.trust_domain, config.node, self._entries.follow, clock=clock
        )
        self._watches = ConfigWatches(self._collector.offload)
        self._attestations = self._build_attestations()
        self._container_followers: tuple[ContainerFollower, ...] = ()
        self._sockets = DaemonSockets(config.sockets, config.socket_group)
        self._effective = EffectiveApprovals(
            config, self._follower, store, self._brokers, self._attestations, self._entries
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set."""
        async with AsyncExitStack() as stack:
            await self._follower.load()
            self._effective.apply()
            stack.enter_context(self._sockets)
            for part in (self._collector, self._watches, self._upstream):
                await stack.enter_async_context(part)
            try:
                async with asyncio.TaskGroup() as group:
                    await self._run_parts(group, stop)
            except* HopsealError as failures:
                raise _first(failures) from failures

    async def _run_parts(self, group: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        background = [
            group.create_task(self._follower.run(), name="documents"),
            group.create_task(self._upstream.run(), name="upstream"),
            group.create_task(self._effective.run(), name="approve"),
            group.create_task(self._sockets.run(), name="sockets"),
            group.create_task(self._history.run(), name="history"),
        ]
        async with self._attestations:
            self._container_followers = tuple(map(self._container_follower, self._engines))
            background += [group.create_task(each.run(), name="containers") for each in self._container_followers]
            async with self._serve(group):
                _log.info("attestor_started", node=self._config.node, version=__version__, pid=os.getpid())
                await stop.wait()
                _log.info("attestor_stopping", node=self._config.node)
            for task in background:
                task.cancel()

    @contextlib.asynccontextmanager
    async def _serve(self, group: asyncio.TaskGroup) -> AsyncIterator[None]:
        config = self._config
        limits = ConnectionLimits(
            connections_per_uid=config.limits.connections_per_uid,
            streams_per_connection=config.limits.streams_per_connection,
            requests_per_s_per_uid=config.limits.requests_per_s_per_uid,
            requests_per_s_per_cgroup=config.limits.requests_per_s_per_cgroup,
        )
        brokers = frozenset(approval.spiffe_id for approval in self._brokers)
        workload = WorkloadServer(self._sockets.get("workload"), self._attestations, self._upstream, limits)
        broker = BrokerServer(
            self._sockets.get("broker"),
            self._attestations,
            self._upstream,
            _broker_limits(limits),
            brokers,
            find_listeners=self._collector.find_listeners,
        )
        admin = AdminServer(build_admin_app(self._admin_view()), self._sockets.get("admin"))
        async with workload, broker, admin:
            connect = ConnectServer(
                self._sockets.get("connect"),
                self._attestations,
                self._collector.offload,
                lambda: self._follower.current.documents,
            )
            tasks = [
                group.create_task(workload.run(), name="workload"),
                group.create_task(broker.run(), name="broker"),
                group.create_task(connect.run(), name="connect"),
            ]
            add_gauges(self._metrics, self._registry, self._attestations, self._upstream)
            add_socket_gauges(self._metrics, "workload", "Workload API", workload)
            add_socket_gauges(self._metrics, "broker", "Broker API", broker)
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    def _build_attestations(self) -> Attestations:
        config = self._config
        bench = Bench(
            approved=approved_watch(build_approved(None, {}, self._brokers)),
            registry=self._registry,
            observer=self._metrics,
            clock=self._clock,
            is_entered=self._entered.is_entered,
            keep=self._history.note,
        )
        around = Surroundings(
            collector=self._collector,
            config_watcher=self._watches,
            bench=bench,
            reattest_interval_s=config.reattest_interval_s,
            attest_timeout_s=4 * config.collector_timeout_s,
            jitter=random.random,
            observe_duration=self._metrics.observe_duration,
        )
        limits = config.limits
        admission = Admission(
            per_uid=_rate(limits.attestations_per_s_per_uid),
            per_cgroup=_rate(limits.attestations_per_s_per_cgroup),
            clock=time.monotonic,
        )
        self._bench = bench
        return Attestations(around, admission, crowd_of, Capacity(limits.processes))

    def _container_follower(self, engine: Engine) -> ContainerFollower:
        return ContainerFollower(engine, ContainerEvents(engine).follow, self._attestations, self._entered, pin_pid)

    def _admin_view(self) -> AdminView:
        return AdminView(
            node=self._config.node,
            trust_domain=self._config.trust_domain.name,
            version=__version__,
            registry=self._registry,
            metrics=self._metrics,
            collector=self._collector,
            is_entered=self._entered.is_entered,
            pin=pin_pid,
            approved=self._bench.approved_now,
            documents=lambda: self._follower.current,
            upstream=self._upstream.health,
            problems=self._problems,
            history=self._history.read,
            decide=self._effective.decide,
            timeout_s=4 * self._config.collector_timeout_s,
        )

    def _problems(self) -> list[str]:
        upstream, documents = self._upstream.health(), self._follower.current
        found = self._sockets.problems()
        found += filter(None, [*(each.problem for each in self._container_followers), self._history.problem])
        if not upstream.healthy:
            found.append(f"upstream {upstream.kind}: {upstream.detail}")
        if documents.problems:
            kept = "the last good set stays in force" if documents.documents is not None else "no set was ever good"
            found.append(f"{len(documents.problems)} mistake(s) in the documents, {kept}")
        return found


def _evidence_limits(config: AttestorConfig) -> EvidenceLimits:
    limits = config.limits
    return EvidenceLimits(
        exe_bytes=limits.exe_bytes,
        config=ConfigLimits(
            file_bytes=limits.config_file_bytes, files=limits.config_files, total_bytes=limits.config_total_bytes
        ),
    )


def _broker_limits(limits: ConnectionLimits) -> ConnectionLimits:
    """A broker has proved who it is and asks for every component of the node."""
    per_s = _BROKER_SHARE * limits.requests_per_s_per_uid
    return replace(limits, requests_per_s_per_uid=per_s, requests_per_s_per_cgroup=per_s)


def _rate(per_s: int) -> Rate:
    return Rate(per_s, _BURST_S * per_s)


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
