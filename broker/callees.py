"""Who answers on the sockets of this node's components, found out before the first call needs it.

Owns: probing each documented socket at start, when it appears or is replaced, and again until its
listener is attested; what is known of each callee. Does not own: attesting (``broker.identities``).

A probe is one connection that is pinned and closed; nothing is sent. Polling once a second and not
inotify: the folder may not exist yet, and a mounted folder may be replaced as a whole. Where a component listens on TCP
the attestor is asked, which may enter its network namespace; one question for each component at once.
"""

from __future__ import annotations

import asyncio
import stat
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from broker.identities.registry import Identities
from broker.process import Listener, probe_listener
from hopseal.documents.grammar import TCP_PREFIX
from hopseal.documents.model import DocumentSet
from hopseal.errors import HopsealError

LOOK_S = 1.0
PROBE_S = 5.0  # docs/architecture.md: every 5 s until attested

SocketIdentity = tuple[int, int, int]


class CalleeState(StrEnum):
    """What is known of a component that listens."""

    ABSENT = "absent"
    SILENT = "silent"
    ASKED = "asked"
    ATTESTED = "attested"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class CalleeStatus:
    """One callee as ``status`` shows it; ``code`` is why it was refused, else empty."""

    component: str
    path: str
    state: CalleeState
    code: str


@dataclass(slots=True)
class _Callee:
    path: str
    identity: SocketIdentity | None = None
    probed_at: float = field(default=float("-inf"))
    answered: bool = False
    asking: asyncio.Task[None] | None = None
    refused: str = ""

    @property
    def is_tcp(self) -> bool:
        return self.path.startswith(TCP_PREFIX)


class Callees:
    """The components that listen on this node.

    Args:
        identities: told who answers.
        probe: who listens at a path, None for nobody; must not block.
        find_tcp: who answers for a component that listens on TCP.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        identities: Identities,
        *,
        probe: Callable[[str], Listener | None] = probe_listener,
        find_tcp: Callable[[str], Awaitable[Listener]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._identities = identities
        self._probe = probe
        self._find_tcp = find_tcp
        self._clock = clock
        self._callees: dict[str, _Callee] = {}
        self._group: asyncio.TaskGroup | None = None

    def set_documents(self, documents: DocumentSet) -> None:
        """Follow the sockets that ``documents`` name, and look at them now."""
        listening = {component.qualified: component.listen for component in documents.components}
        self._callees = {
            name: self._callees[name] if name in self._callees and self._callees[name].path == path else _Callee(path)
            for name, path in listening.items()
            if path is not None
        }
        self.look()

    async def run(self) -> None:
        """Look for ever."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            while True:
                self.look()
                await asyncio.sleep(LOOK_S)

    @property
    def are_known(self) -> bool:
        """Whether every callee has been looked at, and whoever answers has been decided about."""
        return not any(
            callee.identity is not None
            and not self._identities.is_listener_admitted(component)
            and (callee.probed_at == float("-inf") or callee.asking is not None or self._is_asked(component, callee))
            for component, callee in self._callees.items()
        )

    def _is_asked(self, component: str, callee: _Callee) -> bool:
        return callee.answered and self._identities.last_refusal(component) is None

    def look(self) -> None:
        """Probe every socket that appeared, was replaced, or has no attested listener."""
        for component, callee in self._callees.items():
            self._look_at(component, callee)

    def status(self) -> tuple[CalleeStatus, ...]:
        """Every callee with its state."""
        return tuple(self._describe(component, callee) for component, callee in self._callees.items())

    def _look_at(self, component: str, callee: _Callee) -> None:
        # An address has nothing that tells one socket from the next.
        identity = (0, 0, 0) if callee.is_tcp else _identify(callee.path)
        if identity != callee.identity:
            callee.identity = identity
            callee.probed_at = float("-inf")
            self._identities.forget_exited_listener(component)
        if identity is None:
            callee.answered = False
            return
        now = self._clock()
        # An admitted listener answers for the socket that it was found on, not for one that replaced it.
        known = callee.probed_at > float("-inf") and self._identities.is_listener_admitted(component)
        # While the attestor is away a probe would be answered by a refusal and the next one be due much later.
        if known or not self._identities.is_available or now - callee.probed_at < PROBE_S:
            return
        if callee.is_tcp:
            self._ask_about(component, callee)
            return
        callee.probed_at = now
        listener = self._probe(callee.path)
        callee.answered = listener is not None
        if listener is not None:
            self._identities.see_listener(component, listener.pidfd_inode)

    def _ask_about(self, component: str, callee: _Callee) -> None:
        if callee.asking is None and self._group is not None and self._find_tcp is not None:
            callee.asking = self._group.create_task(self._find(component, callee, self._find_tcp))

    async def _find(self, component: str, callee: _Callee, find_tcp: Callable[[str], Awaitable[Listener]]) -> None:
        try:
            listener = await find_tcp(component)
        except HopsealError as error:
            callee.answered, callee.refused = False, "" if error.code == "listener_gone" else error.code
        else:
            callee.answered, callee.refused = True, ""
            self._identities.see_listener(component, listener.pidfd_inode)
        finally:
            callee.probed_at, callee.asking = self._clock(), None

    def _describe(self, component: str, callee: _Callee) -> CalleeStatus:
        refusal = self._identities.last_refusal(component)
        if callee.identity is None:
            state = CalleeState.ABSENT
        elif self._identities.is_listener_admitted(component):
            state = CalleeState.ATTESTED
        elif callee.refused:
            return CalleeStatus(component, callee.path, CalleeState.REFUSED, callee.refused)
        elif not callee.answered:
            state = CalleeState.SILENT
        else:
            state = CalleeState.ASKED if refusal is None else CalleeState.REFUSED
        code = refusal.code if refusal is not None and state is CalleeState.REFUSED else ""
        return CalleeStatus(component, callee.path, state, code)


def _identify(path: str) -> SocketIdentity | None:
    try:
        found = Path(path).lstat()
    except OSError:
        return None
    # The change time tells a socket from one that was bound anew under a recycled inode number.
    return (found.st_dev, found.st_ino, found.st_ctime_ns) if stat.S_ISSOCK(found.st_mode) else None
