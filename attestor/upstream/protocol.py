"""The interface of an identity upstream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from hopseal.bundle import BundleSet
from hopseal.entries import Entry
from hopseal.ids import SpiffeId
from hopseal.selectors import Selector
from hopseal.snapshot import IdentitySnapshot
from hopseal.svid import JwtSvid

EntrySource: TypeAlias = Callable[[], AsyncIterator[tuple[Entry, ...]]]
"""Called once by ``run``; yields the entries at once and again whenever they change."""


@dataclass(frozen=True, slots=True)
class UpstreamHealth:
    """What the upstream can do now.

    Args:
        kind: ``embedded`` or ``spire-delegated``.
        healthy: it answers and would issue.
        since: NumericDate seconds of the last change of ``healthy``.
        detail: why not, for the operator; empty when healthy.
    """

    kind: str
    healthy: bool
    since: int
    detail: str = ""


class Upstream(Protocol):
    """Issues SVIDs for selectors and hands out bundles.

    An async context manager whose ``run`` does the work; subscriptions may be opened as soon as
    it is entered and wait for ``run``. Snapshots conflate: a slow subscriber gets the newest.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def run(self) -> None:
        """Keeps identities fresh until cancelled."""

    def subscribe(self, selectors: frozenset[Selector]) -> AbstractAsyncContextManager[AsyncIterator[IdentitySnapshot]]:
        """Snapshots for these selectors: one at once (perhaps without SVIDs), then at every change.

        Expired SVIDs are never in a snapshot. At most one SVID of each SPIFFE ID and hint.

        Raises:
            UnavailableError: from the iterator, when nothing is known about these selectors and
                the upstream cannot be asked (``upstream_unavailable``).
        """

    async def fetch_jwt_svids(
        self, selectors: frozenset[Selector], audience: tuple[str, ...], spiffe_id: SpiffeId
    ) -> tuple[JwtSvid, ...]:
        """JWT-SVIDs of ``spiffe_id`` for ``audience``; empty if these selectors do not earn that ID.

        Raises:
            UnavailableError: the upstream cannot be asked (``upstream_unavailable``).
        """

    def bundles(self) -> AbstractAsyncContextManager[AsyncIterator[BundleSet]]:
        """The own bundle and every federated one: at once when known, then at every change."""

    def own_identity(self) -> AbstractAsyncContextManager[AsyncIterator[IdentitySnapshot]]:
        """The attestor's own SVID ``/hopseal/attestor/<node>``: as soon as there is one, then at every change."""

    def health(self) -> UpstreamHealth:
        """What the upstream can do now."""
