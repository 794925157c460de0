"""The SPIFFE Broker API, served to the configured brokers of this node over mTLS.

Owns: the four methods as messages, who may call them, and the attestor's certificate on the socket.
Does not own: who gets what (``attestor.api.identities``), which process is meant (``attestor.api.references``).

Security: a caller needs both a broker's certificate and to be, as a process, that broker still; a stolen
key alone opens nothing, and a broker that drifts loses every stream at once.

Source: SPIFFE Broker API (go-spiffe exp/proto/spiffe/broker).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from grpclib.server import Stream

from attestor.api.answers import der_of, ders_of, fetch_jwt_svids, jwks_of, send_changes
from attestor.api.caller import Caller, present_caller
from attestor.api.guarding import while_attested
from attestor.api.identities import Attestations, Identities, IdentityFeed, IdentityRefusedError
from attestor.api.limits import ConnectionLimits
from attestor.api.references import FindListeners, Referenced, References
from attestor.api.rpc import receive_request, send_answer, status_of_errors
from attestor.api.server import SocketServer
from attestor.api.tls import PeerUnauthorisedError, peer_spiffe_id, server_context
from attestor.peer import PinnedProcess
from attestor.upstream.protocol import Upstream
from attestor.verdict import BROKER_COMPONENT, Attested, Match, Refused
from hopseal.documents.model import SvidMode
from hopseal.errors import DeniedError, UnavailableError
from hopseal.ids import SpiffeId
from hopseal.wire.gen.spiffe.broker import api_pb2 as pb
from hopseal.wire.gen.spiffe.broker.api_grpc import APIBase

SECURITY_HEADER = "broker.spiffe.io"
INSTANCE_HEADER = "hopseal-instance"
MAX_INSTANCE_BYTES = 128
OWN_IDENTITY_RETRY_S = 1.0

_log = logging.getLogger(__name__)
Request = TypeVar(
    "Request",
    pb.SubscribeToX509SVIDRequest,
    pb.SubscribeToX509BundlesRequest,
    pb.FetchJWTSVIDRequest,
    pb.SubscribeToJWTBundlesRequest,
)
Answer = TypeVar("Answer")


class BrokerServer(SocketServer):
    """The Broker API on ``sock``; see :class:`attestor.api.server.SocketServer`.

    Args:
        sock: bound, not yet listening; stays the caller's to close.
        brokers: who may connect.
        find_listeners: see :class:`attestor.api.references.References`.
    """

    def __init__(
        self,
        sock: socket.socket,
        attestations: Attestations,
        upstream: Upstream,
        limits: ConnectionLimits,
        brokers: frozenset[SpiffeId],
        *,
        find_listeners: FindListeners,
    ) -> None:
        self._upstream = upstream
        self._own = _OwnTls(brokers)
        super().__init__(sock, (BrokerApi(attestations, upstream, References(find_listeners)),), limits, tls=self._own)

    async def run(self) -> None:
        """Accepts, and keeps the attestor's certificate fresh, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_own_identity())
            await super().run()

    async def _follow_own_identity(self) -> None:
        while True:
            try:
                async with self._upstream.own_identity() as snapshots:
                    async for snapshot in snapshots:
                        self._own.present = server_context(snapshot) if snapshot.svids else None
            except UnavailableError as error:
                _log.warning("no certificate for broker.sock: %s", error)
            self._own.present = None
            await asyncio.sleep(OWN_IDENTITY_RETRY_S)


class _OwnTls:
    """See :class:`attestor.api.server.Tls`."""

    def __init__(self, brokers: frozenset[SpiffeId]) -> None:
        self._brokers = brokers
        self.present: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext | None:
        return self.present

    def identify(self, peer: ssl.SSLObject) -> SpiffeId:
        return peer_spiffe_id(peer, self._brokers.__contains__)


