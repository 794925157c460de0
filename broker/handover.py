"""A planned restart: the broker that runs, and the one that takes over from it, on a socket in the state folder.

Owns: who may take over (the same user, the same node), what passes between the two control processes, and in which
order. Does not own: what the two data planes tell each other then (docs/adr/0017), or when (``broker.service``).

Order, each step one message:
1. The coming process says who it is. The going one answers with its listening sockets and the locks on their paths,
   and serves on.
2. The coming process prepares: its own SVID, documents, policies, the attestor, the components that listen. If it does
   not get there, it ends, and nothing has happened.
3. It asks for the switch. The going process stops to accept and to write the log, and answers with two sockets: one
   for its data plane's questions, one for connections that it passes on. It then finishes what it began, and ends.

Security: whoever connects here gets this broker's sockets, so the folder is the broker's alone, both ends check that
the other runs as their own user, and the names of node and trust domain must agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from broker.config import BrokerConfig
from hopseal.errors import HopsealError, UnavailableError

SOCKET_NAME = "handover.sock"
_MAX_MESSAGE: Final = 4096
_MAX_FDS: Final = 8
_ANSWER_S: Final = 5.0
_SWITCH_S: Final = 30.0
_FOREIGN: Final = "it is of another node or trust domain"
_UCRED: Final = struct.Struct("iii")

log = structlog.get_logger("broker.handover")

Descriptors = dict[str, int]


@dataclass(slots=True)
class Predecessor:
    """The broker that still runs, as the coming one sees it.

    Args:
        connection: to its hand-over socket.
        descriptors: its listening sockets and locks, by name; whoever uses one takes it out.
    """

    connection: socket.socket
    descriptors: Descriptors

    async def switch(self) -> tuple[int, int]:
        """Make it stop to accept and to write its log: the descriptors of its questions and of its connections.

        Raises:
            UnavailableError: it does not answer (``handover_failed``).
        """
        _, fds = await asyncio.to_thread(_ask, self.connection, {"switch": True}, _SWITCH_S)
        if len(fds) != len(("relay", "forward")):
            _close_all(fds)
            raise _failed("the running broker did not hand over")
        return fds[0], fds[1]

    def take(self, name: str) -> int:
        """The descriptor ``name``, which is now the caller's.

        Raises:
            UnavailableError: the running broker has none of that name (``handover_failed``).
        """
        try:
            return self.descriptors.pop(name)
        except KeyError:
            raise _failed(f"the running broker does not listen on {name}") from None

    def close(self) -> None:
        """Give up what was not taken; before the switch the running broker goes on as if nothing had happened."""
        self.connection.close()
        _close_all(self.descriptors.values())
        self.descriptors = {}


async def find_predecessor(config: BrokerConfig) -> Predecessor:
    """The broker that runs on this state folder and can hand over.

    Raises:
        UnavailableError: there is none (``handover_unavailable``); it refuses, or does not answer
            (``handover_failed``).
    """
    return await asyncio.to_thread(_find, config)


class HandoverServer:
    """The running broker's end.

    Args:
        config: the whole configuration.
        descriptors: what is passed in step 1, by name.
        switch: step 3: stops accepting and writing, and gives the two descriptors, which are then the caller's.
    """

    def __init__(
        self,
        config: BrokerConfig,
        descriptors: Callable[[], Descriptors],
        switch: Callable[[], Awaitable[tuple[int, int]]],
    ) -> None:
        self._config = config
        self._descriptors = descriptors
        self._switch = switch

    async def run(self) -> None:
        """Serve until one process has taken over; without the socket this broker can only be restarted."""
        with contextlib.ExitStack() as stack:
            path = self._config.state_dir / SOCKET_NAME
            try:
                listening = stack.enter_context(_listening(path))
            except OSError as error:
                log.warning("handover_unavailable", path=str(path), reason=str(error))
                return
            while not await self._serve(listening, stack):
                pass

    async def _serve(self, listening: socket.socket, stack: contextlib.ExitStack) -> bool:
        """Serve one process that connects; whether it has taken over."""
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(listening)
        with connection:
            connection.setblocking(False)
            try:
                await self._greet(connection)
                wanted = await _receive(connection)
                if wanted != {"switch": True}:
                    return False
            except (OSError, ValueError, TimeoutError, HopsealError) as error:
                log.warning("handover_refused", reason=str(error))
                return False
            # The coming process binds this path next.
            stack.close()
            fds = await self._switch()
            try:
                socket.send_fds(connection, [_encode({"switched": True})], list(fds))
            except OSError as error:
                # It died meanwhile: nobody accepts calls now, so this process ends, too, and is restarted.
                log.critical("handover_lost", reason=str(error))
            finally:
                _close_all(fds)
            return True

    async def _greet(self, connection: socket.socket) -> None:
        _check_peer(connection)
        async with asyncio.timeout(_ANSWER_S):
            hello = await _receive(connection)
        if hello != _hello(self._config):
            connection.send(_encode({"refused": _FOREIGN}))
            raise _failed(_FOREIGN)
        descriptors = self._descriptors()
        socket.send_fds(connection, [_encode({"sockets": list(descriptors)})], list(descriptors.values()))
        log.info("handover_begun")


def _find(config: BrokerConfig) -> Predecessor:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(_ANSWER_S)
        connection.connect(str(config.state_dir / SOCKET_NAME))
    except OSError as error:
        connection.close()
        raise UnavailableError(
            "handover_unavailable",
            "no broker runs on this state folder that could hand over",
            detail=str(error),
            remedy="start without --take-over",
        ) from error
    try:
        return Predecessor(connection, _greet(connection, config))
    except BaseException:
        connection.close()
        raise


def _greet(connection: socket.socket, config: BrokerConfig) -> Descriptors:
    _check_peer(connection)
    answer, fds = _ask(connection, _hello(config), _ANSWER_S)
    names = answer.get("sockets")
    if not isinstance(names, list) or len(names) != len(fds):
        _close_all(fds)
        raise _failed(f"the running broker refuses: {answer.get('refused', 'no reason')}")
    return dict(zip(map(str, names), fds, strict=True))


def _ask(
    connection: socket.socket, message: dict[str, object], timeout_s: float
) -> tuple[dict[str, object], list[int]]:
    try:
        connection.settimeout(timeout_s)
        connection.send(_encode(message))
        data, fds, _, _ = socket.recv_fds(connection, _MAX_MESSAGE, _MAX_FDS)
        answer = json.loads(data)
    except (OSError, ValueError) as error:
        raise _failed(str(error) or "no answer") from error
    for fd in fds:
        os.set_inheritable(fd, False)
    return (answer if isinstance(answer, dict) else {}), list(fds)


async def _receive(connection: socket.socket) -> object:
    data = await asyncio.get_running_loop().sock_recv(connection, _MAX_MESSAGE)
    return json.loads(data) if data else None


def _hello(config: BrokerConfig) -> dict[str, object]:
    return {"handover": 1, "node": config.node, "trust_domain": config.trust_domain.name}


def _encode(message: dict[str, object]) -> bytes:
    return json.dumps(message).encode()


def _check_peer(connection: socket.socket) -> None:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, _ = _UCRED.unpack(credentials)
    if uid != os.geteuid():
        raise _failed(f"the process at the other end runs as user {uid}")


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """The bound socket; whoever holds the log of this state folder holds its name, so a stale one is nobody's."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
        sock.bind(str(path))
        path.chmod(0o600)
        sock.listen(1)
        try:
            yield sock
        finally:
            path.unlink(missing_ok=True)


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _failed(message: str) -> UnavailableError:
    return UnavailableError(
        "handover_failed", message, remedy="the running broker goes on; read its log, then try again or restart it"
    )
