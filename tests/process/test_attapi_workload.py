"""The Workload API over a real socket: every method, every refusal, every push."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager

import pytest
from cryptography import x509
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from apifakes import (
    REFUSED,
    EntryList,
    FakeAttestations,
    attested,
    broker_match,
    entry,
    match,
    spiffe_id,
)
from apiserving import HEADER, held_descriptors, served_workload_api
from attestor.api import identities
from attestor.states import State
from attestor.verdict import Refused
from hopseal.bundle import Bundle, BundleSet
from hopseal.documents.model import SvidMode
from hopseal.errors import DeniedError, UnavailableError
from hopseal.ids import TrustDomain
from hopseal.snapshot import IdentitySnapshot
from hopseal.wire.client import subscription
from hopseal.wire.gen.spiffe.workload import workload_pb2 as pb
from waiting import async_wait_until

ORCHESTRATOR = "spiffe://example.org/agents/crm/orchestrator"
REQUESTS = {
    "FetchX509SVID": pb.X509SVIDRequest(),
    "FetchX509Bundles": pb.X509BundlesRequest(),
    "FetchJWTSVID": pb.JWTSVIDRequest(audience=["a"]),
    "FetchJWTBundles": pb.JWTBundlesRequest(),
    "ValidateJWTSVID": pb.ValidateJWTSVIDRequest(audience="a", svid="a.b.c"),
}
STREAMING = {"FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles"}


async def ask(client, name, request=None, metadata=HEADER):
    """The first answer of any method."""
    method = getattr(client, name)
    async with asyncio.timeout(5):
        async with method.open(metadata=metadata) as stream:
            await stream.send_message(REQUESTS[name] if request is None else request, end=True)
            answer = await stream.recv_message()
            if answer is None:
                await stream.recv_trailing_metadata()
            if name in STREAMING:
                await stream.cancel()
    return answer


async def refusal(client, name, request=None, metadata=HEADER):
    with pytest.raises(GRPCError) as caught:
        await ask(client, name, request, metadata)
    return caught.value.status, caught.value.message


@asynccontextmanager
async def x509_answers(client):
    async with subscription(client.FetchX509SVID, pb.X509SVIDRequest(), metadata=HEADER) as answers:
        yield answers


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"workload.spiffe.io": "false"},
        {"workload.spiffe.io": "True"},
        {"workload.spiffe.io": "true,true"},
        [("workload.spiffe.io", "true"), ("workload.spiffe.io", "true")],
        [("workload.spiffe.io", "true"), ("workload.spiffe.io", "false")],
        {"broker.spiffe.io": "true"},
    ],
)
async def test_the_security_header_is_required_exactly_once(tmp_path, name, metadata):
    async with served_workload_api(tmp_path) as served:
        status, message = await refusal(served.client(), name, metadata=metadata)
        assert (status, message) == (Status.INVALID_ARGUMENT, "security header missing from request")
        assert served.attestations.confirmed == []


@pytest.mark.parametrize("name", REQUESTS)
async def test_without_an_identity_every_method_is_denied_without_a_reason(tmp_path, name):
    async with served_workload_api(tmp_path, attestations=FakeAttestations(REFUSED)) as served:
        assert await refusal(served.client(), name) == (Status.PERMISSION_DENIED, "no identity issued")


@pytest.mark.parametrize("name", REQUESTS)
async def test_an_attested_process_without_an_entry_is_denied(tmp_path, name):
    async with served_workload_api(tmp_path, entries=EntryList(())) as served:
        assert await refusal(served.client(), name) == (Status.PERMISSION_DENIED, "no identity issued")
        assert (spiffe_id("/agents/crm/orchestrator"), None) in served.attestations.noted


async def test_a_component_whose_key_only_the_broker_may_hold_gets_none_here(tmp_path):
    verdict = attested(match(svid=SvidMode.BROKER))
    async with served_workload_api(tmp_path, attestations=FakeAttestations(verdict)) as served:
        assert (await refusal(served.client(), "FetchX509SVID"))[0] is Status.PERMISSION_DENIED


async def test_a_refusal_that_may_pass_is_unavailable(tmp_path):
    busy = Refused(State.UNREADABLE, "rate_limited", "too many attestations were asked for", retry=True)
    async with served_workload_api(tmp_path, attestations=FakeAttestations(busy)) as served:
        assert (await refusal(served.client(), "FetchX509SVID"))[0] is Status.UNAVAILABLE


async def test_an_x509_answer_holds_everything_for_mtls(tmp_path):
    async with served_workload_api(tmp_path) as served:
        answer = await ask(served.client(), "FetchX509SVID")
        (svid,) = answer.svids
        assert svid.spiffe_id == ORCHESTRATOR
        leaf = x509.load_der_x509_certificate(svid.x509_svid)
        leaf.verify_directly_issued_by(x509.load_der_x509_certificate(svid.bundle))
        assert served.attestations.confirmed == [os.getpid()]
        assert served.attestations.noted == [
            (spiffe_id("/agents/crm/orchestrator"), int(leaf.not_valid_after_utc.timestamp()))
        ]


async def test_a_broker_of_this_node_gets_its_svid_here(tmp_path):
    entries = EntryList((entry("/hopseal/broker/n1", "exe:broker"),))
    async with served_workload_api(
        tmp_path, attestations=FakeAttestations(attested(broker_match())), entries=entries
    ) as served:
        answer = await ask(served.client(), "FetchX509SVID")
        assert [svid.spiffe_id for svid in answer.svids] == ["spiffe://example.org/hopseal/broker/n1"]


async def test_a_process_that_is_two_components_gets_both_with_their_hints(tmp_path):
    verdict = attested(match(hint="first"), match("/agents/crm/other", "gid:0", qualified="crm/other", hint="second"))
    entries = EntryList((entry("/agents/crm/orchestrator", "uid:0"), entry("/agents/crm/other", "gid:0", hint="entry")))
    async with served_workload_api(tmp_path, attestations=FakeAttestations(verdict), entries=entries) as served:
        answer = await ask(served.client(), "FetchX509SVID")
        assert [(svid.spiffe_id, svid.hint) for svid in answer.svids] == [
            (ORCHESTRATOR, "first"),
            ("spiffe://example.org/agents/crm/other", "second"),
        ]
        tokens = await ask(served.client(), "FetchJWTSVID")
        assert len(tokens.svids) == 2
        one = await ask(served.client(), "FetchJWTSVID", pb.JWTSVIDRequest(audience=["a"], spiffe_id=ORCHESTRATOR))
        assert [svid.spiffe_id for svid in one.svids] == [ORCHESTRATOR]


async def test_bundles_are_given_by_trust_domain(tmp_path):
    async with served_workload_api(tmp_path) as served:
        client = served.client()
        certificates = (await ask(client, "FetchX509Bundles")).bundles
        assert certificates.keys() == {"spiffe://example.org"}
        x509.load_der_x509_certificate(certificates["spiffe://example.org"])
        keys = (await ask(client, "FetchJWTBundles")).bundles
        assert b'"kid"' in keys["spiffe://example.org"]


async def test_a_token_is_validated_for_its_audience_only(tmp_path):
    async with served_workload_api(tmp_path) as served:
        client = served.client()
        (token,) = (await ask(client, "FetchJWTSVID", pb.JWTSVIDRequest(audience=["me", "them"]))).svids
        valid = await ask(client, "ValidateJWTSVID", pb.ValidateJWTSVIDRequest(audience="me", svid=token.svid))
        assert valid.spiffe_id == ORCHESTRATOR
        assert list(valid.claims["aud"]) == ["me", "them"]
        status, message = await refusal(
            client, "ValidateJWTSVID", pb.ValidateJWTSVIDRequest(audience="you", svid=token.svid)
        )
        assert status is Status.INVALID_ARGUMENT
        assert "audience" in message


@pytest.mark.parametrize(
    ("name", "request_message"),
    [
        ("FetchJWTSVID", pb.JWTSVIDRequest()),
        ("FetchJWTSVID", pb.JWTSVIDRequest(audience=[""])),
        ("FetchJWTSVID", pb.JWTSVIDRequest(audience=["a" * 1025])),
        ("FetchJWTSVID", pb.JWTSVIDRequest(audience=[str(each) for each in range(65)])),
        ("FetchJWTSVID", pb.JWTSVIDRequest(audience=["a"], spiffe_id="not an id")),
        ("ValidateJWTSVID", pb.ValidateJWTSVIDRequest(audience="a")),
        ("ValidateJWTSVID", pb.ValidateJWTSVIDRequest(svid="a.b.c")),
    ],
)
async def test_requests_that_ask_for_nothing_are_invalid(tmp_path, name, request_message):
    async with served_workload_api(tmp_path) as served:
        assert (await refusal(served.client(), name, request_message))[0] is Status.INVALID_ARGUMENT


async def test_audiences_up_to_the_bounds_pass(tmp_path):
    request = pb.JWTSVIDRequest(audience=["a" * 1024, *(str(each) for each in range(63))])
    async with served_workload_api(tmp_path) as served:
        assert len((await ask(served.client(), "FetchJWTSVID", request)).svids) == 1


async def test_another_identity_is_not_given(tmp_path):
    async with served_workload_api(tmp_path) as served:
        request = pb.JWTSVIDRequest(audience=["a"], spiffe_id="spiffe://example.org/agents/crm/other")
        assert await refusal(served.client(), "FetchJWTSVID", request) == (
            Status.PERMISSION_DENIED,
            "no identity issued",
        )


@pytest.mark.parametrize(
    ("name", "request_message"), [("FetchWITSVID", pb.WITSVIDRequest()), ("FetchWITBundles", pb.WITBundlesRequest())]
)
async def test_wit_svids_are_said_to_be_missing(tmp_path, name, request_message):
    async with served_workload_api(tmp_path) as served:
        assert (await refusal(served.client(), name, request_message))[0] is Status.UNIMPLEMENTED


async def test_a_rotation_is_pushed_before_the_svid_ends(tmp_path):
    async with served_workload_api(tmp_path, x509_ttl_s=4) as served, x509_answers(served.client()) as answers:
        first = x509.load_der_x509_certificate((await anext(answers)).svids[0].x509_svid)
        async with asyncio.timeout(5):
            second = x509.load_der_x509_certificate((await anext(answers)).svids[0].x509_svid)
        assert second.serial_number != first.serial_number
        assert second.not_valid_before_utc < first.not_valid_after_utc


async def test_drift_ends_every_stream_at_once(tmp_path):
    async with served_workload_api(tmp_path) as served:
        client = served.client()
        loop = asyncio.get_running_loop()

        async def until_denied(name):
            async with getattr(client, name).open(metadata=HEADER) as stream:
                await stream.send_message(REQUESTS[name], end=True)
                await stream.recv_message()
                held.append(name)
                await stream.recv_message()
                await stream.recv_trailing_metadata()

        held: list[str] = []
        tasks = [asyncio.ensure_future(until_denied(name)) for name in STREAMING]
        await async_wait_until(lambda: len(held) == len(STREAMING))
        started = loop.time()
        served.attestations.set(REFUSED)
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, GRPCError)
            assert (result.status, result.message) == (Status.PERMISSION_DENIED, "no identity issued")
        assert loop.time() - started < 0.5
        assert served.attestations.watched == 0


async def test_an_entry_that_goes_ends_the_stream(tmp_path):
    async with served_workload_api(tmp_path) as served, x509_answers(served.client()) as answers:
        await anext(answers)
        served.entries.set()
        with pytest.raises(DeniedError, match="PERMISSION_DENIED: no identity issued"):
            await asyncio.wait_for(anext(answers), 5)


async def test_a_new_generation_with_the_same_svids_is_no_push(tmp_path):
    async with served_workload_api(tmp_path) as served, x509_answers(served.client()) as answers:
        await anext(answers)
        served.attestations.set(attested(generation=2))
        waiting = asyncio.ensure_future(anext(answers))
        done, _ = await asyncio.wait({waiting}, timeout=0.2)
        assert not done
        served.attestations.set(attested(match(hint="new"), generation=3))
        assert (await asyncio.wait_for(waiting, 5)).svids[0].hint == "new"


async def test_other_selectors_bring_other_svids(tmp_path):
    async with served_workload_api(tmp_path) as served, x509_answers(served.client()) as answers:
        await anext(answers)
        served.entries.set(entry("/agents/crm/other", "uid:5"))
        served.attestations.set(attested(match("/agents/crm/other", "uid:5"), generation=2))
        answer = await asyncio.wait_for(anext(answers), 5)
        assert answer.svids[0].spiffe_id == "spiffe://example.org/agents/crm/other"


async def test_a_process_that_changed_after_its_attestation_gets_no_key(tmp_path):
    async with served_workload_api(tmp_path) as served:
        served.attestations.on_confirm = REFUSED
        for name in ("FetchX509SVID", "FetchJWTSVID"):
            assert (await refusal(served.client(), name))[0] is Status.PERMISSION_DENIED
        assert len(served.attestations.confirmed) == 2
        assert served.attestations.noted == []


async def test_a_verdict_that_is_being_replaced_releases_nothing(tmp_path):
    async with served_workload_api(tmp_path) as served:
        served.attestations.on_confirm = attested(generation=2)
        waiting = asyncio.ensure_future(ask(served.client(), "FetchX509SVID"))
        await async_wait_until(lambda: served.attestations.confirmed)
        assert not waiting.done()
        served.attestations.set(attested(generation=2))
        assert len((await waiting).svids) == 1


class FixedUpstream:
    """Says what a test puts in."""

    def __init__(self, snapshot: IdentitySnapshot | UnavailableError | None) -> None:
        self.snapshot = snapshot

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def run(self):
        await asyncio.Event().wait()

    @asynccontextmanager
    async def subscribe(self, _selectors):
        async def snapshots():
            if isinstance(self.snapshot, UnavailableError):
                raise self.snapshot
            if self.snapshot is not None:
                yield self.snapshot
            await asyncio.Event().wait()

        yield snapshots()


async def test_federated_bundles_are_passed_on_and_kept_apart(tmp_path):
    async with (
        served_workload_api(tmp_path / "one") as issuing,
        issuing.upstream.subscribe(match().selectors) as snapshots,
    ):
        real = await anext(snapshots)
    partner = Bundle(TrustDomain.parse("partner.example"), (b"\x30\x00",), b'{"keys":[]}')
    keyless = Bundle(TrustDomain.parse("keyless.example"), ())
    snapshot = IdentitySnapshot(real.svids, BundleSet(real.bundles.own, (partner, keyless)))
    async with served_workload_api(tmp_path, upstream=FixedUpstream(snapshot)) as served:
        client = served.client()
        answer = await ask(client, "FetchX509SVID")
        assert answer.federated_bundles == {"spiffe://partner.example": b"\x30\x00", "spiffe://keyless.example": b""}
        assert answer.svids[0].bundle == real.bundles.own.x509_authorities[0]
        assert (await ask(client, "FetchX509Bundles")).bundles.keys() == {
            "spiffe://example.org",
            "spiffe://partner.example",
            "spiffe://keyless.example",
        }
        assert (await ask(client, "FetchJWTBundles")).bundles.keys() == {
            "spiffe://example.org",
            "spiffe://partner.example",
        }


async def test_an_upstream_that_is_away_is_unavailable_and_not_denied(tmp_path):
    upstream = FixedUpstream(UnavailableError("upstream_unavailable", "SPIRE Agent cannot be asked"))
    async with served_workload_api(tmp_path, upstream=upstream) as served:
        assert await refusal(served.client(), "FetchX509SVID") == (
            Status.UNAVAILABLE,
            "upstream_unavailable: SPIRE Agent cannot be asked",
        )


async def test_an_upstream_that_says_nothing_is_unavailable_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(identities, "FIRST_TIMEOUT_S", 0.1)
    async with served_workload_api(tmp_path, upstream=FixedUpstream(None)) as served:
        assert (await refusal(served.client(), "FetchX509SVID"))[0] is Status.UNAVAILABLE


async def test_a_clients_own_deadline_ends_its_stream(tmp_path):
    async with served_workload_api(tmp_path) as served:
        client = served.client()
        with pytest.raises((GRPCError, TimeoutError)):
            await client.FetchX509SVID(pb.X509SVIDRequest(), timeout=0.2, metadata=HEADER)
        await async_wait_until(lambda: served.attestations.watched == 0)
        await ask(client, "FetchX509SVID")


async def test_stopping_ends_streams_without_a_denial(tmp_path):
    async with served_workload_api(tmp_path) as served:
        stream_context = served.client().FetchX509SVID.open(metadata=HEADER)
        stream = await stream_context.__aenter__()
        await stream.send_message(pb.X509SVIDRequest(), end=True)
        await stream.recv_message()
        waiting = asyncio.ensure_future(stream.recv_message())
        await asyncio.sleep(0)
    with pytest.raises(StreamTerminatedError):
        await waiting


async def test_a_client_that_goes_leaves_nothing_behind(tmp_path):
    async with served_workload_api(tmp_path) as served:
        await ask(served.client(), "FetchX509SVID")
        served.close()
        await async_wait_until(lambda: served.server.stats().open_connections == 0)
        before = held_descriptors()
        for _ in range(50):
            client = served.client()
            await ask(client, "FetchX509SVID")
            await refusal(client, "FetchX509SVID", metadata={})
            client.FetchX509SVID.channel.close()
        await async_wait_until(lambda: served.server.stats().open_connections == 0)
        await async_wait_until(lambda: held_descriptors() <= before)
        assert served.attestations.watched == 0
