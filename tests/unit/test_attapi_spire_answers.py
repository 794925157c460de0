"""Answers of an agent that only a test can give: federation, and what no agent should send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server

from apifakes import NODE, TRUST_DOMAIN, Clock, running, selectors, spiffe_id
from attestor.latest import Latest
from attestor.upstream.embedded import signing
from attestor.upstream.embedded.authority import create_authorities
from attestor.upstream.settings import SpireSettings
from attestor.upstream.spire.upstream import SpireUpstream
from hopseal.entries import attestor_id
from hopseal.errors import UnavailableError
from hopseal.svid import X509Svid
from hopseal.wire.gen.spiffe.workload import workload_pb2 as wpb
from hopseal.wire.gen.spiffe.workload.workload_grpc import SpiffeWorkloadAPIBase
from hopseal.wire.gen.spire.api.agent.delegatedidentity.v1 import delegatedidentity_pb2 as pb
from hopseal.wire.gen.spire.api.agent.delegatedidentity.v1.delegatedidentity_grpc import DelegatedIdentityBase
from hopseal.wire.gen.spire.api.types.jwtsvid_pb2 import JWTSVID
from hopseal.wire.gen.spire.api.types.spiffeid_pb2 import SPIFFEID
from hopseal.wire.gen.spire.api.types.x509svid_pb2 import X509SVID
from waiting import async_wait_until

NOW = 1_800_000_000
AUTHORITIES = create_authorities(TRUST_DOMAIN, NOW, 86_400)
ROOT = AUTHORITIES.authorities[0].certificate.public_bytes(Encoding.DER)
OWN = "spiffe://example.org"
PARTNER = "spiffe://partner.example"


def issue(path: str, ttl_s: int = 600) -> X509Svid:
    signer = AUTHORITIES.signer(NOW)
    assert signer is not None
    return signing.sign_x509_svid(spiffe_id(path), "", signer.certificate, signer.key, NOW, ttl_s)


def delegated(svid: X509Svid, **changes: bytes) -> pb.X509SVIDWithKey:
    return pb.X509SVIDWithKey(
        x509_svid=X509SVID(
            id=SPIFFEID(trust_domain="example.org", path=svid.spiffe_id.path),
            cert_chain=svid.chain_der,
            expires_at=svid.expires_at,
        ),
        x509_svid_key=changes.get("key", svid.key_pkcs8),
    )


class Agent(DelegatedIdentityBase, SpiffeWorkloadAPIBase):
    """Says what the test puts into its watches."""

    def __init__(self) -> None:
        self.svids: Latest[pb.SubscribeToX509SVIDsResponse] = Latest()
        self.x509: Latest[pb.SubscribeToX509BundlesResponse] = Latest()
        self.jwt: Latest[pb.SubscribeToJWTBundlesResponse] = Latest()
        self.own: Latest[wpb.X509SVIDResponse] = Latest()
        self.tokens: pb.FetchJWTSVIDsResponse | GRPCError = pb.FetchJWTSVIDsResponse()
        self.asked: list[list[str]] = []

    def __mapping__(self):
        return DelegatedIdentityBase.__mapping__(self) | SpiffeWorkloadAPIBase.__mapping__(self)

    async def SubscribeToX509SVIDs(self, stream):
        request = await stream.recv_message()
        self.asked.append([f"{selector.type}:{selector.value}" for selector in request.selectors])
        await self._send(stream, self.svids)

    async def SubscribeToX509Bundles(self, stream):
        await self._send(stream, self.x509)

    async def SubscribeToJWTBundles(self, stream):
        await self._send(stream, self.jwt)

    async def FetchX509SVID(self, stream):
        await self._send(stream, self.own)

    async def FetchJWTSVIDs(self, stream):
        await stream.recv_message()
        if isinstance(self.tokens, GRPCError):
            raise self.tokens
        await stream.send_message(self.tokens)

    async def _send(self, stream, watch):
        async for answer in watch.follow():
            await stream.send_message(answer)

    FetchX509Bundles = FetchJWTSVID = FetchJWTBundles = ValidateJWTSVID = None
    FetchWITSVID = FetchWITBundles = None


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
async def agent(tmp_path) -> AsyncIterator[Agent]:
    agent = Agent()
    agent.x509.publish(pb.SubscribeToX509BundlesResponse(ca_certificates={OWN: ROOT, PARTNER: ROOT}))
    agent.jwt.publish(pb.SubscribeToJWTBundlesResponse(bundles={OWN: b'{"keys":[]}', PARTNER: b'{"keys":[1]}'}))
    agent.own.publish(own_answer(issue(f"/hopseal/attestor/{NODE}")))
    server = Server([agent])
    await server.start(path=str(tmp_path / "agent.sock"))
    yield agent
    server.close()
    await server.wait_closed()


def own_answer(svid: X509Svid, **changes: bytes) -> wpb.X509SVIDResponse:
    return wpb.X509SVIDResponse(
        svids=[
            wpb.X509SVID(
                spiffe_id=str(svid.spiffe_id),
                x509_svid=changes.get("chain", svid.chain_der[0]),
                x509_svid_key=svid.key_pkcs8,
                bundle=ROOT,
            )
        ],
        federated_bundles={PARTNER: ROOT},
    )


@pytest.fixture
async def upstream(agent, tmp_path, clock) -> AsyncIterator[SpireUpstream]:
    path = tmp_path / "agent.sock"
    upstream = SpireUpstream(SpireSettings(path, path), attestor_id(TRUST_DOMAIN, NODE), clock=clock)
    async with running(upstream):
        await async_wait_until(lambda: upstream.health().healthy)
        yield upstream


async def test_only_the_bundles_that_an_identity_federates_with_are_passed_on(upstream, agent):
    agent.svids.publish(pb.SubscribeToX509SVIDsResponse(x509_svids=[delegated(issue("/a"))], federates_with=[PARTNER]))
    async with upstream.subscribe(selectors("uid:1", "image:sha256:a")) as snapshots:
        snapshot = await anext(snapshots)
        assert [(each.trust_domain.name, each.jwt_keys) for each in snapshot.bundles.federated] == [
            ("partner.example", b'{"keys":[1]}')
        ]
        agent.svids.publish(pb.SubscribeToX509SVIDsResponse(x509_svids=[delegated(issue("/a"))]))
        assert (await anext(snapshots)).bundles.federated == ()
    async with upstream.bundles() as bundles:
        assert [each.trust_domain.name for each in (await anext(bundles)).federated] == ["partner.example"]
    assert agent.asked == [["hopseal:image:sha256:a", "hopseal:uid:1"]]


async def test_an_svid_that_does_not_fit_is_not_handed_on(upstream, agent):
    good = issue("/a")
    agent.svids.publish(pb.SubscribeToX509SVIDsResponse(x509_svids=[delegated(good)]))
    async with upstream.subscribe(selectors("uid:1")) as snapshots:
        assert (await anext(snapshots)).svids == (good,)
        for bad in (delegated(issue("/a"), key=good.key_pkcs8), pb.X509SVIDWithKey()):
            agent.svids.publish(pb.SubscribeToX509SVIDsResponse(x509_svids=[bad]))
            await asyncio.sleep(0.02)
        agent.svids.publish(pb.SubscribeToX509SVIDsResponse(x509_svids=[delegated(issue("/b"))]))
        assert [svid.spiffe_id for svid in (await anext(snapshots)).svids] == [spiffe_id("/b")]


async def test_bundles_that_cannot_be_read_leave_the_last_good_ones_and_show_in_health(upstream, agent):
    async with upstream.bundles() as bundles:
        good = await anext(bundles)
        agent.x509.publish(pb.SubscribeToX509BundlesResponse(ca_certificates={OWN: b"junk"}))
        agent.jwt.publish(pb.SubscribeToJWTBundlesResponse(bundles={"Not A Domain": b""}))
        await async_wait_until(
            lambda: "X.509 bundles" in upstream.health().detail and "JWT bundles" in upstream.health().detail
        )
        assert upstream._trust.watch.value == good
        agent.x509.publish(pb.SubscribeToX509BundlesResponse(ca_certificates={OWN: ROOT}))
        agent.jwt.publish(pb.SubscribeToJWTBundlesResponse(bundles={OWN: b'{"keys":[]}'}))
        await async_wait_until(lambda: upstream.health().healthy)
        assert (await anext(bundles)).federated == ()


async def test_an_answer_without_the_own_bundle_changes_nothing(upstream, agent):
    async with upstream.bundles() as bundles:
        good = await anext(bundles)
        agent.x509.publish(pb.SubscribeToX509BundlesResponse(ca_certificates={PARTNER: ROOT}))
        agent.jwt.publish(pb.SubscribeToJWTBundlesResponse(bundles={PARTNER: b'{"keys":[2]}'}))
        await asyncio.sleep(0.05)
        assert upstream._trust.watch.value == good


async def test_the_attestors_own_svid_is_followed_and_expires(upstream, agent, clock):
    async with upstream.own_identity() as snapshots:
        first = await anext(snapshots)
        assert [each.trust_domain.name for each in first.bundles.federated] == ["partner.example"]
        agent.own.publish(own_answer(issue("/hopseal/attestor/other")))
        await async_wait_until(lambda: "own_identity_missing" in upstream.health().detail)
        agent.own.publish(own_answer(issue(f"/hopseal/attestor/{NODE}"), chain=b"junk"))
        await async_wait_until(lambda: "upstream_answer_malformed" in upstream.health().detail)
        assert upstream._own.watch.value == first
        clock.now += 600
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(anext(snapshots), 5)


@pytest.mark.parametrize(
    ("error", "given"),
    [
        (GRPCError(Status.PERMISSION_DENIED, "no identity issued"), True),
        (GRPCError(Status.PERMISSION_DENIED, "caller not configured as an authorized delegate"), False),
        (GRPCError(Status.UNAVAILABLE, "entry not found"), False),
    ],
)
async def test_no_token_for_the_workload_is_told_from_trouble_of_our_own(upstream, agent, error, given):
    agent.tokens = error
    fetch = upstream.fetch_jwt_svids(selectors("uid:1"), ("a",), spiffe_id("/a"))
    if given:
        assert await fetch == ()
    else:
        with pytest.raises(UnavailableError):
            await fetch


async def test_a_token_that_expired_is_not_given_while_the_agent_is_away(upstream, agent, clock):
    agent.tokens = pb.FetchJWTSVIDsResponse(
        svids=[JWTSVID(token="t", id=SPIFFEID(trust_domain="example.org", path="/a"), expires_at=NOW + 60)]
    )
    (token,) = await upstream.fetch_jwt_svids(selectors("uid:1"), ("a",), spiffe_id("/a"))
    agent.tokens = GRPCError(Status.UNAVAILABLE, "away")
    clock.now += 59
    assert await upstream.fetch_jwt_svids(selectors("uid:1"), ("a",), spiffe_id("/a")) == (token,)
    clock.now += 1
    with pytest.raises(UnavailableError):
        await upstream.fetch_jwt_svids(selectors("uid:1"), ("a",), spiffe_id("/a"))
    agent.tokens = GRPCError(Status.PERMISSION_DENIED, "no identity issued")
    assert await upstream.fetch_jwt_svids(selectors("uid:1"), ("a",), spiffe_id("/a")) == ()
