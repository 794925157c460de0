"""Which process a broker means.

Owns: reading references and pinning what they name. Does not own: what the process is.
Source: runtime.md, "Naming a process between broker and attestor" and "Listener check".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from attestor.api.rpc import RequestInvalidError
from attestor.peer import PinnedProcess, boot_id, pin_inode
from hopseal.errors import DeniedError
from hopseal.wire.gen.hopseal.v1.reference_pb2 import ListenerReference, PidfdReference

MAX_HOLDERS = 256  # processes that share one listening socket; pre-forking servers have far fewer
FindListeners: TypeAlias = Callable[[str], Awaitable[Sequence[PinnedProcess]]]
_LISTENS = ("/", "tcp://")
_TYPE_PREFIX = "type.googleapis.com/"


class ReferenceDeniedError(DeniedError):
    """The reference does not lead to a process that may be asked about; the code says why."""


@dataclass(frozen=True, slots=True)
class Referenced:
    """The processes that a reference names, at least one; they belong to whoever resolved it.

    Args:
        processes: more than one only for a listening socket whose last ``listen`` caller has exited.
        component: what each of them must be, ``agent/component``; None for whatever it is.
    """

    processes: tuple[PinnedProcess, ...]
    component: str | None


class References:
    """Resolves references to processes of this boot.

    Args:
        find_listeners: the processes that hold the listening socket at a path, pinned for whoever asked.
    """

    def __init__(self, find_listeners: FindListeners) -> None:
        self._find_listeners = find_listeners
        self._boot_id = boot_id()

    @asynccontextmanager
    async def resolve(self, reference: AnyMessage) -> AsyncIterator[Referenced]:
        """What ``reference`` names, closed at the end.

        Raises:
            RequestInvalidError: it cannot be read or is of another boot.
            ReferenceDeniedError: its type is not accepted (``reference_denied``), or nobody listens there
                (``listener_gone``).
            PeerGone: the process has exited.
            PeerUnpinnable: the kernel cannot name it here.
            UnavailableError: who listens cannot be found out now.
        """
        parsed = self._parse(reference)
        with ExitStack() as owned:
            if isinstance(parsed, PidfdReference):
                yield Referenced((owned.enter_context(pin_inode(parsed.pidfd_inode)),), None)
            elif parsed.pidfd_inode:
                yield Referenced((owned.enter_context(pin_inode(parsed.pidfd_inode)),), parsed.component)
            else:
                holders = await self._find_listeners(parsed.path)
                for holder in holders:
                    owned.enter_context(holder)
                if not 0 < len(holders) <= MAX_HOLDERS:
                    raise ReferenceDeniedError("listener_gone", f"{len(holders)} processes listen on that socket")
                yield Referenced(tuple(holders), parsed.component)

    def _parse(self, reference: AnyMessage) -> PidfdReference | ListenerReference:
        prefix, _, name = reference.type_url.rpartition("/")
        kind = {each.DESCRIPTOR.full_name: each for each in (PidfdReference, ListenerReference)}.get(name)
        if kind is None or f"{prefix}/" != _TYPE_PREFIX:
            # The plain pid reference is off: a recycled pid would name another process.
            raise ReferenceDeniedError("reference_denied", "references of this type are not accepted")
        try:
            parsed = kind.FromString(reference.value)
        except DecodeError as error:
            raise RequestInvalidError("the reference cannot be read") from error
        if parsed.boot_id != self._boot_id:
            raise RequestInvalidError("the reference is of another boot")
        if isinstance(parsed, ListenerReference) and not (parsed.component and parsed.path.startswith(_LISTENS)):
            raise RequestInvalidError("a listener reference names a component and an absolute path or an address")
        return parsed
