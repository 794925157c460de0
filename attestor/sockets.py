"""The daemon's own sockets: bound together, and watched so that none is replaced unnoticed.

Owns: their paths' modes and owners, and saying that one is no longer in place. Does not own: serving them
(``attestor.api``, ``attestor.admin_server``) or binding one (``hopseal.sockets``).
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import structlog

from attestor.config import SocketPaths
from hopseal.sockets import BoundSocket, bind_unix_socket

_log = structlog.get_logger("hopseal.attestor")

_LOOK_S = 1.0


class DaemonSockets:
    """The sockets for operators, brokers and workloads; entering binds all of them or none.

    Args:
        group: owner of the operators' and the broker's; None keeps the process's own.

    Raises:
        HopsealError: on entering, when one cannot be bound.
    """

    def __init__(self, paths: SocketPaths, group: int | None) -> None:
        self._paths = paths
        self._group = group
        self._bound: dict[str, BoundSocket] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for name, path, mode, folder_mode, owner in (
                ("admin", self._paths.admin, 0o660, 0o750, self._group),
                ("broker", self._paths.broker, 0o660, 0o750, self._group),
                ("connect", self._paths.connect, 0o660, 0o750, self._group),
                ("workload", self._paths.workload, 0o777, 0o755, None),
            ):
                bound = bind_unix_socket(path, mode=mode, group=owner, folder_mode=folder_mode)
                stack.callback(bound.close)
                self._bound[name] = bound
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def get(self, name: str) -> socket.socket:
        """The bound socket ``admin``, ``broker``, ``connect`` or ``workload``."""
        return self._bound[name].sock

    async def run(self) -> None:
        """Log each socket that something else took the place of, once, until cancelled."""
        said: set[str] = set()
        while True:
            await asyncio.sleep(_LOOK_S)
            for name, bound in self._bound.items():
                if not bound.is_in_place() and name not in said:
                    said.add(name)
                    _log.error("socket_replaced", socket=name, path=str(bound.path))

    def problems(self) -> list[str]:
        """One sentence for each socket that something else took the place of."""
        return [
            f"socket {each.path} was replaced by something else"
            for each in self._bound.values()
            if not each.is_in_place()
        ]
