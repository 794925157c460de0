"""What SPIRE Agent last said about one set of selectors, and what of it may be served now.

Owns: the debounce of removals, the choice among SVIDs, expiry. Does not own: streams or the clock.

SPIRE Agent announces an entry that it knows but has not signed yet with a message without SVIDs, which
looks like a removal. So a message without SVIDs counts only when no other follows it for a while. SVIDs
and bundles come by different streams; they are published together once they fit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from attestor.latest import Latest
from attestor.upstream.spire.parsing import choose_svids, is_anchored
from hopseal.bundle import BundleSet
from hopseal.errors import UnavailableError
from hopseal.ids import TrustDomain
from hopseal.selectors import Selector
from hopseal.snapshot import IdentitySnapshot
from hopseal.svid import X509Svid

REMOVAL_DELAY_S = 0.5


class KnownIdentities:
    """The SVIDs for ``selectors``.

    Args:
        removal_delay_s: how long nothing must follow a message without SVIDs before it counts.
    """

    def __init__(
        self,
        selectors: frozenset[Selector],
        clock: Callable[[], float],
        *,
        removal_delay_s: float = REMOVAL_DELAY_S,
    ) -> None:
        self.selectors = selectors
        self.watch: Latest[IdentitySnapshot] = Latest()
        self.followers = 0
        self._clock = clock
        self._removal_delay_s = removal_delay_s
        self._svids: tuple[X509Svid, ...] | None = None
        self._federates_with: frozenset[TrustDomain] = frozenset()
        self._may_serve = self._fits = False
        self._bundles: BundleSet | None = None
        self._removal: asyncio.TimerHandle | None = None

    def take(self, svids: tuple[X509Svid, ...], federates_with: frozenset[TrustDomain]) -> None:
        """The agent said this."""
        if svids:
            self._cancel_removal()
            self._adopt(choose_svids(svids), federates_with)
        elif self._removal is None:
            loop = asyncio.get_running_loop()
            self._removal = loop.call_later(self._removal_delay_s, self._adopt, (), federates_with)

    def take_bundles(self, bundles: BundleSet | None) -> None:
        """These are the bundles now."""
        self._bundles = bundles
        self._check()
        self.publish()

    def lose(self, error: UnavailableError) -> None:
        """The agent cannot be asked: what it said stays good until it expires, and nothing else is known."""
        self._may_serve = True
        self.publish()
        if self.watch.value is None:
            self.watch.fail(error)

    def publish(self) -> None:
        """Give followers what may be served now."""
        if not self._may_serve or not self._fits or self._svids is None or self._bundles is None:
            return
        now = self._clock()
        valid = tuple(svid for svid in self._svids if svid.expires_at > now)
        if self._svids and not valid:
            self.watch.fail(UnavailableError("upstream_unavailable", "the SVID expired and SPIRE Agent gave no other"))
            return
        federated = tuple(bundle for bundle in self._bundles.federated if bundle.trust_domain in self._federates_with)
        self.watch.publish(IdentitySnapshot(valid, BundleSet(self._bundles.own, federated)))

    def set_aside(self) -> None:
        """Nobody follows any more; what is known is served again only if the agent cannot be asked then."""
        self._cancel_removal()
        self._may_serve = False
        self.watch = Latest()

    @property
    def is_worth_keeping(self) -> bool:
        """Whether there is an SVID that may still be needed."""
        return any(svid.expires_at > self._clock() for svid in self._svids or ())

    def _adopt(self, svids: tuple[X509Svid, ...], federates_with: frozenset[TrustDomain]) -> None:
        self._removal = None
        self._svids, self._federates_with, self._may_serve = svids, federates_with, True
        self._check()
        self.publish()

    def _check(self) -> None:
        """An SVID of a new authority may come before the bundle that holds it; what was published stays meanwhile."""
        bundles = self._bundles
        self._fits = bundles is not None and all(
            is_anchored(svid, bundles.own.x509_authorities) for svid in self._svids or ()
        )

    def _cancel_removal(self) -> None:
        if self._removal is not None:
            self._removal.cancel()
            self._removal = None
