"""Every caller and listener that is followed, and what their outcomes mean for the data plane.

Owns: admission, refusal, withdrawal and forgetting of processes; bounds on how many are followed.
Does not own: the life of one subscription (``tracked``) or which SVID is installed (``instances``).

Security: a process that was confirmed and then refused takes its whole instance with it: keys are
dropped and connections closed before anything else, and every process of the instance has to prove
itself anew. One that merely exited takes nothing with it while others prove the instance.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import structlog

from broker.attestor_link import AttestorApi, IdentityUpdate
from broker.dataplane_api import DataPlane
from broker.identities.decision import decide_identity
from broker.identities.instances import InstanceKey, Instances
from broker.identities.timers import Timers
from broker.identities.tracked import Tracked, TrackedState
from broker.references import CallerRef, ListenerRef, Reference
from hopseal.backoff import Backoff
from hopseal.documents.model import DocumentSet
from hopseal.errors import DeniedError, HopsealError, UnavailableError
from hopseal.svid import X509Svid

IDLE_S = 60.0  # docs/architecture.md: a caller is followed this long after its last connection
REFUSED_S = 5.0  # a refused process may ask again after this long

# The attestor's words for a process that ended by itself: nothing drifted.
_GONE = frozenset({"process_exited", "container_stopped", "peer_gone", "listener_gone"})
# What a component is told; the attestor's own code is for the log and for status.
_LOCAL = frozenset({"identity_ambiguous", "attestor_unavailable"})

log = structlog.get_logger("broker.identities")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a process was refused last."""

    code: str
    detail: str


