"""Which SVID the data plane holds for each component instance.

Owns: one installed SVID for each instance, taken from one of the processes that prove the instance,
and its end when no process proves it any more. Does not own: the proofs (``broker.identities.tracked``).

An instance is several processes when a server forks workers, and each of their subscriptions brings
an SVID of its own. Only the first one's is installed, because a connection belongs to an SVID and
would be opened anew at every change.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from broker.dataplane_api import DataPlane
from hopseal.errors import DeniedError
from hopseal.svid import X509Svid


@dataclass(frozen=True, slots=True, order=True)
class InstanceKey:
    """A component instance: the attestor's opaque name of it, and ``agent/component``."""

    instance: str
    component: str


@dataclass(slots=True)
class _Proofs:
    leader: Hashable
    svids: dict[Hashable, X509Svid] = field(default_factory=dict)


class Instances:
    """The installed SVIDs. Not safe for several threads.

    Args:
        data_plane: where they are installed.
    """

    def __init__(self, data_plane: DataPlane) -> None:
        self._data_plane = data_plane
        self._proofs: dict[InstanceKey, _Proofs] = {}

    def hold(self, holder: Hashable, key: InstanceKey, svid: X509Svid) -> None:
        """Note that ``holder`` proves ``key`` with ``svid``; install the SVID if it is the first or the leader's.

        Raises:
            DeniedError: the data plane cannot use the SVID (``identity_unusable``); nothing is held then.
        """
        proofs = self._proofs.get(key)
        if proofs is None:
            self._install(key, svid)
            self._proofs[key] = _Proofs(holder, {holder: svid})
            return
        if holder == proofs.leader and proofs.svids.get(holder) != svid:
            self._install(key, svid)
        proofs.svids[holder] = svid

    def release(self, holder: Hashable, key: InstanceKey, code: str) -> None:
        """Note that ``holder`` proves ``key`` no more; withdraw the instance with ``code`` if nobody else does."""
        proofs = self._proofs.get(key)
        if proofs is None or proofs.svids.pop(holder, None) is None:
            return
        if not proofs.svids:
            self.withdraw(key, code)
        elif proofs.leader == holder:
            proofs.leader, svid = max(proofs.svids.items(), key=lambda item: item[1].expires_at)
            try:
                self._install(key, svid)
            except DeniedError:
                self.withdraw(key, code)

    def withdraw(self, key: InstanceKey, code: str) -> frozenset[Hashable]:
        """Drop the instance's keys and connections at once; whoever proved it and has to prove it anew."""
        proofs = self._proofs.pop(key, None)
        if proofs is None:
            return frozenset()
        self._data_plane.withdraw(key.instance, key.component, code)
        return frozenset(proofs.svids)

    def installed(self, key: InstanceKey) -> X509Svid | None:
        """The SVID that the data plane uses for ``key``."""
        proofs = self._proofs.get(key)
        return None if proofs is None else proofs.svids[proofs.leader]

    def keys(self) -> tuple[InstanceKey, ...]:
        """Every instance that is held."""
        return tuple(self._proofs)

    def _install(self, key: InstanceKey, svid: X509Svid) -> None:
        try:
            self._data_plane.set_identity(
                key.instance,
                key.component,
                str(svid.spiffe_id),
                list(svid.chain_der),
                svid.key_pkcs8,
                svid.expires_at,
            )
        except Exception as error:  # the binding's own exception type exists only where it is installed
            raise DeniedError(
                "identity_unusable", "the data plane cannot use the SVID", detail=repr(error.args)
            ) from error
