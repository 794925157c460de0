"""Accepting connections on one Unix socket.

Owns: the accept loop, pinning at accept, the optional TLS handshake, the reaper. Does not own: the
protocol (``attestor.api.transport``) or the services.

The loop is our own because the caller is pinned before anything else happens to its connection, and
because each TLS connection takes the certificate and bundle that are newest when it is accepted.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import struct
import time
from asyncio import BaseTransport
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self
from weakref import WeakKeyDictionary

from grpclib.const import Handler as Method

from attestor.admission import Admission, Rate
from attestor.api.limits import ConnectionLimits, UserBudgets
from attestor.api.transport import GuardedConnection
from attestor.crowds import crowd_of
from attestor.peer import PinnedProcess, pin_peer
from hopseal.errors import HopsealError
from hopseal.ids import SpiffeId

BACKLOG = 128
HANDSHAKE_TIMEOUT_S = 5.0
REAP_INTERVAL_S = 0.25
_ACCEPT_PAUSE_S = 0.2
_CLOSE_TIMEOUT_S = 5.0
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_UCRED = struct.Struct("=iii")
_FLOODS = frozenset({"rapid_reset", "request_flood", "control_flood", "fruitless", "request_too_large", "write_buffer"})
_log = logging.getLogger(__name__)


class Service(Protocol):
    """A generated gRPC service."""

    def __mapping__(self) -> Mapping[str, Method]: ...


class Tls(Protocol):
    """How connections are secured."""

    def context(self) -> ssl.SSLContext | None:
        """For the next connection; None when there is no certificate yet, which refuses it."""

    def identify(self, peer: ssl.SSLObject) -> SpiffeId:
        """Who the peer's certificate proved it is.

        Raises:
            HopsealError: it may not be here.
        """


@dataclass(frozen=True, slots=True)
class ApiStats:
    """Counters of one socket since start, for metrics.

    Args:
        open_connections: now.
        accepted: in all.
        refused: by reason, before a request was read.
        cut: by reason, while open.
    """

    open_connections: int
    accepted: int
    refused: Mapping[str, int]
    cut: Mapping[str, int]


class SocketServer:
    """Serves ``services`` on ``sock``; entering listens, :meth:`run` accepts, leaving ends every request.

    Args:
        sock: bound, not yet listening, non-blocking; stays the caller's to close.
        tls: None for a plain socket.
        large_methods: paths of the methods that ``limits.large_request_bytes`` is for.
        crowd_of: the key of who shares an allowance of requests with a peer.
        monotonic: seconds, for deadlines.
    """

    def __init__(
        self,
        sock: socket.socket,
        services: tuple[Service, ...],
        limits: ConnectionLimits,
        *,
        tls: Tls | None = None,
        large_methods: frozenset[str] = frozenset(),
        crowd_of: Callable[[PinnedProcess], str] = crowd_of,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sock = sock
        self._methods = {path: method for service in services for path, method in service.__mapping__().items()}
        self._limits = limits
        self._tls = tls
        self._large_methods = large_methods
        self._monotonic = monotonic
        self._users = UserBudgets(limits)
        self._crowd_of = crowd_of
        self._crowds: WeakKeyDictionary[GuardedConnection, str] = WeakKeyDictionary()
        self._requests = Admission(
            per_uid=Rate(limits.requests_per_s_per_uid, 2 * limits.requests_per_s_per_uid),
            per_cgroup=Rate(limits.requests_per_s_per_cgroup, 2 * limits.requests_per_s_per_cgroup),
            clock=monotonic,
        )
        self._connections: set[GuardedConnection] = set()
        self._accepted = 0
        self._refused: Counter[str] = Counter()
        self._cut: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        self._sock.setblocking(False)
        self._sock.listen(BACKLOG)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connections = tuple(self._connections)
        for connection in connections:
            connection.cut("shutdown")
        async with asyncio.timeout(_CLOSE_TIMEOUT_S):
            for connection in connections:
                await connection.wait_closed()

    async def run(self) -> None:
        """Accepts and reaps until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reap())
            await self._accept(tasks)

    def stats(self) -> ApiStats:
        """Counters since start."""
        return ApiStats(len(self._connections), self._accepted, dict(self._refused), dict(self._cut))

    def connection_cut(self, connection: GuardedConnection, reason: str) -> None:
        """See :class:`attestor.api.transport.ConnectionOwner`."""
        self._cut[reason] += 1
        _log.info("connection cut: %s, pid %d, uid %d", reason, connection.process.pid, connection.process.uid)
        if reason in _FLOODS:
            self._users.penalise(connection.process.uid, self._monotonic())

    def connection_closed(self, connection: GuardedConnection) -> None:
        """See :class:`attestor.api.transport.ConnectionOwner`."""
        if connection in self._connections:
            self._connections.discard(connection)
            self._users.release(connection.process.uid)
            connection.process.close()

    def admits_request(self, connection: GuardedConnection) -> bool:
        """See :class:`attestor.api.transport.ConnectionOwner`."""
        crowd = self._crowds.get(connection)
        if crowd is None:
            crowd = self._crowds[connection] = self._crowd_of(connection.process)
        if self._requests.admit(connection.process.uid, crowd):
            return True
        self._refused["requests"] += 1
        return False

    async def _accept(self, tasks: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                peer, _ = await loop.sock_accept(self._sock)
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                # Open streams keep their descriptors; whoever is in the backlog waits until some are free.
                self._refused["descriptors"] += 1
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            self._accepted += 1
            process = self._admit(peer)
            if process is None:
                peer.close()
            else:
                tasks.create_task(self._serve(peer, process))

    def _admit(self, peer: socket.socket) -> PinnedProcess | None:
        """The pinned peer with a place among its user's connections, or None: refused."""
        uid = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1]
        reason = self._users.admit(uid, self._monotonic())
        if reason is not None:
            self._refused[reason] += 1
            return None
        try:
            process = pin_peer(peer)
        except (HopsealError, OSError) as error:
            self._users.release(uid)
            self._refused[error.code if isinstance(error, HopsealError) else "peer_unreadable"] += 1
            _log.info("connection refused: %s", error)
            return None
        if process.uid != uid:  # both are of connect(2), so this cannot be
            process.close()
            self._users.release(uid)
            self._refused["peer_changed"] += 1
            return None
        return process

    async def _serve(self, peer: socket.socket, process: PinnedProcess) -> None:
        connection = GuardedConnection(
            self._methods, process, self._limits, self, self._monotonic, self._identify, self._large_methods
        )
        self._connections.add(connection)
        context = self._tls.context() if self._tls is not None else None
        if self._tls is not None and context is None:
            self._refuse(peer, connection, "no_certificate")
            return
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                peer,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if context is not None else None,
            )
        except (OSError, TimeoutError) as error:
            _log.info("handshake failed: %s, pid %d, uid %d", error, process.pid, process.uid)
            self._refuse(peer, connection, "handshake")
        except asyncio.CancelledError:
            self._refuse(peer, connection, "shutdown")
            raise
        except Exception:  # noqa: BLE001 - one peer must not end the daemon
            _log.exception("a connection failed")
            self._refuse(peer, connection, "failed")

    def _identify(self, transport: BaseTransport) -> SpiffeId | None:
        if self._tls is None:
            return None
        return self._tls.identify(transport.get_extra_info("ssl_object"))

    def _refuse(self, peer: socket.socket, connection: GuardedConnection, reason: str) -> None:
        self._refused[reason] += 1
        self.connection_closed(connection)
        peer.close()

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(REAP_INTERVAL_S)
            now = self._monotonic()
            self._users.forget_idle(now)
            for connection in tuple(self._connections):
                reason = connection.overdue(now)
                if reason is not None:
                    connection.cut(reason)
