"""SPIRE as an identity upstream; see :class:`attestor.upstream.protocol.Upstream`.

Owns: which selectors are subscribed to, and what is kept of those that no longer are.
Does not own: streams (``agent``), what they say (``known``, ``trust``, ``own``).

Each set of selectors has one stream to SPIRE Agent, however many processes wait for it, and keeps it for a
while after the last one left, so that a program that is started again and again is served at once. While
the agent is away everything goes on with what it last said, until that expires and never longer.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import Self

from attestor.upstream.protocol import UpstreamHealth
from attestor.upstream.settings import SpireSettings
from attestor.upstream.spire.agent import AgentSocket
from attestor.upstream.spire.dialing import OpeningGate
from attestor.upstream.spire.health import Health
from attestor.upstream.spire.known import KnownIdentities
from attestor.upstream.spire.own import OwnIdentity
from attestor.upstream.spire.parsing import AnswerMalformedError, parse_trust_domain, parse_x509_svid
from attestor.upstream.spire.tokens import TokenSource, render_selectors
from attestor.upstream.spire.trust import TrustFollower
from hopseal.bundle import BundleSet
from hopseal.errors import HopsealError, UnavailableError
from hopseal.ids import SpiffeId
from hopseal.selectors import Selector
from hopseal.snapshot import IdentitySnapshot
from hopseal.svid import JwtSvid
from hopseal.wire.gen.spire.api.agent.delegatedidentity.v1 import delegatedidentity_pb2 as pb
from hopseal.wire.gen.spire.api.agent.delegatedidentity.v1.delegatedidentity_grpc import DelegatedIdentityStub

EXPIRY_INTERVAL_S = 0.5
PROBE_INTERVAL_S = 10.0
PROBE_TIMEOUT_S = 3.0
LINGER_S = 60.0
MAX_LINGERING = 256  # streams that nobody follows
MAX_KEPT = 1024  # sets of selectors without a stream whose SVIDs may still be needed
_log = logging.getLogger(__name__)


class SpireUpstream:
    """Identities from SPIRE Agent.

    Args:
        own_id: the attestor's own identity, an ``authorized_delegate`` of the agent.
        clock: NumericDate seconds.
    """

    def __init__(self, settings: SpireSettings, own_id: SpiffeId, *, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._own_id = own_id
        self._clock = clock
        self._health = Health(clock)
        self._known: dict[frozenset[Selector], KnownIdentities] = {}
        self._kept: OrderedDict[frozenset[Selector], KnownIdentities] = OrderedDict()
        self._lingering: OrderedDict[KnownIdentities, float] = OrderedDict()
        self._streams: dict[frozenset[Selector], asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        gate = OpeningGate()
        self._admin = AgentSocket(self._settings.admin_socket, gate)
        self._workload = AgentSocket(self._settings.workload_socket, gate)
        self._stub = DelegatedIdentityStub(self._admin.channel)
        health = self._health
        self._trust = TrustFollower(
            self._admin, self._own_id.trust_domain, health.link("X.509 bundles"), health.link("JWT bundles")
        )
        self._own = OwnIdentity(self._workload, self._own_id, health.link("own SVID"), self._clock)
        self._tokens = TokenSource(self._admin, self._clock)
        self._probe_link = health.link("probe")
        self._probe_link.up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gone = UnavailableError("upstream_unavailable", "the attestor is stopping")
        for known in self._known.values():
            known.watch.fail(gone)
        self._own.watch.fail(gone)
        self._trust.watch.fail(gone)
        self._admin.drop()
        self._workload.drop()

    async def run(self) -> None:
        """Follows SPIRE Agent until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                for known in self._known.values():
                    self._start(known)
                tasks.create_task(self._trust.follow_x509())
                tasks.create_task(self._trust.follow_jwt())
                tasks.create_task(self._own.follow())
                tasks.create_task(self._follow_bundles())
                tasks.create_task(self._expire())
                tasks.create_task(self._probe())
        finally:
            self._tasks = None

    @asynccontextmanager
    async def subscribe(self, selectors: frozenset[Selector]) -> AsyncIterator[AsyncIterator[IdentitySnapshot]]:
        """See :class:`attestor.upstream.protocol.Upstream`."""
        known = self._known.get(selectors)
        if known is None:
            known = self._kept.pop(selectors, None) or KnownIdentities(selectors, self._clock)
            self._known[selectors] = known
            known.take_bundles(self._trust.watch.value)
            self._start(known)
        known.followers += 1
        self._lingering.pop(known, None)
        try:
            async with aclosing(known.watch.follow()) as snapshots:
                yield snapshots
        finally:
            known.followers -= 1
            if not known.followers:
                self._lingering[known] = asyncio.get_running_loop().time()
                self._stop_lingering(MAX_LINGERING, math.inf)

    async def fetch_jwt_svids(
        self, selectors: frozenset[Selector], audience: tuple[str, ...], spiffe_id: SpiffeId
    ) -> tuple[JwtSvid, ...]:
        """See :class:`attestor.upstream.protocol.Upstream`."""
        return await self._tokens.fetch(selectors, audience, spiffe_id)

    @asynccontextmanager
    async def bundles(self) -> AsyncIterator[AsyncIterator[BundleSet]]:
        """See :class:`attestor.upstream.protocol.Upstream`."""
        async with aclosing(self._trust.watch.follow()) as bundles:
            yield bundles

    @asynccontextmanager
    async def own_identity(self) -> AsyncIterator[AsyncIterator[IdentitySnapshot]]:
        """See :class:`attestor.upstream.protocol.Upstream`."""
        async with aclosing(self._own.watch.follow()) as snapshots:
            yield snapshots

    def health(self) -> UpstreamHealth:
        """See :class:`attestor.upstream.protocol.Upstream`."""
        return self._health.current

    def _start(self, known: KnownIdentities) -> None:
        if self._tasks is not None:
            self._streams[known.selectors] = self._tasks.create_task(self._follow(known))

    def _stop_lingering(self, most: int, longest_s: float) -> None:
        """Give up streams that nobody follows: the oldest beyond ``most``, and those left longer ago than said."""
        oldest_allowed = asyncio.get_running_loop().time() - longest_s
        while self._lingering:
            known, since = next(iter(self._lingering.items()))
            if len(self._lingering) <= most and since > oldest_allowed:
                return
            del self._lingering[known]
            self._stop(known)

    def _stop(self, known: KnownIdentities) -> None:
        del self._known[known.selectors]
        known.set_aside()
        stream = self._streams.pop(known.selectors, None)
        if stream is not None:
            stream.cancel()
        if known.is_worth_keeping:
            self._kept[known.selectors] = known
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)

    async def _follow(self, known: KnownIdentities) -> None:
        request = pb.SubscribeToX509SVIDsRequest(selectors=render_selectors(known.selectors))

        def lose(error: HopsealError) -> None:
            known.lose(UnavailableError("upstream_unavailable", "SPIRE Agent cannot be asked", detail=str(error)))

        stream = self._admin.follow(self._stub.SubscribeToX509SVIDs, request, lose)
        async with aclosing(stream) as answers:
            async for answer in answers:
                try:
                    svids = tuple(
                        parse_x509_svid(
                            f"spiffe://{each.x509_svid.id.trust_domain}{each.x509_svid.id.path}",
                            each.x509_svid.cert_chain,
                            each.x509_svid_key,
                            each.x509_svid.hint,
                        )
                        for each in answer.x509_svids
                    )
                    federates_with = frozenset(parse_trust_domain(name) for name in answer.federates_with)
                except AnswerMalformedError as error:
                    _log.warning("an answer of SPIRE Agent is ignored: %s", error)
                else:
                    known.take(svids, federates_with)

    async def _follow_bundles(self) -> None:
        async with self.bundles() as bundles:
            async for present in bundles:
                for known in self._known.values():
                    known.take_bundles(present)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_INTERVAL_S)
            self._own.expire()
            self._stop_lingering(MAX_LINGERING, LINGER_S)
            for known in self._known.values():
                known.publish()
            for selectors in [each for each, known in self._kept.items() if not known.is_worth_keeping]:
                del self._kept[selectors]

    async def _probe(self) -> None:
        """A stalled agent keeps its streams open and its process alive; only a question tells."""
        while True:
            await asyncio.sleep(PROBE_INTERVAL_S)
            try:
                request = pb.SubscribeToX509BundlesRequest()
                await self._admin.probe(self._stub.SubscribeToX509Bundles, request, PROBE_TIMEOUT_S)
            except HopsealError as error:
                self._probe_link.down(error)
                self._admin.drop()
            else:
                self._probe_link.up()
