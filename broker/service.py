"""The broker daemon: the only place that constructs its parts, and their life together.

Owns: construction, one task group, the order of start and stop. Does not own: what any part does.

Start: guard the process -> bind the operators' sockets -> start the data plane, which refuses every
call -> follow documents, policies, routes, the attestor, the journal. Where another broker runs: inherit its sockets ->
follow everything but the journal -> once that can serve, take over -> follow the journal. Stop, on the first SIGTERM or
SIGINT: accept nothing new, wait for calls in progress and for the checkpoint of the last ones, close everything, flush
the log; after a hand-over the checkpoint is the successor's. A second signal ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any

import structlog

import hopseal
from broker.admin import AdminHttp
from broker.attestor_admin import AttestorAdmin
from broker.attestor_link import AttestorLink
from broker.audit.local_log import LocalLog, load_signer
from broker.audit.log_signer import LogSigner
from broker.callees import Callees
from broker.config import BrokerConfig
from broker.dataplane_api import DataPlane, load_data_plane, start_data_plane, take_over_data_plane
from broker.documents import DocumentKeeper
from broker.events import DataPlaneEvents
from broker.handover import Descriptors, HandoverServer, Predecessor, find_predecessor
from broker.identities.registry import Identities
from broker.issuers import IssuerKeys, encode_issuers
from broker.listening import Places, peer_port_of
from broker.logs import CallLines
from broker.metrics import BrokerCollector
from broker.notify import notify_service_manager
from broker.own_identity import OwnIdentityClient
from broker.policy.follow import PolicyFollower
from broker.policy.queries import PolicyQueries
from broker.process import check_pidfd_support, harden, is_attestor_same_user, read_boot_id
from broker.restart import Restart
from broker.routes import RouteFollower
from broker.status import StatusReader
from broker.tcp_callees import find_tcp_listener
from hopseal.backoff import Backoff
from hopseal.documents.follow import DocumentFollower
from hopseal.errors import UnavailableError
from hopseal.sockets import BoundSocket

DRAIN_S = 10.0
DOCUMENTS_S = 0.5  # an open call ends within a second of the document that forbids it
SETTLE_S = 3.0
_LOOK_S = 0.05
_OF_DATA_PLANE = ("out", "out_lock", "peer")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = structlog.get_logger("broker.service")


async def serve(
    config: BrokerConfig, *, take_over: bool = False, load: Callable[[BrokerConfig], DataPlane] = load_data_plane
) -> None:
    """Run the broker until a signal ends it, or another one takes over.

    Args:
        config: the whole configuration.
        take_over: take over from the broker that runs on the same state folder.
        load: gives the data plane, constructed and not started.

    Raises:
        HopsealError: it could not be started; nothing is left bound, and a broker that ran goes on.
    """
    check_pidfd_support()
    same_user = is_attestor_same_user(config.attestor.broker_socket)
    harden(unsafe_dumpable=same_user)
    if same_user:
        log.warning("hardening_reduced", reason="the attestor runs as this user, so this process stays readable for it")
    async with contextlib.AsyncExitStack() as stack:
        predecessor = await find_predecessor(config) if take_over else None
        if predecessor is not None:
            stack.callback(predecessor.close)
        places = Places.inherit(config, predecessor) if predecessor else Places.bind(config)
        stack.callback(places.close)
        data_plane = await stack.enter_async_context(_loaded(config, load))
        # A broker that runs is not disturbed before this one can serve.
        port = None if predecessor else await asyncio.to_thread(start_data_plane, data_plane)
        broker = Broker(config, data_plane, places, await asyncio.to_thread(load_signer, config))
        await broker.run(_watch_signals(config), port, predecessor)
    log.info("broker_stopped")


class Broker:
    """The parts of one broker, constructed and not running.

    Args:
        config: the whole configuration.
        data_plane: loaded.
        places: what the broker listens on.
        log_signer: the key of this node's log.
    """

    def __init__(self, config: BrokerConfig, data_plane: DataPlane, places: Places, log_signer: LogSigner) -> None:
        source = random.SystemRandom()
        self._config = config
        self._data_plane = data_plane
        self._places = places
        self._is_handed_over = False
        self.own = OwnIdentityClient(config.attestor.workload_socket, config.broker_id, Backoff(source))
        self.link = AttestorLink(
            config.attestor.broker_socket,
            config.attestor_id,
            self.own.current,
            boot_id=read_boot_id(),
            openings=config.limits.openings,
            backoff=Backoff(source),
        )
        self.identities = Identities(
            self.link, data_plane, limit=config.limits.callers, grace_s=config.attestor.grace_s, source=source
        )
        self.callees = Callees(self.identities, find_tcp=partial(find_tcp_listener, config.attestor.connect_socket))
        self.policies = PolicyFollower(config.policies, data_plane)
        self.routes = RouteFollower(config.routes)
        self.documents = DocumentFollower(config.documents, config.trust_domain, interval_s=DOCUMENTS_S)
        partners = {name: each for boundary in config.boundaries.values() for name, each in boundary.components.items()}
        self._keeper = DocumentKeeper(
            self.documents, data_plane, self.policies, self.identities, self.callees, partners
        )
        self.issuers = IssuerKeys(config.issuers, source)
        self.events = DataPlaneEvents(data_plane, self.identities, self.issuers, CallLines(config.log))
        self.local_log = LocalLog(config, log_signer, data_plane, self.own.current, source)
        self._attestor_admin = AttestorAdmin(config.attestor.admin_socket) if config.attestor.admin_socket else None
        self.status = self._build_status(config, places.admin)
        collector = BrokerCollector(data_plane, self.status.read)
        self.http = AdminHttp(self.status, collector, self._attestor_admin, PolicyQueries(data_plane, self.documents))

    async def run(self, stop: asyncio.Event, port: int | None, predecessor: Predecessor | None = None) -> None:
        """Run every part until ``stop`` is set, then drain; a part that fails ends the broker.

        Args:
            stop: set by a signal, and here once another broker has taken over.
            port: the peer port of the started data plane; None if ``predecessor`` has it.
            predecessor: the broker to take over from.
        """
        async with asyncio.TaskGroup() as group, contextlib.AsyncExitStack() as listening:
            tasks = [group.create_task(part) for part in self._parts()]
            if predecessor is not None:
                port = await self._take_over(predecessor)
            logging = [group.create_task(part) for part in self.local_log.parts]
            await listening.enter_async_context(self.http.serve(self._places.admin, self._places.metrics))
            await listening.enter_async_context(self.local_log.serve(self._places.tiles))
            self._tell_started(port)

            async def switch() -> tuple[int, int]:
                # Whoever asks from now on is answered by the other process.
                await listening.aclose()
                await _end(logging)
                given = await asyncio.to_thread(self._data_plane.hand_over)
                self._places.leave()
                self._is_handed_over = True
                return given

            server = HandoverServer(self._config, self._descriptors, switch)
            tasks += [*logging, group.create_task(self._serve_handover(server, stop))]
            await stop.wait()
            await self._drain()
            for task in tasks:
                task.cancel()

    async def _serve_handover(self, server: HandoverServer, stop: asyncio.Event) -> None:
        await server.run()
        if self._is_handed_over:
            stop.set()

    async def _drain(self) -> None:
        timeout_s = self._config.handover.drain_s if self._is_handed_over else DRAIN_S
        log.info("broker_draining", timeout_s=timeout_s, handed_over=self._is_handed_over)
        if not self._is_handed_over:
            notify_service_manager("STOPPING=1")
        # Identities go on being renewed and withdrawn while the last calls end.
        await asyncio.to_thread(self._data_plane.drain, timeout_s)
        if not self._is_handed_over:
            await self.local_log.settle(SETTLE_S)

    async def _take_over(self, predecessor: Predecessor) -> int:
        """The peer port, once this process serves in the other one's place."""
        out, out_lock, peer = (predecessor.take(name) for name in _OF_DATA_PLANE)
        wanted, found = self._config.peer_listen, peer_port_of(peer)
        if wanted.host != found.host or wanted.port not in {0, found.port}:
            raise UnavailableError(
                "handover_failed", f"peer_listen is {wanted} and was {found}", remedy="restart instead of reloading"
            )
        await self._prepare()
        relay, forward = await predecessor.switch()
        descriptors = (out, out_lock, peer, relay, forward)
        port = await asyncio.to_thread(take_over_data_plane, self._data_plane, descriptors)
        self._places.own()
        predecessor.close()
        return port

    async def _prepare(self) -> None:
        """Wait until this broker could serve, its callees included.

        Raises:
            UnavailableError: it takes too long (``handover_not_ready``).
        """
        try:
            async with asyncio.timeout(self._config.handover.ready_s):
                await self._wait_prepared()
        except TimeoutError as error:
            raise UnavailableError(
                "handover_not_ready",
                "this broker could not serve in time; the running one goes on",
                detail="; ".join(self.status.problems()),
                remedy="see what it lacks, or restart instead",
            ) from error

    async def _wait_prepared(self) -> None:
        # Polled: it depends on every part, and nothing is awaited for longer than a start takes.
        while not self._is_prepared():  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)

    def _is_prepared(self) -> bool:
        return self.status.is_ready() and self.own.current.value is not None and self.callees.are_known

    def _descriptors(self) -> Descriptors:
        return dict(zip(_OF_DATA_PLANE, self._data_plane.descriptors(), strict=True)) | self._places.descriptors()

    def _tell_started(self, port: int | None) -> None:
        tiles = self._places.tiles
        log.info(
            "broker_started",
            version=hopseal.__version__,
            pid=os.getpid(),
            node=self._config.node,
            out=str(self._config.out_socket),
            peer_port=port,
            metrics_port=self._places.metrics.getsockname()[1],
            audit_port=tiles.getsockname()[1] if tiles else None,
            log_key=self.local_log.describe()["vkey"],
        )
        notify_service_manager(f"MAINPID={os.getpid()}\nREADY=1")

    def _parts(self) -> list[Coroutine[Any, Any, None]]:
        """What runs from the start; the log's parts wait for the data plane."""
        parts: list[Coroutine[Any, Any, None]] = [
            self.documents.run(),
            self._keeper.run(),
            self.policies.run(),
            self.routes.run(),
            self._follow_routes(),
            self.issuers.run(),
            self._follow_issuers(),
            self.own.run(),
            self._follow_bundles(),
            self.link.run(),
            self.identities.run(),
            self.callees.run(),
            self.events.run(),
        ]
        if self._attestor_admin is not None:
            parts += [self._attestor_admin.run(), self._follow_evidence(self._attestor_admin)]
        return parts

    def _build_status(self, config: BrokerConfig, admin: BoundSocket) -> StatusReader:
        return StatusReader(
            config,
            documents=self.documents,
            policies=self.policies,
            routes=self.routes,
            own=self.own,
            link=self.link,
            identities=self.identities,
            callees=self.callees,
            issuers=self.issuers,
            events=self.events,
            data_plane=self._data_plane,
            attestor_admin=self._attestor_admin,
            admin_socket=admin,
            local_log=self.local_log,
        )

    async def _follow_routes(self) -> None:
        watch = self.routes.current
        seen = 0
        while True:
            seen = await watch.wait_change(seen)
            self._data_plane.set_routes(watch.value.encode())
            for problem in watch.value.problems:
                log.warning("routes_refused", problem=problem)
            log.info("routes_set", components=[component for component, _ in watch.value.endpoints])

    async def _follow_issuers(self) -> None:
        watch = self.issuers.current
        seen = 0
        while True:
            seen = await watch.wait_change(seen)
            self._data_plane.set_issuers(encode_issuers(watch.value))
            for problem in self.issuers.problems():
                log.warning("issuer_keys_refused", problem=problem)

    async def _follow_evidence(self, attestor: AttestorAdmin) -> None:
        seen = 0
        while True:
            seen = await attestor.evidence.wait_change(seen)
            await self.policies.set_evidence(attestor.evidence.value)

    async def _follow_bundles(self) -> None:
        watch = self.own.current
        seen = 0
        while True:
            seen = await watch.wait_change(seen)
            # Without an SVID of our own the last bundles stay: what they verify is still true.
            if watch.value is not None:
                self._data_plane.set_bundles(
                    [
                        (bundle.trust_domain.name, list(bundle.x509_authorities), bundle.sequence)
                        for bundle in watch.value.bundles
                    ]
                )


@contextlib.asynccontextmanager
async def _loaded(config: BrokerConfig, load: Callable[[BrokerConfig], DataPlane]) -> AsyncIterator[DataPlane]:
    await asyncio.to_thread(_make_folders, config)
    data_plane = load(config)
    try:
        yield data_plane
    finally:
        await asyncio.to_thread(data_plane.stop)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel ``tasks`` and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def _make_folders(config: BrokerConfig) -> None:
    try:
        config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (config.state_dir / "log").mkdir(mode=0o700, exist_ok=True)
        config.out_socket.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(
            "folder_unavailable", f"{error.filename}: {error.strerror}", remedy="make it writable for the broker's user"
        ) from error


def _watch_signals(config: BrokerConfig) -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def note() -> None:
        stop.set()
        # The second signal meets the system's default and ends the process.
        for each in _SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    for each in _SIGNALS:
        loop.add_signal_handler(each, note)
    loop.add_signal_handler(signal.SIGHUP, Restart(config).begin)
    return stop
