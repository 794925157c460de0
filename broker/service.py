"""The broker daemon: the only place that constructs its parts, and their life together.

Owns: construction, one task group, the order of start and stop. Does not own: what any part does.

Start: guard the process -> bind the operators' sockets -> start the data plane, which refuses every
call -> follow documents, policies, routes, the attestor, the journal. Stop, on the first SIGTERM or SIGINT: accept
nothing new, wait for calls in progress and for the checkpoint of the
last ones, close everything, flush the log. A second signal ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import structlog

import hopseal
from broker.admin import AdminHttp
from broker.attestor_admin import AttestorAdmin
from broker.attestor_link import AttestorLink
from broker.audit.local_log import LocalLog, bind_listener, load_signer
from broker.audit.log_signer import LogSigner
from broker.callees import Callees
from broker.config import BrokerConfig
from broker.dataplane_api import DataPlane, load_data_plane, start_data_plane
from broker.documents import DocumentKeeper
from broker.events import DataPlaneEvents
from broker.identities.registry import Identities
from broker.issuers import IssuerKeys, encode_issuers
from broker.logs import CallLines
from broker.metrics import BrokerCollector
from broker.own_identity import OwnIdentityClient
from broker.policy.follow import PolicyFollower
from broker.policy.queries import PolicyQueries
from broker.process import check_pidfd_support, harden, is_attestor_same_user, read_boot_id
from broker.routes import RouteFollower
from broker.serving import bind_tcp
from broker.status import StatusReader
from hopseal.backoff import Backoff
from hopseal.documents.follow import DocumentFollower
from hopseal.errors import UnavailableError
from hopseal.sockets import BoundSocket, bind_unix_socket

DRAIN_S = 10.0
DOCUMENTS_S = 0.5  # an open call ends within a second of the document that forbids it
SETTLE_S = 3.0
_ADMIN_MODE = 0o660
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = structlog.get_logger("broker.service")


async def serve(config: BrokerConfig, *, load: Callable[[BrokerConfig], DataPlane] = load_data_plane) -> None:
    """Run the broker until a signal ends it.

    Args:
        config: the whole configuration.
        load: gives the data plane, constructed and not started.

    Raises:
        HopsealError: it could not be started; nothing is left bound.
    """
    check_pidfd_support()
    same_user = is_attestor_same_user(config.attestor.broker_socket)
    harden(unsafe_dumpable=same_user)
    if same_user:
        log.warning("hardening_reduced", reason="the attestor runs as this user, so this process stays readable for it")
    async with contextlib.AsyncExitStack() as stack:
        admin = bind_unix_socket(config.admin_socket, mode=_ADMIN_MODE)
        stack.callback(admin.close)
        metrics = bind_tcp(config.metrics_listen)
        stack.callback(metrics.close)
        tiles = bind_listener(config)
        if tiles is not None:
            stack.callback(tiles.close)
        data_plane, port = await stack.enter_async_context(_started(config, load))
        broker = Broker(config, data_plane, admin, await asyncio.to_thread(load_signer, config))
        async with broker.http.serve(admin, metrics), broker.local_log.serve(tiles):
            log.info(
                "broker_started",
                version=hopseal.__version__,
                node=config.node,
                out=str(config.out_socket),
                peer_port=port,
                metrics_port=metrics.getsockname()[1],
                audit_port=tiles.getsockname()[1] if tiles else None,
                log_key=broker.local_log.describe()["vkey"],
            )
            await broker.run(_watch_signals())
    log.info("broker_stopped")


class Broker:
    """The parts of one broker, constructed and not running.

    Args:
        config: the whole configuration.
        data_plane: started.
        admin: the operators' socket, which status watches.
        log_signer: the key of this node's log.
    """

    def __init__(self, config: BrokerConfig, data_plane: DataPlane, admin: BoundSocket, log_signer: LogSigner) -> None:
        source = random.SystemRandom()
        self._data_plane = data_plane
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
        self.callees = Callees(self.identities)
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
        self.status = self._build_status(config, admin)
        collector = BrokerCollector(data_plane, self.status.read)
        self.http = AdminHttp(self.status, collector, self._attestor_admin, PolicyQueries(data_plane, self.documents))

    async def run(self, stop: asyncio.Event) -> None:
        """Run every part until ``stop`` is set, then drain; a part that fails ends the broker."""
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
            *self.local_log.parts,
        ]
        if self._attestor_admin is not None:
            parts += [self._attestor_admin.run(), self._follow_evidence(self._attestor_admin)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in parts]
            await stop.wait()
            log.info("broker_draining", timeout_s=DRAIN_S)
            # Identities go on being renewed and withdrawn while the last calls end.
            await asyncio.to_thread(self._data_plane.drain, DRAIN_S)
            await self.local_log.settle(SETTLE_S)
            for task in tasks:
                task.cancel()

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
async def _started(
    config: BrokerConfig, load: Callable[[BrokerConfig], DataPlane]
) -> AsyncIterator[tuple[DataPlane, int]]:
    await asyncio.to_thread(_make_folders, config)
    data_plane = load(config)
    port = await asyncio.to_thread(start_data_plane, data_plane)
    try:
        yield data_plane, port
    finally:
        await asyncio.to_thread(data_plane.stop)


def _make_folders(config: BrokerConfig) -> None:
    try:
        config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (config.state_dir / "log").mkdir(mode=0o700, exist_ok=True)
        config.out_socket.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(
            "folder_unavailable", f"{error.filename}: {error.strerror}", remedy="make it writable for the broker's user"
        ) from error


def _watch_signals() -> asyncio.Event:
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
    return stop
