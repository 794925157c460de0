"""The broker's own SVID, fetched like any workload's from the attestor's Workload API.

Owns: following the stream, picking the SVID with the broker's exact SPIFFE ID, dialling again.
Does not own: what it is used for (``broker.attestor_link``).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import structlog
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from broker.isolated import run_isolated
from broker.svids import parse_bundles, parse_svid
from hopseal.backoff import Backoff
from hopseal.bundle import BundleSet
from hopseal.errors import HopsealError, InvalidError
from hopseal.ids import SpiffeId
from hopseal.svid import X509Svid
from hopseal.watch import Watch
from hopseal.wire.gen.spiffe.workload.workload_grpc import SpiffeWorkloadAPIStub
from hopseal.wire.gen.spiffe.workload.workload_pb2 import X509SVIDRequest, X509SVIDResponse

_METADATA = {"workload.spiffe.io": "true"}  # SPIFFE Workload Endpoint §6
_OPEN_S = 5.0
_MISSING = "broker_identity_missing"

log = structlog.get_logger("broker.own_identity")


@dataclass(frozen=True, slots=True)
class OwnIdentity:
    """The broker's SVID with the bundles that came in the same message; published together, never apart."""

    svid: X509Svid
    bundles: BundleSet


class OwnIdentityClient:
    """Follows the broker's own SVID; :attr:`current` is None while there is none.

    Args:
        socket: the attestor's Workload API.
        spiffe_id: the only identity that is taken.
        backoff: pauses between attempts.
    """

    def __init__(self, socket: Path, spiffe_id: SpiffeId, backoff: Backoff) -> None:
        self._socket = socket
        self._spiffe_id = spiffe_id
        self._backoff = backoff
        self.current: Watch[OwnIdentity | None] = Watch(None)
        self.problem = "the attestor has not answered yet"

    async def run(self) -> None:
        """Follow for ever. An SVID is kept to its end when the attestor is away, and dropped when it says no."""
        while True:
            try:
                await run_isolated(self._follow())
            except (OSError, TimeoutError, GRPCError, StreamTerminatedError, ProtocolError, HopsealError) as error:
                self._note(error)
            await asyncio.sleep(self._backoff.next_s())

    async def _follow(self) -> None:
        channel = Channel(path=str(self._socket))
        try:
            async with SpiffeWorkloadAPIStub(channel).FetchX509SVID.open(metadata=_METADATA) as stream:
                async with asyncio.timeout(_OPEN_S):
                    await stream.send_message(X509SVIDRequest(), end=True)
                    message = await stream.recv_message()
                while message is not None:
                    self._take(message)
                    message = await stream.recv_message()
        finally:
            channel.close()

    def _take(self, message: X509SVIDResponse) -> None:
        for each in message.svids:
            if each.spiffe_id == str(self._spiffe_id):
                svid = parse_svid(each)
                bundles = parse_bundles(self._spiffe_id.trust_domain, each.bundle, message.federated_bundles)
                break
        else:
            raise InvalidError(_MISSING, f"the attestor issues no SVID for {self._spiffe_id}")
        self._backoff.reset()
        self.problem = ""
        self.current.publish(OwnIdentity(svid, bundles))
        log.info("own_identity_received", spiffe_id=str(svid.spiffe_id), expires_at=svid.expires_at)

    def _note(self, error: Exception) -> None:
        if isinstance(error, GRPCError):
            reason = f"{error.status.name}: {error.message or ''}"
        else:
            reason = f"{type(error).__name__}: {error}"
        if reason != self.problem:
            log.warning("own_identity_unavailable", reason=reason)
        self.problem = reason
        held = self.current.value
        if held is not None and (_is_withdrawal(error) or held.svid.expires_at <= time.time()):
            self.current.publish(None)


def _is_withdrawal(error: Exception) -> bool:
    if isinstance(error, InvalidError):
        return error.code == _MISSING
    return isinstance(error, GRPCError) and error.status is Status.PERMISSION_DENIED
