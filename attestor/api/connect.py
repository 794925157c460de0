"""Connections to components that listen on TCP in their own network namespace, for the brokers of this node.

Owns: who may ask, that everybody at the other end is the component, and passing the connection on. Does not own:
finding and making connections (``attestor.tcp_listeners``), verdicts.

One request on each connection: ``{"component": "agent/name"}`` and a newline. The answer is one line, too:
``{"pidfd_inode": …, "pid": …}`` with two descriptors, the connection and the pidfd of a process that holds its other
end, or ``{"refused": code, "detail": …}``.

Security: the broker has no rights in a component's namespace, and the attestor carries no bytes of calls; so a
connected socket changes hands before anything was sent on it. Whoever has one speaks to the component without the
broker's record and policy: only a process that is a broker of this node, as it is measured, gets one.

Source: docs/adr/0016.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

import structlog

from attestor.api.guarding import while_attested
from attestor.api.identities import Attestations
from attestor.offload import Offload
from attestor.peer import PinnedProcess, close_all, pin_peer
from attestor.tcp_listeners import (
    Connection,
    Listening,
    connect_in,
    find_tcp_listeners,
    pin_holders,
)
from attestor.verdict import BROKER_COMPONENT, Attested, Refused
from hopseal.documents.grammar import parse_listen_address
from hopseal.documents.model import DocumentSet
from hopseal.errors import DeniedError, HopsealError, UnavailableError

_MAX_REQUEST = 512
_REQUESTS_AT_ONCE = 32
_REQUEST_S = 5.0
_FIND = "find it with `ss -ltnp` in the component's network namespace"

Result = TypeVar("Result")

log = structlog.get_logger("hopseal.attestor.connect")


class ConnectDeniedError(DeniedError):
    """There is no connection for this request; the code says why."""


class ConnectServer:
    """Answers on ``sock``, which is bound and not yet listening, and stays the caller's to close.

    Args:
        sock: a stream socket.
        attestations: verdicts on processes.
        offload: where blocking reads run.
        documents: those in force.
    """

    def __init__(
        self,
        sock: socket.socket,
        attestations: Attestations,
        offload: Offload,
        documents: Callable[[], DocumentSet | None],
    ) -> None:
        self._sock = sock
        self._attestations = attestations
        self._offload = offload
        self._documents = documents
        self._places = asyncio.Semaphore(_REQUESTS_AT_ONCE)

    async def run(self) -> None:
        """Serve until cancelled."""
        self._sock.listen(_REQUESTS_AT_ONCE)
        self._sock.setblocking(False)
        async with asyncio.TaskGroup() as group:
            while True:
                await self._places.acquire()
                asking, _ = await asyncio.get_running_loop().sock_accept(self._sock)
                group.create_task(self._serve(asking)).add_done_callback(lambda _: self._places.release())

    async def _serve(self, asking: socket.socket) -> None:
        with asking:
            asking.setblocking(False)
            try:
                async with asyncio.timeout(_REQUEST_S):
                    await self._answer(asking)
            except HopsealError as error:
                log.info(
                    "connection_refused", code=error.code, detail=error.detail or error.message, remedy=error.remedy
                )
                answer = {"refused": error.code, "detail": error.detail or error.message}
                with suppress(OSError):
                    asking.send(json.dumps(answer).encode() + b"\n")
            except (OSError, ValueError, TimeoutError) as error:
                log.info("connection_refused", code="request_malformed", detail=repr(error))

    async def _answer(self, asking: socket.socket) -> None:
        async with AsyncExitStack() as scope:
            broker = scope.enter_context(pin_peer(asking))
            await scope.enter_async_context(while_attested(self._attestations, broker, _is_broker))
            component = await _read_request(asking)
            made = await scope.enter_async_context(self._connected(component))
            holder = made.holders[0]
            answer = json.dumps({"pidfd_inode": holder.pidfd_inode, "pid": holder.pid})
            socket.send_fds(asking, [answer.encode() + b"\n"], [made.sock.fileno(), holder.pidfd])

    @asynccontextmanager
    async def _connected(self, component: str) -> AsyncIterator[Connection]:
        """A connection to ``component`` whose other end is held by nobody else."""
        documents = self._documents()
        found = documents.component(component) if documents else None
        address = parse_listen_address(found.listen) if found and found.listen else None
        if address is None:
            raise ConnectDeniedError(
                "listener_gone", f"{component} listens on no TCP address", remedy="see `listen` in its document"
            )
        places = await self._blocking(partial(find_tcp_listeners, address), _nothing)
        for place in places:
            if await self._is_of(place, component):
                made = await self._blocking(partial(connect_in, place.namespace, address), Connection.close)
                try:
                    if not await self._are(component, made.holders):
                        raise ConnectDeniedError(
                            "listener_not_component", "another process took the connection", remedy=_FIND
                        )
                    yield made
                finally:
                    made.close()
                return
        raise ConnectDeniedError(
            "listener_gone",
            f"{component} listens nowhere at its address",
            remedy="start it; compare its port with `listen` in its document",
        )

    async def _is_of(self, place: Listening, component: str) -> bool:
        """Whether the component listens there, and it alone; another program may use the port elsewhere.

        Raises:
            ConnectDeniedError: it shares the port, or listens at every address.
        """
        with ExitStack() as opened:
            at = await self._pinned(place.inodes, opened)
            exposed = await self._pinned(place.exposed, opened)
            own = [each for each in at if await self._is_component(component, each)]
            if any([await self._is_component(component, each) for each in exposed]):
                raise ConnectDeniedError(
                    "listener_exposed",
                    f"{component} listens at every address of its namespace, not at its own only",
                    remedy="bind 127.0.0.1 or ::1",
                )
            if own and (len(own) < len(at) or exposed):
                raise ConnectDeniedError(
                    "listener_foreign", f"{component} shares its port with another process", remedy=_FIND
                )
            return bool(own)

    async def _pinned(self, inodes: frozenset[int], opened: ExitStack) -> list[PinnedProcess]:
        found = await self._blocking(partial(pin_holders, inodes), close_all) if inodes else []
        return [opened.enter_context(each) for each in found]

    async def _are(self, component: str, processes: Sequence[PinnedProcess]) -> bool:
        return all([await self._is_component(component, each) for each in processes])

    async def _is_component(self, component: str, process: PinnedProcess) -> bool:
        async with self._attestations.watch(process.duplicate()) as verdicts:
            async for verdict in verdicts:
                matches = verdict.matches if isinstance(verdict, Attested) else ()
                return component in {match.qualified for match in matches}
        return False

    async def _blocking(self, call: Callable[[], Result], discard: Callable[[Result], None]) -> Result:
        try:
            return await self._offload.run("connect", call, _REQUEST_S, discard=discard)
        except TimeoutError as error:
            raise UnavailableError("listeners_unreadable", "who listens was not found out in time") from error


async def _read_request(asking: socket.socket) -> str:
    data = await asyncio.get_running_loop().sock_recv(asking, _MAX_REQUEST)
    request = json.loads(data)
    if not isinstance(request, dict) or not isinstance(request.get("component"), str) or len(request) != 1:
        raise ConnectDeniedError("request_malformed", "a request names a component and nothing else")
    return str(request["component"])


def _is_broker(verdict: Attested | Refused) -> None:
    if isinstance(verdict, Attested) and BROKER_COMPONENT not in {match.qualified for match in verdict.matches}:
        raise ConnectDeniedError(
            "not_a_broker", "the process that asks is no broker of this node", remedy="compare it with `brokers:`"
        )


def _nothing(_: object) -> None:
    return None
