"""The SPIFFE Workload API, served to the processes of this node.

Owns: the five methods that SPIFFE requires, as messages. Does not own: who gets what
(``attestor.api.identities``) or the socket's bounds (``attestor.api.server``).

Source: SPIFFE Workload API; SPIFFE Workload Endpoint.
"""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from google.protobuf.json_format import ParseDict
from google.protobuf.json_format import ParseError as JsonParseError
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

from attestor.api.answers import der_of, ders_of, fetch_jwt_svids, jwks_of, send_changes
from attestor.api.caller import Caller, present_caller
from attestor.api.identities import Attestations, Held, Identities, IdentityFeed
from attestor.api.jwt_validation import JwtSvidInvalidError, verify_jwt_svid
from attestor.api.limits import ConnectionLimits
from attestor.api.rpc import RequestInvalidError, receive_request, send_answer, status_of_errors
from attestor.api.sds import SdsApi
from attestor.api.server import SocketServer
from attestor.api.serving import describe_denial, is_served_here
from attestor.upstream.protocol import Upstream
from hopseal.bundle import Bundle
from hopseal.wire.gen.spiffe.workload import workload_pb2 as pb
from hopseal.wire.gen.spiffe.workload.workload_grpc import SpiffeWorkloadAPIBase

SECURITY_HEADER = "workload.spiffe.io"

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class WorkloadServer(SocketServer):
    """The Workload API and Envoy's secret discovery on ``sock``; see :class:`attestor.api.server.SocketServer`.

    Args:
        sock: bound, not yet listening; stays the caller's to close.
        clock: NumericDate seconds, for the expiry of tokens that are validated.
    """

    def __init__(
        self,
        sock: socket.socket,
        attestations: Attestations,
        upstream: Upstream,
        limits: ConnectionLimits,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        workload, discovery = WorkloadApi(attestations, upstream, clock), SdsApi(attestations, upstream)
        super().__init__(
            sock,
            (workload, discovery),
            limits,
            large_methods=frozenset(discovery.__mapping__()),
        )


class WorkloadApi(SpiffeWorkloadAPIBase):
    """The methods; each serves the process at the other end of its connection and nobody else."""

    def __init__(self, attestations: Attestations, upstream: Upstream, clock: Callable[[], float]) -> None:
        self._attestations = attestations
        self._upstream = upstream
        self._clock = clock

    async def FetchX509SVID(  # noqa: N802 - named by the proto
        self, stream: Stream[pb.X509SVIDRequest, pb.X509SVIDResponse]
    ) -> None:
        """X.509-SVIDs with keys and bundles: now, and at every rotation and bundle change."""
        async with self._serve(stream) as (_, caller, feed):
            sent: pb.X509SVIDResponse | None = None
            async for identities in feed:
                answer = x509_svids(identities)
                if answer != sent and await feed.confirm(identities):
                    await send_answer(stream, caller, answer)
                    sent = answer
                    feed.note_sent(identities)

    async def FetchX509Bundles(  # noqa: N802
        self, stream: Stream[pb.X509BundlesRequest, pb.X509BundlesResponse]
    ) -> None:
        """X.509 bundles of the own and the federated trust domains, and at every change."""
        async with self._serve(stream) as (_, caller, feed):
            await send_changes(stream, caller, feed, lambda it: pb.X509BundlesResponse(bundles=ders_of(it.bundles)))

    async def FetchJWTSVID(  # noqa: N802
        self, stream: Stream[pb.JWTSVIDRequest, pb.JWTSVIDResponse]
    ) -> None:
        """JWT-SVIDs of all the caller's identities, or of the one asked for."""
        async with self._serve(stream) as (request, caller, feed):
            svids = await fetch_jwt_svids(self._upstream, feed, request.audience, request.spiffe_id)
            listed = [pb.JWTSVID(spiffe_id=str(s.spiffe_id), svid=s.token, hint=s.hint) for s in svids]
            await send_answer(stream, caller, pb.JWTSVIDResponse(svids=listed))

    async def FetchJWTBundles(  # noqa: N802
        self, stream: Stream[pb.JWTBundlesRequest, pb.JWTBundlesResponse]
    ) -> None:
        """JWKS documents of the own and the federated trust domains, and at every change."""
        async with self._serve(stream) as (_, caller, feed):
            await send_changes(stream, caller, feed, lambda it: pb.JWTBundlesResponse(bundles=jwks_of(it.bundles)))

    async def ValidateJWTSVID(  # noqa: N802
        self, stream: Stream[pb.ValidateJWTSVIDRequest, pb.ValidateJWTSVIDResponse]
    ) -> None:
        """The subject and claims of a JWT-SVID that somebody gave to the caller."""
        async with self._serve(stream) as (request, caller, feed):
            if not request.audience or not request.svid:
                raise RequestInvalidError("audience and svid must be specified")
            identities = await anext(feed)
            valid = verify_jwt_svid(request.svid, request.audience, identities.bundles, self._clock())
            answer = pb.ValidateJWTSVIDResponse(spiffe_id=str(valid.spiffe_id))
            try:
                ParseDict(dict(valid.claims), answer.claims)
            except (JsonParseError, RecursionError) as error:
                raise JwtSvidInvalidError("the claims are no plain JSON") from error
            await send_answer(stream, caller, answer)

    async def FetchWITSVID(  # noqa: N802
        self, _stream: Stream[pb.WITSVIDRequest, pb.WITSVIDResponse]
    ) -> None:
        """Not implemented: no upstream issues WIT-SVIDs."""
        raise GRPCError(Status.UNIMPLEMENTED, "WIT-SVIDs are not issued here")

    async def FetchWITBundles(  # noqa: N802
        self, _stream: Stream[pb.WITBundlesRequest, pb.WITBundlesResponse]
    ) -> None:
        """Not implemented: no upstream issues WIT-SVIDs."""
        raise GRPCError(Status.UNIMPLEMENTED, "WIT-SVIDs are not issued here")

    @asynccontextmanager
    async def _serve(self, stream: Stream[Request, Answer]) -> AsyncIterator[tuple[Request, Caller, IdentityFeed]]:
        """The checked request, its caller, and the feed of the caller's identities."""
        with status_of_errors(describe_denial):
            request = await receive_request(stream, SECURITY_HEADER)
            caller = present_caller()
            # A descriptor of the request's own: the connection's may be closed before the request has ended.
            with caller.process.duplicate() as process:
                async with IdentityFeed(self._attestations, self._upstream, process, is_served_here) as feed:
                    yield request, caller, feed


def x509_svids(identities: Identities) -> pb.X509SVIDResponse:
    """Everything a component needs for mTLS, as one message."""
    bundles = identities.bundles
    return pb.X509SVIDResponse(
        svids=[_x509_svid(held, bundles.own) for held in identities.held],
        federated_bundles=ders_of(bundles.federated),
    )


def _x509_svid(held: Held, own: Bundle) -> pb.X509SVID:
    return pb.X509SVID(
        spiffe_id=str(held.svid.spiffe_id),
        x509_svid=b"".join(held.svid.chain_der),
        x509_svid_key=held.svid.key_pkcs8,
        bundle=der_of(own),
        hint=held.match.hint or held.svid.hint,
    )
