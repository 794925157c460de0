"""Envoy's secret discovery service, served to the processes of this node beside the Workload API.

Owns: the discovery protocol (versions, nonces, subscriptions). Does not own: what the secrets are
(``attestor.api.sds_secrets``), who gets what (``attestor.api.identities``), the socket's bounds.

1. One stream, one subscription: a request with other names replaces it.
2. A request with a nonce that is not the newest is stale and changes nothing.
3. A request with the newest nonce acknowledges or rejects; it is answered only if its names are others.
4. What changed is pushed; what did not is not. A withdrawal ends the stream.

Security: as in SPIRE's agent no security header is asked for, because Envoy sends none unless it is told to. A
program that was tricked into connecting would have to speak HTTP/2 and gRPC to this path of its own accord.

Source: Envoy, xDS protocol ("state of the world" variant).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

from grpclib.const import Handler as Method
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

from attestor.admission import Rate, TokenBuckets
from attestor.api.caller import Caller, present_caller
from attestor.api.identities import Attestations, Identities, IdentityFeed
from attestor.api.requests import forget_received
from attestor.api.rpc import (
    REQUEST_TIMEOUT_S,
    RequestInvalidError,
    receive_message,
    send_answer,
    status_of_errors,
)
from attestor.api.sds_secrets import TYPE_URL, build_secrets, pack_secret
from attestor.api.serving import describe_denial, is_served_here
from attestor.upstream.protocol import Upstream
from hopseal.wire.gen.hopseal.envoy.v3 import sds_pb2 as pb
from hopseal.wire.gen.hopseal.envoy.v3.sds_grpc import SecretDiscoveryServiceBase

MAX_NAMES: Final = 64
MAX_NAME_BYTES: Final = 2048
REQUEST_RATE: Final = Rate(per_s=8, burst=32)
_REJECTION_CHARS: Final = 256
_OWN_PACKAGE, _WIRE_PACKAGE = "/hopseal.envoy.v3.", "/envoy.service.secret.v3."

SdsStream: TypeAlias = Stream[pb.DiscoveryRequest, pb.DiscoveryResponse]
_log = logging.getLogger(__name__)


class SdsApi(SecretDiscoveryServiceBase):
    """The methods; each serves the process at the other end of its connection and nobody else."""

    def __init__(self, attestations: Attestations, upstream: Upstream) -> None:
        self._attestations = attestations
        self._upstream = upstream

    def __mapping__(self) -> dict[str, Method]:
        """The methods by their name on the wire, which is Envoy's."""
        return {path.replace(_OWN_PACKAGE, _WIRE_PACKAGE): method for path, method in super().__mapping__().items()}

    async def StreamSecrets(self, stream: SdsStream) -> None:  # noqa: N802 - named by the proto
        """Secrets by name: now, at every change of them, and for every change of the names."""
        async with self._serve() as (caller, feed):
            await _Session(stream, caller, feed).run()

    async def FetchSecrets(self, stream: SdsStream) -> None:  # noqa: N802
        """Secrets by name, once."""
        async with self._serve() as (caller, feed):
            request = await receive_message(stream, REQUEST_TIMEOUT_S)
            if request is None:
                raise RequestInvalidError("the request message is missing")
            names = parse_names(request)
            async for identities in feed:
                answer = _response(build_secrets(identities, names))
                if await feed.confirm(identities):
                    await send_answer(stream, caller, answer)
                    feed.note_sent(identities)
                    return

    async def DeltaSecrets(self, _stream: SdsStream) -> None:  # noqa: N802
        """Not implemented, as in SPIRE's agent: Envoy uses it only when told ``DELTA_GRPC``."""
        raise GRPCError(Status.UNIMPLEMENTED, "the incremental protocol is not served; use api_type GRPC")

    @asynccontextmanager
    async def _serve(self) -> AsyncIterator[tuple[Caller, IdentityFeed]]:
        with status_of_errors(describe_denial):
            caller = present_caller()
            with caller.process.duplicate() as process:
                async with IdentityFeed(self._attestations, self._upstream, process, is_served_here) as feed:
                    yield caller, feed


class _Session:
    """One ``StreamSecrets``."""

    def __init__(
        self,
        stream: SdsStream,
        caller: Caller,
        feed: IdentityFeed,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._caller = caller
        self._feed = feed
        self._budget = TokenBuckets(REQUEST_RATE, monotonic)
        self._identities: Identities | None = None
        self._names: tuple[str, ...] | None = None
        self._sent: tuple[pb.Secret, ...] | None = None
        self._version = 0
        self._nonce = ""
        self._has_ended = False
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Returns when the peer has no more requests."""
        async with asyncio.TaskGroup() as tasks:
            followers = [tasks.create_task(self._follow_identities()), tasks.create_task(self._follow_requests())]
            while not self._has_ended:
                await self._send_what_is_due()
                await self._changed.wait()
                self._changed.clear()
            for follower in followers:
                follower.cancel()

    async def _follow_identities(self) -> None:
        async for identities in self._feed:
            self._identities = identities
            self._changed.set()

    async def _follow_requests(self) -> None:
        timeout_s: float | None = REQUEST_TIMEOUT_S
        while (request := await receive_message(self._stream, timeout_s)) is not None:
            timeout_s = None
            self._take(request)
            forget_received(self._stream)
            if not self._budget.has_token(""):
                await asyncio.sleep(1 / REQUEST_RATE.per_s)
            self._budget.take("")
        self._has_ended = True
        self._changed.set()

    def _take(self, request: pb.DiscoveryRequest) -> None:
        if self._nonce and request.response_nonce != self._nonce:
            return  # it crossed a newer response; the answer to that one is on its way
        if request.HasField("error_detail"):
            # The peer's own words: quoted, so that they cannot pass for other lines of the log.
            told = request.error_detail.message[:_REJECTION_CHARS]
            _log.warning("secrets rejected by pid %d: %r", self._caller.process.pid, told)
        names = parse_names(request)
        if names != self._names:
            self._names, self._sent = names, None
            self._changed.set()

    async def _send_what_is_due(self) -> None:
        identities, names = self._identities, self._names
        if identities is None or names is None:
            return
        found = build_secrets(identities, names)
        if found == self._sent or not await self._feed.confirm(identities):
            return
        if names != self._names:
            return  # asked for others meanwhile, which has woken us again
        self._version += 1
        self._nonce = secrets.token_hex(8)
        answer = _response(found, version=str(self._version), nonce=self._nonce)
        self._sent = found
        await send_answer(self._stream, self._caller, answer)
        self._feed.note_sent(identities)


def parse_names(request: pb.DiscoveryRequest) -> tuple[str, ...]:
    """The names that ``request`` asks for, each once and sorted: a subscription is a set.

    Raises:
        RequestInvalidError: it asks for something other than secrets, or for too much.
    """
    if request.type_url not in {"", TYPE_URL}:
        raise RequestInvalidError("only secrets are served here")
    names = sorted({name for name in request.resource_names if name})
    if len(names) > MAX_NAMES or any(len(name.encode()) > MAX_NAME_BYTES for name in names):
        raise RequestInvalidError("too many resource names, or too long ones")
    return tuple(names)


def _response(found: tuple[pb.Secret, ...], *, version: str = "", nonce: str = "") -> pb.DiscoveryResponse:
    return pb.DiscoveryResponse(version_info=version, resources=map(pack_secret, found), type_url=TYPE_URL, nonce=nonce)
