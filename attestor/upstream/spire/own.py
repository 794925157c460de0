"""The attestor's own SVID, from SPIRE Agent's Workload API like any workload's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing

from attestor.latest import Latest
from attestor.upstream.spire.agent import AgentSocket
from attestor.upstream.spire.health import Link
from attestor.upstream.spire.parsing import (
    AnswerMalformedError,
    parse_trust_domain,
    parse_x509_svid,
    split_certificates,
)
from hopseal.bundle import Bundle, BundleSet
from hopseal.errors import DeniedError, HopsealError, UnavailableError
from hopseal.ids import SpiffeId
from hopseal.snapshot import IdentitySnapshot
from hopseal.wire.gen.spiffe.workload import workload_pb2 as pb
from hopseal.wire.gen.spiffe.workload.workload_grpc import SpiffeWorkloadAPIStub

_METADATA = {"workload.spiffe.io": "true"}


class OwnIdentity:
    """Follows the SVID of ``own_id``.

    Args:
        clock: NumericDate seconds.
    """

    def __init__(self, socket: AgentSocket, own_id: SpiffeId, link: Link, clock: Callable[[], float]) -> None:
        self.watch: Latest[IdentitySnapshot] = Latest()
        self._socket = socket
        self._stub = SpiffeWorkloadAPIStub(socket.channel)
        self._own_id = own_id
        self._link = link
        self._clock = clock

    async def follow(self) -> None:
        """Keeps the SVID fresh until cancelled."""
        stream = self._socket.follow(self._stub.FetchX509SVID, pb.X509SVIDRequest(), self._lose, metadata=_METADATA)
        async with aclosing(stream) as answers:
            async for answer in answers:
                try:
                    self.watch.publish(self._parse(answer))
                except (AnswerMalformedError, DeniedError) as error:
                    self._link.down(error)
                else:
                    self._link.up()

    def expire(self) -> None:
        """Take the SVID back if it has expired."""
        snapshot = self.watch.value
        if snapshot is not None and snapshot.svids[0].expires_at <= self._clock():
            error = UnavailableError("upstream_unavailable", "the attestor's own SVID has expired")
            self._link.down(error)
            self.watch.fail(error)

    def _lose(self, error: HopsealError) -> None:
        self._link.down(_missing(error.detail) if isinstance(error, DeniedError) else error)

    def _parse(self, answer: pb.X509SVIDResponse) -> IdentitySnapshot:
        found = next((svid for svid in answer.svids if svid.spiffe_id == str(self._own_id)), None)
        if found is None:
            raise _missing(f"it gives {[svid.spiffe_id for svid in answer.svids]}, not {self._own_id}")
        svid = parse_x509_svid(found.spiffe_id, split_certificates(found.x509_svid), found.x509_svid_key, found.hint)
        federated = tuple(
            Bundle(parse_trust_domain(name), split_certificates(der)) for name, der in answer.federated_bundles.items()
        )
        own = Bundle(self._own_id.trust_domain, split_certificates(found.bundle))
        return IdentitySnapshot((svid,), BundleSet(own, federated))


def _missing(detail: str) -> DeniedError:
    return DeniedError(
        "own_identity_missing",
        "SPIRE Agent does not know this process as the attestor",
        detail=detail,
        remedy="create the entry with `hopseal entries bootstrap`",
    )
