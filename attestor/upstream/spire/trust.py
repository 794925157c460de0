"""The bundles that SPIRE Agent knows: two streams joined into one value."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import aclosing

from attestor.latest import Latest
from attestor.upstream.spire.agent import AgentSocket
from attestor.upstream.spire.health import Link
from attestor.upstream.spire.parsing import AnswerMalformedError, parse_trust_domain, split_certificates
from hopseal.bundle import Bundle, BundleSet
from hopseal.ids import TrustDomain
from hopseal.wire.gen.spire.api.agent.delegatedidentity.v1 import delegatedidentity_pb2 as pb
from hopseal.wire.gen.spire.api.agent.delegatedidentity.v1.delegatedidentity_grpc import DelegatedIdentityStub

_log = logging.getLogger(__name__)


class TrustFollower:
    """Follows the X.509 and the JWT bundles and publishes both together.

    Args:
        own: the trust domain without whose bundle nothing is published.
    """

    def __init__(self, socket: AgentSocket, own: TrustDomain, x509_link: Link, jwt_link: Link) -> None:
        self.watch: Latest[BundleSet] = Latest()
        self._socket = socket
        self._stub = DelegatedIdentityStub(socket.channel)
        self._own = own
        self._x509_link = x509_link
        self._jwt_link = jwt_link
        self._x509: Mapping[TrustDomain, tuple[bytes, ...]] | None = None
        self._jwt: Mapping[TrustDomain, bytes] | None = None

    async def follow_x509(self) -> None:
        """Keeps the X.509 half until cancelled."""
        request = pb.SubscribeToX509BundlesRequest()
        stream = self._socket.follow(self._stub.SubscribeToX509Bundles, request, self._x509_link.down)
        async with aclosing(stream) as answers:
            async for answer in answers:
                try:
                    self._x509 = {
                        parse_trust_domain(name): split_certificates(der)
                        for name, der in answer.ca_certificates.items()
                    }
                except AnswerMalformedError as error:
                    self._x509_link.down(error)
                    continue
                self._x509_link.up()
                self._publish()

    async def follow_jwt(self) -> None:
        """Keeps the JWT half until cancelled."""
        request = pb.SubscribeToJWTBundlesRequest()
        stream = self._socket.follow(self._stub.SubscribeToJWTBundles, request, self._jwt_link.down)
        async with aclosing(stream) as answers:
            async for answer in answers:
                try:
                    self._jwt = {parse_trust_domain(name): jwks for name, jwks in answer.bundles.items()}
                except AnswerMalformedError as error:
                    self._jwt_link.down(error)
                    continue
                self._jwt_link.up()
                self._publish()

    def _publish(self) -> None:
        if self._x509 is None or self._jwt is None:
            return
        bundles = BundleSet.build(
            self._own,
            (Bundle(name, der, self._jwt.get(name, b"")) for name, der in sorted(self._x509.items())),
        )
        if bundles is None:
            _log.warning("SPIRE Agent has no bundle of trust domain %s", self._own.name)
        else:
            self.watch.publish(bundles)
