"""What a broker listens on beside its data plane: bound at a start, inherited at a planned restart.

Owns: the operators' socket, metrics and published tiles, and giving them back or leaving them to a successor.
Does not own: serving (``broker.serving``), or ``out.sock`` and the peer port (the data plane).
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Self

from broker.audit.local_log import bind_listener
from broker.config import BrokerConfig, Endpoint
from broker.handover import Descriptors, Predecessor
from broker.serving import bind_tcp
from hopseal.sockets import BoundSocket, bind_unix_socket

_ADMIN_MODE = 0o660


@dataclass(slots=True)
class Places:
    """Bound sockets; ``tiles`` is None where the log is not published."""

    admin: BoundSocket
    metrics: socket.socket
    tiles: socket.socket | None
    _is_left: bool = False

    @classmethod
    def bind(cls, config: BrokerConfig) -> Self:
        """Bind all of them.

        Raises:
            InvalidError, UnavailableError: one cannot be bound; nothing is left bound.
        """
        admin = bind_unix_socket(config.admin_socket, mode=_ADMIN_MODE)
        try:
            metrics = bind_tcp(config.metrics_listen)
            try:
                return cls(admin, metrics, bind_listener(config))
            except BaseException:
                metrics.close()
                raise
        except BaseException:
            admin.close()
            raise

    @classmethod
    def inherit(cls, config: BrokerConfig, predecessor: Predecessor) -> Self:
        """Take them over; what the configuration has elsewhere now is bound there.

        Raises:
            InvalidError, UnavailableError: one cannot be taken over or bound.
        """
        admin = BoundSocket.inherit(config.admin_socket, predecessor.take("admin"), predecessor.take("admin_lock"))
        metrics = _inherited(predecessor, "metrics", config.metrics_listen) or bind_tcp(config.metrics_listen)
        tiles = None
        if config.audit.listen is not None:
            tiles = _inherited(predecessor, "tiles", config.audit.listen) or bind_listener(config)
        # Until the switch they are the running broker's, and after it stay at their paths.
        return cls(admin, metrics, tiles, _is_left=True)

    def own(self) -> None:
        """The switch has happened: they go when this process goes."""
        self._is_left = False

    def leave(self) -> None:
        """A successor has them: they stay when this process goes."""
        self._is_left = True

    def descriptors(self) -> Descriptors:
        """Of each, by name; still this process's."""
        found = {
            "admin": self.admin.sock.fileno(),
            "admin_lock": self.admin.lock_fd,
            "metrics": self.metrics.fileno(),
        }
        return found | ({"tiles": self.tiles.fileno()} if self.tiles else {})

    def close(self) -> None:
        """Close all; the path of the operators' socket goes unless it is left."""
        self.admin.leave() if self._is_left else self.admin.close()
        self.metrics.close()
        if self.tiles is not None:
            self.tiles.close()


def _inherited(predecessor: Predecessor, name: str, wanted: Endpoint) -> socket.socket | None:
    """The socket ``name`` if it is bound where the configuration wants it."""
    if name not in predecessor.descriptors:
        return None
    sock = socket.socket(fileno=predecessor.take(name))
    host, port = sock.getsockname()[:2]
    if host == wanted.host and wanted.port in {0, port}:
        return sock
    sock.close()
    return None


def peer_port_of(fd: int) -> Endpoint:
    """Where the listening socket ``fd`` is bound; it stays the caller's."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        host, port = sock.getsockname()[:2]
        return Endpoint(host, port)
