"""The embedded authority as an identity upstream.

Owns: which SVIDs are out, when each is renewed, and what every subscriber sees.
Does not own: signing (``signing``), authorities (``authority``), keys on disk (``store``).

One task keeps everything fresh: each tick it reads the clock, follows or makes rotations, and publishes
what changed. So a clock that jumps, a machine that slept and a rotation made by another attestor are
all noticed within a tick, and none of them needs a timer of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from attestor.latest import Latest
from attestor.upstream.embedded import signing
from attestor.upstream.embedded.authority import Authority, AuthoritySet
from attestor.upstream.embedded.store import AuthorityStore
from attestor.upstream.protocol import EntrySource, UpstreamHealth
from attestor.upstream.settings import EmbeddedSettings
from hopseal.bundle import BundleSet
from hopseal.entries import Entry
from hopseal.errors import BugError, HopsealError, UnavailableError
from hopseal.ids import SpiffeId
from hopseal.selectors import Selector
from hopseal.snapshot import IdentitySnapshot
from hopseal.svid import JwtSvid, X509Svid

KIND = "embedded"
TICK_S = 0.5
REFRESH_HINT_S = 300  # SPIFFE Trust Domain and Bundle §4.1.2; verifiers outside the host poll no more often


@dataclass(frozen=True, slots=True)
class _Issued:
    svid: X509Svid
    signed_by: Authority
    issued_at: int

    def is_due(self, now: float, authorities: AuthoritySet) -> bool:
        """From half its life on, when the clock was set back, or when its authority is no longer published."""
        half_life = (self.issued_at + self.svid.expires_at) / 2
        is_young = self.issued_at - signing.BACKDATE_S <= now < half_life
        return not is_young or self.signed_by not in authorities.authorities


@dataclass(eq=False, slots=True)
class _Subscription:
    selectors: frozenset[Selector]
    watch: Latest[IdentitySnapshot] = field(default_factory=Latest)


class EmbeddedUpstream:
    """Issues SVIDs for the entries of ``entries``; see :class:`attestor.upstream.protocol.Upstream`.

    Args:
        own_id: the attestor's own identity; its trust domain is the authority's.
        tick_s: how soon changes of the clock and of shared state are noticed.
    """

    def __init__(
        self,
        settings: EmbeddedSettings,
        own_id: SpiffeId,
        entries: EntrySource,
        *,
        clock: Callable[[], float],
        tick_s: float = TICK_S,
    ) -> None:
        self._clock = clock
        self._tick_s = tick_s
        self._source = entries
        self._store = AuthorityStore(settings.state_dir, own_id.trust_domain, settings.ca_ttl_s)
        self._own_entry = Entry(
            "hopseal.own", own_id, frozenset(), "", settings.x509_svid_ttl_s, settings.jwt_svid_ttl_s
        )
        self._authorities: AuthoritySet | None = None
        self._entries: tuple[Entry, ...] | None = None
        self._issued: dict[Entry, _Issued] = {}
        self._rendered: tuple[AuthoritySet, BundleSet] | None = None
        self._subscriptions: set[_Subscription] = set()
        self._own: Latest[IdentitySnapshot] = Latest()
        self._bundles: Latest[BundleSet] = Latest()
        self._health = UpstreamHealth(KIND, healthy=False, since=int(clock()), detail="not started")

    async def __aenter__(self) -> Self:
        self._authorities = await asyncio.to_thread(self._store.open, int(self._clock()))
        self._publish()
        self._note_health("")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._issued.clear()
        self._fail("the attestor is stopping")

    async def run(self) -> None:
        """Follows the entries and keeps everything fresh until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_entries())
            tasks.create_task(self._keep_fresh())

    @asynccontextmanager
    async def subscribe(self, selectors: frozenset[Selector]) -> AsyncIterator[AsyncIterator[IdentitySnapshot]]:
        """See :class:`attestor.upstream.protocol.Upstream`."""
        subscription = _Subscription(selectors)
        self._subscriptions.add(subscription)
        self._publish_to(subscription, int(self._clock()))
        try:
            async with aclosing(subscription.watch.follow()) as snapshots:
                yield snapshots
        finally:
            self._subscriptions.discard(subscription)

    async def fetch_jwt_svids(
        self, selectors: frozenset[Selector], audience: tuple[str, ...], spiffe_id: SpiffeId
    ) -> tuple[JwtSvid, ...]:
        """See :class:`attestor.upstream.protocol.Upstream`."""
        if self._entries is None:
            raise UnavailableError("upstream_unavailable", "the registration entries are not loaded yet")
        entry = next((each for each in self._matching(selectors) if each.spiffe_id == spiffe_id), None)
        if entry is None:
            return ()
        now = int(self._clock())
        signer = self._signer(now)
        expires_at = min(now + entry.jwt_svid_ttl_s, signer.not_after)
        return (signing.sign_jwt_svid(spiffe_id, entry.hint, audience, signer.jwt_key, signer.kid, now, expires_at),)

    @asynccontextmanager
    async def bundles(self) -> AsyncIterator[AsyncIterator[BundleSet]]:
        """See :class:`attestor.upstream.protocol.Upstream`."""
        async with aclosing(self._bundles.follow()) as bundles:
            yield bundles

    @asynccontextmanager
    async def own_identity(self) -> AsyncIterator[AsyncIterator[IdentitySnapshot]]:
        """See :class:`attestor.upstream.protocol.Upstream`."""
        async with aclosing(self._own.follow()) as snapshots:
            yield snapshots

    def health(self) -> UpstreamHealth:
        """See :class:`attestor.upstream.protocol.Upstream`."""
        return self._health

    async def _follow_entries(self) -> None:
        async for entries in self._source():
            self._entries = entries
            self._publish()

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self._tick_s)
            try:
                self._authorities = await asyncio.to_thread(self._store.refresh, int(self._clock()))
            except HopsealError as error:
                self._note_health(str(error))
            else:
                self._note_health("")
            self._publish()

    def _publish(self) -> None:
        """Recompute everything from one look at the clock; followers hear only of what changed."""
        now = int(self._clock())
        if self._published_authorities().signer(now) is None:
            self._fail("no authority can sign now")  # the last one expired and the next could not be written
            return
        known = {self._own_entry, *(self._entries or ())}
        self._issued = {
            entry: issued
            for entry, issued in self._issued.items()
            if entry in known and not issued.is_due(now, self._published_authorities())
        }
        bundles = self._bundle_set()
        self._bundles.publish(bundles)
        self._own.publish(IdentitySnapshot((self._svid(self._own_entry, now),), bundles))
        for subscription in self._subscriptions:
            self._publish_to(subscription, now)

    def _fail(self, message: str) -> None:
        error = UnavailableError("upstream_unavailable", message, detail=self._health.detail)
        self._own.fail(error)
        self._bundles.fail(error)
        for subscription in self._subscriptions:
            subscription.watch.fail(error)

    def _publish_to(self, subscription: _Subscription, now: int) -> None:
        if self._entries is None:
            return  # the first snapshot waits for them
        if self._published_authorities().signer(now) is None:
            subscription.watch.fail(UnavailableError("upstream_unavailable", "no authority can sign now"))
            return
        svids = tuple(self._svid(entry, now) for entry in self._matching(subscription.selectors))
        subscription.watch.publish(IdentitySnapshot(svids, self._bundle_set()))

    def _matching(self, selectors: frozenset[Selector]) -> tuple[Entry, ...]:
        """The entries that ``selectors`` earn, the first of each identity and hint."""
        found: dict[tuple[SpiffeId, str], Entry] = {}
        for entry in self._entries or ():
            if entry.matches(selectors):
                found.setdefault((entry.spiffe_id, entry.hint), entry)
        return tuple(found.values())

    def _svid(self, entry: Entry, now: int) -> X509Svid:
        issued = self._issued.get(entry)
        if issued is None or issued.is_due(now, self._published_authorities()):
            signer = self._signer(now)
            svid = signing.sign_x509_svid(
                entry.spiffe_id, entry.hint, signer.certificate, signer.key, now, entry.x509_svid_ttl_s
            )
            issued = self._issued[entry] = _Issued(svid, signer, now)
        return issued.svid

    def _signer(self, now: int) -> Authority:
        signer = self._published_authorities().signer(now)
        if signer is None:
            raise UnavailableError("upstream_unavailable", "no authority can sign now", detail=self._health.detail)
        return signer

    def _bundle_set(self) -> BundleSet:
        authorities = self._published_authorities()
        if self._rendered is None or self._rendered[0] is not authorities:
            self._rendered = authorities, BundleSet(authorities.bundle(REFRESH_HINT_S))
        return self._rendered[1]

    def _published_authorities(self) -> AuthoritySet:
        if self._authorities is None:
            raise BugError("upstream_not_entered", "the upstream was used before it was entered")
        return self._authorities

    def _note_health(self, detail: str) -> None:
        now = int(self._clock())
        if not detail and self._published_authorities().signer(now) is None:
            detail = "no authority can sign now"
        healthy = not detail
        since = self._health.since if healthy == self._health.healthy else now
        self._health = UpstreamHealth(KIND, healthy, since, detail)