class BrokerApi(APIBase):
    """The methods; each answers about the process that the request refers to."""

    def __init__(self, attestations: Attestations, upstream: Upstream, references: References) -> None:
        self._attestations = attestations
        self._upstream = upstream
        self._references = references

    async def SubscribeToX509SVID(  # noqa: N802 - named by the proto
        self, stream: Stream[pb.SubscribeToX509SVIDRequest, pb.SubscribeToX509SVIDResponse]
    ) -> None:
        """X.509-SVIDs with keys and bundles: now, and at every rotation and bundle change."""
        async with self._serve(stream) as (_, caller, feed):
            sent: pb.SubscribeToX509SVIDResponse | None = None
            instance: str | None = None
            async for identities in feed:
                if instance is None:
                    instance = identities.attested.instance
                    await stream.send_initial_metadata(metadata={INSTANCE_HEADER: instance_header(instance)})
                elif instance != identities.attested.instance:
                    raise UnavailableError("instance_changed", "the process moved; ask about it again")
                answer = x509_svids(identities)
                if answer != sent and await feed.confirm(identities):
                    await send_answer(stream, caller, answer)
                    sent = answer
                    feed.note_sent(identities)

    async def SubscribeToX509Bundles(  # noqa: N802
        self, stream: Stream[pb.SubscribeToX509BundlesRequest, pb.SubscribeToX509BundlesResponse]
    ) -> None:
        """X.509 bundles that the process is to know, and at every change."""
        async with self._serve(stream) as (_, caller, feed):
            await send_changes(
                stream, caller, feed, lambda it: pb.SubscribeToX509BundlesResponse(bundles=ders_of(it.bundles))
            )

    async def FetchJWTSVID(  # noqa: N802
        self, stream: Stream[pb.FetchJWTSVIDRequest, pb.FetchJWTSVIDResponse]
    ) -> None:
        """JWT-SVIDs of all the process' identities, or of the one asked for."""
        async with self._serve(stream) as (request, caller, feed):
            svids = await fetch_jwt_svids(self._upstream, feed, request.audience, request.spiffe_id)
            listed = [pb.JWTSVID(spiffe_id=str(s.spiffe_id), svid=s.token, hint=s.hint) for s in svids]
            await send_answer(stream, caller, pb.FetchJWTSVIDResponse(svids=listed))

    async def SubscribeToJWTBundles(  # noqa: N802
        self, stream: Stream[pb.SubscribeToJWTBundlesRequest, pb.SubscribeToJWTBundlesResponse]
    ) -> None:
        """JWKS documents that the process is to know, and at every change."""
        async with self._serve(stream) as (_, caller, feed):
            await send_changes(
                stream, caller, feed, lambda it: pb.SubscribeToJWTBundlesResponse(bundles=jwks_of(it.bundles))
            )

    @asynccontextmanager
    async def _serve(self, stream: Stream[Request, Answer]) -> AsyncIterator[tuple[Request, Caller, IdentityFeed]]:
        """The request, its caller, and the feed of the process that it refers to."""
        with status_of_errors(_describe_denial):
            request = await receive_request(stream, SECURITY_HEADER)
            caller = present_caller()
            async with AsyncExitStack() as scope:
                # A descriptor of the request's own: the connection's may be closed before the request has ended.
                broker = scope.enter_context(caller.process.duplicate())
                await scope.enter_async_context(while_attested(self._attestations, broker, _is_broker(caller.tls_id)))
                referenced = await scope.enter_async_context(self._references.resolve(request.reference.reference))
                for check, process in _checks(referenced):
                    await scope.enter_async_context(while_attested(self._attestations, process, check))
                feed = await scope.enter_async_context(
                    IdentityFeed(self._attestations, self._upstream, referenced.processes[0], _is_served_here)
                )
                yield request, caller, feed


def x509_svids(identities: Identities) -> pb.SubscribeToX509SVIDResponse:
    """Everything a broker needs to act for a component, as one message."""
    bundles = identities.bundles
    return pb.SubscribeToX509SVIDResponse(
        svids=[
            pb.X509SVID(
                spiffe_id=str(held.svid.spiffe_id),
                x509_svid=b"".join(held.svid.chain_der),
                x509_svid_key=held.svid.key_pkcs8,
                bundle=der_of(bundles.own),
                hint=held.match.hint or held.svid.hint,
            )
            for held in identities.held
        ],
        federated_bundles=ders_of(bundles.federated),
    )


def instance_header(instance: str) -> str:
    """``instance`` as a metadata value: itself if it is short and printable, else its digest."""
    if len(instance) <= MAX_INSTANCE_BYTES and all("!" <= character <= "~" for character in instance):
        return instance
    return f"sha256:{hashlib.sha256(instance.encode('utf-8', 'surrogateescape')).hexdigest()}"


def _checks(referenced: Referenced) -> list[tuple[Callable[[Attested | Refused], None], PinnedProcess]]:
    if referenced.component is None:
        return []
    return [(_is_component(referenced.component), process) for process in referenced.processes]


def _is_broker(tls_id: SpiffeId | None) -> Callable[[Attested | Refused], None]:
    def check(verdict: Attested | Refused) -> None:
        if isinstance(verdict, Attested) and tls_id not in {
            match.spiffe_id for match in verdict.matches if match.qualified == BROKER_COMPONENT
        }:
            raise PeerUnauthorisedError(f"the process that shows {tls_id} is not that broker")

    return check


def _is_component(component: str) -> Callable[[Attested | Refused], None]:
    was_component = False

    def check(verdict: Attested | Refused) -> None:
        nonlocal was_component
        if isinstance(verdict, Attested) and component in {match.qualified for match in verdict.matches}:
            was_component = True
        elif isinstance(verdict, Attested) or not (was_component or verdict.retry):
            raise IdentityRefusedError("listener_not_component", f"the listener is not {component}")

    return check


def _is_served_here(match: Match) -> bool:
    return match.qualified != BROKER_COMPONENT and match.svid in {SvidMode.BROKER, SvidMode.BOTH}


def _describe_denial(error: DeniedError) -> str:
    # The broker is trusted with the reason; it logs it and tells its own caller no more than the code.
    return f"{error.code}: {error.message}"