class Identities:
    """The followed processes. Belongs to one event loop.

    Args:
        api: the attestor.
        data_plane: told every verdict.
        limit: processes that are followed at once.
        grace_s: how long identities outlive the connection to the attestor.
        source: randomness of the pauses.
        idle_s: how long a caller is followed after its last connection.
        refused_s: how long a refusal holds before the process may ask again.
    """

    def __init__(
        self,
        api: AttestorApi,
        data_plane: DataPlane,
        *,
        limit: int,
        grace_s: float,
        source: random.Random,
        idle_s: float = IDLE_S,
        refused_s: float = REFUSED_S,
    ) -> None:
        self._api = api
        self._data_plane = data_plane
        self._limit = limit
        self._grace_s = grace_s
        self._source = source
        self._idle_s = idle_s
        self._refused_s = refused_s
        self._documents: DocumentSet | None = None
        self._tracked: dict[Reference, Tracked] = {}
        self._instances = Instances(data_plane)
        self._timers = Timers()
        self._refusals: dict[str, Refusal] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Follow for ever what :meth:`see_caller` and :meth:`see_listener` name."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            await asyncio.Event().wait()

    @property
    def is_available(self) -> bool:
        """Whether processes can be asked about, and their answers judged, now."""
        # Before the first documents every identity would look undocumented, and be refused for good.
        return self._group is not None and self._api.is_connected and self._documents is not None

    def see_caller(self, pidfd_inode: int, pid: int) -> None:
        """A process that the data plane does not know connected."""
        self._see(CallerRef(pidfd_inode), pid)

    def see_listener(self, component: str, pidfd_inode: int) -> None:
        """A process that the data plane does not know answers on the component's socket."""
        path = self.listen_path(component)
        if path is None:
            self._data_plane.refuse_listener(component, pidfd_inode, "identity_none")
            return
        self._see(ListenerRef(pidfd_inode, component, path), 0)

    def note_idle(self, pidfd_inode: int) -> None:
        """The last connection of a caller closed: drop it after a while."""
        reference = CallerRef(pidfd_inode)
        if reference in self._tracked:
            self._timers.start(self._idle_s, reference, self._drop_idle)

    def note_active(self, pidfd_inode: int) -> None:
        """An idle caller connected again."""
        self._timers.cancel(CallerRef(pidfd_inode))

    def set_documents(self, documents: DocumentSet) -> None:
        """Judge by ``documents`` from now on; whoever was refused may ask again."""
        self._documents = documents
        for tracked in list(self._tracked.values()):
            if tracked.key is not None and not self._is_documented(tracked.key):
                self._end(tracked, DeniedError("documents_changed", "the component is documented no more"))
        for reference in self._timers.pending():
            if reference not in self._tracked:
                self._forget(reference)
        documented = {component.qualified for component in documents.components}
        self._refusals = {name: refusal for name, refusal in self._refusals.items() if name in documented}

    def forget_exited_listener(self, component: str) -> None:
        """The component's socket is another one now: what was found out about the old one's listeners is void."""
        for reference, tracked in list(self._tracked.items()):
            if isinstance(reference, ListenerRef) and reference.component == component and not reference.pidfd_inode:
                self._drop(tracked, "callee_unavailable")

    def listen_path(self, component: str) -> str | None:
        """Where the documents say that the component listens."""
        found = self._documents.component(component) if self._documents else None
        return found.listen if found else None

    def is_listener_admitted(self, component: str) -> bool:
        """Whether any process is admitted as the component's listener."""
        return any(
            isinstance(reference, ListenerRef) and reference.component == component and tracked.key is not None
            for reference, tracked in self._tracked.items()
        )

    def last_refusal(self, component: str) -> Refusal | None:
        """Why the component's listener was refused last; None once one is admitted."""
        return self._refusals.get(component)

    def snapshot(self) -> tuple[tuple[Tracked, X509Svid | None], ...]:
        """Every followed process with the SVID installed for its instance."""
        return tuple(
            (tracked, self._instances.installed(tracked.key) if tracked.key else None)
            for tracked in self._tracked.values()
        )

    # Outcomes of one subscription: the Owner of broker.identities.tracked.

    def identify(self, tracked: Tracked, update: IdentityUpdate) -> tuple[InstanceKey, X509Svid] | None:
        """The component that ``update`` names; None while it names none.

        Raises:
            DeniedError: several identities, an undocumented one, or a listener that is another component.
        """
        return decide_identity(tracked.reference, update, self._documents)

    def confirm(self, tracked: Tracked, key: InstanceKey, svid: X509Svid) -> None:
        """Install the identity, then admit the process."""
        before = tracked.key
        if before is not None and before != key:
            self._instances.release(tracked, before, "identity_none")
        # Installed first: an admitted process without a key would be answered as one whose SVID expired.
        self._instances.hold(tracked, key, svid)
        if before == key and tracked.state is TrackedState.CONFIRMED:
            return
        self._admit(tracked.reference, key)
        log.info(
            "identity_confirmed",
            kind=_kind(tracked.reference),
            component=key.component,
            instance=key.instance,
            pidfd_inode=tracked.reference.pidfd_inode,
            again=before is not None,
        )

    def end(self, tracked: Tracked, error: HopsealError) -> None:
        """The process is followed no more, for the reason that ``error`` gives."""
        reference = tracked.reference
        self._tracked.pop(reference, None)
        self._timers.cancel(reference)
        key = tracked.key
        log.warning(
            "identity_withdrawn" if key else "identity_refused",
            kind=_kind(reference),
            component=key.component if key else getattr(reference, "component", None),
            instance=key.instance if key else None,
            pidfd_inode=reference.pidfd_inode,
            pid=tracked.pid or None,
            code=error.code,
            detail=error.detail or None,
        )
        if key is not None and error.code in _GONE:
            self._instances.release(tracked, key, "caller_gone")
        elif key is not None:
            self._withdraw(tracked, key, error)
        self._refuse(reference, error)

    def _admit(self, reference: Reference, key: InstanceKey) -> None:
        if isinstance(reference, CallerRef):
            self._data_plane.admit_caller(reference.pidfd_inode, key.instance, key.component)
        else:
            self._data_plane.admit_listener(key.component, reference.pidfd_inode, key.instance)
            self._refusals.pop(key.component, None)

    def _withdraw(self, tracked: Tracked, key: InstanceKey, error: HopsealError) -> None:
        for other in self._instances.withdraw(key, _local_code(error)):
            if isinstance(other, Tracked) and other is not tracked:
                self._drop(other, "identity_none")

    def _refuse(self, reference: Reference, error: HopsealError) -> None:
        retry = isinstance(error, UnavailableError)
        if isinstance(reference, CallerRef):
            self._data_plane.refuse_caller(reference.pidfd_inode, _local_code(error), retry)
        else:
            self._refusals[reference.component] = Refusal(error.code, error.detail)
            self._data_plane.refuse_listener(reference.component, reference.pidfd_inode, _local_code(error))
        # A process that could not be asked about may ask again at once; one that was refused, after a while.
        if not retry:
            self._timers.start(self._refused_s, reference, self._forget)

    # Following and letting go.

    def _see(self, reference: Reference, pid: int) -> None:
        known = self._tracked.get(reference)
        if known is not None:
            self._timers.cancel(reference)
            # The data plane forgets a caller that hung up before it was admitted; the answer then came to nobody.
            # Not so a listener: an exited one's verdict is about its socket, which may have been replaced since.
            if isinstance(reference, CallerRef) and known.key is not None and known.state is TrackedState.CONFIRMED:
                self._admit(reference, known.key)
            return
        if len(self._tracked) >= self._limit:
            self._refuse(reference, UnavailableError("attestor_unavailable", "too many processes are followed"))
            log.warning("identity_limit_reached", limit=self._limit)
        elif self._group is None or not self.is_available:
            self._refuse(reference, UnavailableError("attestor_unavailable", "the attestor cannot be asked now"))
        else:
            self._timers.cancel(reference)
            tracked = Tracked(
                reference, self._api, self, grace_s=self._grace_s, backoff=Backoff(self._source, first_s=0.02)
            )
            tracked.pid = pid
            self._tracked[reference] = tracked
            tracked.start(self._group)

    def _end(self, tracked: Tracked, error: HopsealError) -> None:
        self.end(tracked, error)
        tracked.stop()

    def _drop(self, tracked: Tracked, code: str) -> None:
        """Stop following without a verdict: the process may ask again at once."""
        self._tracked.pop(tracked.reference, None)
        if tracked.key is not None:
            self._instances.release(tracked, tracked.key, code)
        self._forget(tracked.reference)
        tracked.stop()

    def _drop_idle(self, reference: Reference) -> None:
        tracked = self._tracked.get(reference)
        if tracked is not None:
            log.info("identity_idle", pidfd_inode=reference.pidfd_inode)
            self._drop(tracked, "identity_none")

    def _forget(self, reference: Reference) -> None:
        self._timers.cancel(reference)
        if isinstance(reference, CallerRef):
            self._data_plane.forget_caller(reference.pidfd_inode)
        else:
            self._data_plane.forget_listener(reference.component, reference.pidfd_inode)

    def _is_documented(self, key: InstanceKey) -> bool:
        svid = self._instances.installed(key)
        found = self._documents.component(key.component) if self._documents else None
        return svid is not None and found is not None and found.spiffe_id == svid.spiffe_id


def _kind(reference: Reference) -> str:
    return "caller" if isinstance(reference, CallerRef) else "listener"


def _local_code(error: HopsealError) -> str:
    if error.code in _GONE:
        return "caller_gone"
    return error.code if error.code in _LOCAL else "identity_none"
