"""Envoy's secret discovery over a real socket: names, versions, nonces, pushes, refusals and bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from grpclib.client import Channel, StreamStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from h2.exceptions import StreamClosedError

from apifakes import LIMITS, REFUSED, EntryList, FakeAttestations, attested, entry, match
from apiserving import served_workload_api
from attestor.api.identities import Held, Identities
from attestor.api.rpc import RequestInvalidError
from attestor.api.sds import MAX_NAME_BYTES, MAX_NAMES, REQUEST_RATE
from attestor.api.sds_secrets import build_secrets, pack_secret
from hopseal.bundle import Bundle, BundleSet
from hopseal.documents.model import SvidMode
from hopseal.ids import TrustDomain
from hopseal.svid import X509Svid
from hopseal.wire.gen.hopseal.envoy.v3 import sds_pb2 as pb
from waiting import async_wait_until

ID = "spiffe://example.org/agents/crm/orchestrator"
DOMAIN = "spiffe://example.org"
SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
VALIDATOR = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig"
FRAME = 5  # what gRPC puts before each message
SERVICE = "/envoy.service.secret.v3.SecretDiscoveryService"


class Envoy:
    """A client of the service under its name on the wire."""

    def __init__(self, channel: Channel) -> None:
        types = (pb.DiscoveryRequest, pb.DiscoveryResponse)
        self.stream = StreamStreamMethod(channel, f"{SERVICE}/StreamSecrets", *types)
        self.delta = StreamStreamMethod(channel, f"{SERVICE}/DeltaSecrets", *types)
        self.fetch = UnaryUnaryMethod(channel, f"{SERVICE}/FetchSecrets", *types)


def request(*names: str, **fields: Any) -> pb.DiscoveryRequest:
    return pb.DiscoveryRequest(resource_names=names, type_url=fields.pop("type_url", SECRET), **fields)


def ack(answer: pb.DiscoveryResponse, *names: str) -> pb.DiscoveryRequest:
    return request(*names, version_info=answer.version_info, response_nonce=answer.nonce)


def secrets_in(answer: pb.DiscoveryResponse) -> dict[str, pb.Secret]:
    assert {each.type_url for each in answer.resources} == {SECRET}
    parsed = [pb.Secret.FromString(each.value) for each in answer.resources]
    return {each.name: each for each in parsed}


def leaf_of(secret: pb.Secret) -> x509.Certificate:
    return x509.load_pem_x509_certificates(secret.tls_certificate.certificate_chain.inline_bytes)[0]


def domains_of(secret: pb.Secret) -> dict[str, list[x509.Certificate]]:
    extension = secret.validation_context.custom_validator_config
    assert (extension.name, extension.typed_config.type_url) == ("envoy.tls.cert_validator.spiffe", VALIDATOR)
    config = pb.SpiffeCertValidatorConfig.FromString(extension.typed_config.value)
    return {each.name: x509.load_pem_x509_certificates(each.trust_bundle.inline_bytes) for each in config.trust_domains}


async def receive(stream: Any) -> pb.DiscoveryResponse:
    async with asyncio.timeout(5):
        answer = await stream.recv_message()
    if answer is None:
        await stream.recv_trailing_metadata()
    return answer


@asynccontextmanager
async def opened(served: Any, method: str = "stream") -> AsyncIterator[Any]:
    opening = getattr(Envoy(served.channel()), method).open()
    stream = await opening.__aenter__()
    try:
        yield stream
    finally:
        with suppress(GRPCError, StreamTerminatedError, StreamClosedError):  # what the test has seen comes again here
            await stream.cancel()
            await opening.__aexit__(None, None, None)


async def receive_until_end(stream: Any) -> None:
    while await receive(stream) is not None:
        pass


async def refusal_of(stream: Any) -> tuple[Status, str]:
    """What ended a stream that still had requests to send: the trailers that come before the reset."""
    with pytest.raises((GRPCError, StreamTerminatedError)):
        await receive_until_end(stream)
    said = dict(stream._stream.trailers or stream._stream.headers)
    return Status(int(said["grpc-status"])), unquote(said["grpc-message"])


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (["default"], ["default"]),
        ([ID], [ID]),
        (["ROOTCA"], ["ROOTCA"]),
        (["ALL"], ["ALL"]),
        ([DOMAIN], [DOMAIN]),
        (["ROOTCA", "ALL", "default", ID, DOMAIN], ["ALL", "ROOTCA", "default", DOMAIN, ID]),
        ([], [DOMAIN, ID]),
        (["", ""], [DOMAIN, ID]),
        (["default", "default"], ["default"]),
    ],
)
async def test_each_name_has_its_secret(tmp_path, asked, given):
    async with served_workload_api(tmp_path) as served:
        client = Envoy(served.channel())
        fetched = await client.fetch(request(*asked))
        async with opened(served) as stream:
            await stream.send_message(request(*asked))
            streamed = await receive(stream)
        assert sorted(secrets_in(fetched)) == sorted(given)
        assert secrets_in(streamed) == secrets_in(fetched)
        assert (fetched.version_info, fetched.nonce) == ("", "")
        assert streamed.version_info == "1"
        assert streamed.nonce


async def test_a_certificate_comes_with_its_key_and_verifies_by_the_bundle(tmp_path):
    async with served_workload_api(tmp_path) as served:
        found = secrets_in(await Envoy(served.channel()).fetch(request("default", "ROOTCA")))
        leaf = leaf_of(found["default"])
        key = load_pem_private_key(found["default"].tls_certificate.private_key.inline_bytes, None)
        assert key.public_key() == leaf.public_key()
        (authority,) = domains_of(found["ROOTCA"])["example.org"]
        leaf.verify_directly_issued_by(authority)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [ID]
        assert [str(identity) for identity, _ in served.attestations.noted] == [ID]


async def test_the_first_of_two_identities_is_the_default(tmp_path):
    other = "spiffe://example.org/agents/crm/other"
    verdict = attested(match(), match("/agents/crm/other", "gid:0", qualified="crm/other"))
    entries = EntryList((entry("/agents/crm/orchestrator", "uid:0"), entry("/agents/crm/other", "gid:0")))
    async with served_workload_api(tmp_path, attestations=FakeAttestations(verdict), entries=entries) as served:
        found = secrets_in(await Envoy(served.channel()).fetch(request("default", ID, other)))
        assert leaf_of(found["default"]) == leaf_of(found[ID])
        assert leaf_of(found[other]) != leaf_of(found[ID])


@pytest.mark.parametrize("name", ["spiffe://example.org/agents/crm/other", "spiffe://partner.example", "rootca", "x"])
async def test_a_name_that_is_not_the_callers_is_refused_by_name(tmp_path, name):
    async with served_workload_api(tmp_path) as served, opened(served) as stream:
        await stream.send_message(request("default", name))
        status, message = await refusal_of(stream)
        assert status is Status.INVALID_ARGUMENT
        assert message == f'workload is not authorized for the requested identities ["{name}"]'
        assert served.attestations.noted == []


async def test_a_process_without_an_identity_is_denied_before_it_asks(tmp_path):
    async with served_workload_api(tmp_path, attestations=FakeAttestations(REFUSED)) as served:
        with pytest.raises(GRPCError) as caught:
            await Envoy(served.channel()).fetch(request("default"))
        assert (caught.value.status, caught.value.message) == (Status.PERMISSION_DENIED, "no identity issued")
        async with opened(served) as stream:
            await stream.send_request()
            assert await refusal_of(stream) == (Status.PERMISSION_DENIED, "no identity issued")


async def test_a_component_whose_key_only_the_broker_may_hold_gets_none_here(tmp_path):
    verdict = attested(match(svid=SvidMode.BROKER))
    async with served_workload_api(tmp_path, attestations=FakeAttestations(verdict)) as served:
        with pytest.raises(GRPCError) as caught:
            await Envoy(served.channel()).fetch(request("ROOTCA"))
        assert caught.value.status is Status.PERMISSION_DENIED


async def test_the_incremental_protocol_is_said_to_be_missing(tmp_path):
    async with served_workload_api(tmp_path) as served, opened(served, "delta") as stream:
        await stream.send_message(request("default"), end=True)
        assert (await refusal_of(stream))[0] is Status.UNIMPLEMENTED


async def test_a_rotation_is_pushed_with_a_new_version_and_an_unchanged_bundle_is_not(tmp_path):
    async with served_workload_api(tmp_path, x509_ttl_s=4) as served, opened(served) as keys, opened(served) as roots:
        await keys.send_message(request("default"))
        await roots.send_message(request("ROOTCA"))
        first = await receive(keys)
        await keys.send_message(ack(first, "default"))
        await roots.send_message(ack(await receive(roots), "ROOTCA"))
        second = await receive(keys)
        assert (first.version_info, second.version_info) == ("1", "2")
        assert first.nonce != second.nonce
        before, after = (leaf_of(secrets_in(each)["default"]) for each in (first, second))
        assert before.serial_number != after.serial_number
        assert after.not_valid_before_utc < before.not_valid_after_utc
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(roots.recv_message(), 0.2)


async def test_a_withdrawal_ends_the_stream_at_once(tmp_path):
    async with served_workload_api(tmp_path) as served, opened(served) as stream:
        await stream.send_message(request("default"))
        await stream.send_message(ack(await receive(stream), "default"))
        started = asyncio.get_running_loop().time()
        served.attestations.set(REFUSED)
        assert await refusal_of(stream) == (Status.PERMISSION_DENIED, "no identity issued")
        assert asyncio.get_running_loop().time() - started < 0.5
        await async_wait_until(lambda: served.attestations.watched == 0)


async def test_a_process_that_changed_after_its_attestation_gets_no_key(tmp_path):
    async with served_workload_api(tmp_path) as served, opened(served) as stream:
        served.attestations.on_confirm = REFUSED
        await stream.send_message(request("default"))
        assert (await refusal_of(stream))[0] is Status.PERMISSION_DENIED
        with pytest.raises(GRPCError) as caught:
            await Envoy(served.channel()).fetch(request("default"))
        assert caught.value.status is Status.PERMISSION_DENIED
        assert served.attestations.noted == []


async def test_other_names_replace_the_subscription(tmp_path):
    async with served_workload_api(tmp_path) as served, opened(served) as stream:
        await stream.send_message(request("default"))
        first = await receive(stream)
        await stream.send_message(ack(first, "ROOTCA", "default"))
        second = await receive(stream)
        assert sorted(secrets_in(second)) == ["ROOTCA", "default"]
        await stream.send_message(ack(second, "default", "ROOTCA"))  # the same set in another order
        await stream.send_message(ack(second, "ROOTCA"))
        third = await receive(stream)
        assert (sorted(secrets_in(third)), third.version_info) == (["ROOTCA"], "3")


async def test_a_request_that_crossed_a_newer_answer_changes_nothing(tmp_path):
    async with served_workload_api(tmp_path) as served, opened(served) as stream:
        await stream.send_message(request("default"))
        first = await receive(stream)
        await stream.send_message(ack(first, "ROOTCA"))
        second = await receive(stream)
        await stream.send_message(ack(first, "default"))  # stale
        await stream.send_message(request("default"))  # no nonce at all
        await stream.send_message(ack(second, "ALL"))
        third = await receive(stream)
        assert (sorted(secrets_in(third)), third.version_info) == (["ALL"], "3")


async def test_a_rejection_is_logged_in_quotes_and_answered_by_the_next_change_only(tmp_path, caplog):
    async with served_workload_api(tmp_path) as served, opened(served) as stream:
        await stream.send_message(request("default"))
        first = await receive(stream)
        told = pb.RejectionDetail(message="bad\nERROR forged line" + "x" * 1000)
        await stream.send_message(request("default", response_nonce=first.nonce, error_detail=told))
        await async_wait_until(lambda: "rejected" in caplog.text)
        (line,) = [each for each in caplog.messages if "rejected" in each]
        assert "\n" not in line
        assert len(line) < 400
        served.attestations.set(attested(match(hint="new"), generation=2))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.recv_message(), 0.2)


async def test_a_client_without_more_requests_ends_its_stream(tmp_path):
    async with served_workload_api(tmp_path) as served, Envoy(served.channel()).stream.open() as stream:
        await stream.send_message(request("default"))
        await receive(stream)
        await stream.end()
        assert await receive(stream) is None
        await async_wait_until(lambda: served.attestations.watched == 0)


@pytest.mark.parametrize(
    "message",
    [
        request("default", type_url="type.googleapis.com/envoy.config.cluster.v3.Cluster"),
        request(*(f"n{each}" for each in range(MAX_NAMES + 1))),
        request("é" * (MAX_NAME_BYTES // 2) + "x"),
    ],
    ids=["type", "count", "length"],
)
async def test_requests_beyond_the_bounds_are_invalid(tmp_path, message):
    async with served_workload_api(tmp_path) as served:
        with pytest.raises(GRPCError) as caught:
            await Envoy(served.channel()).fetch(message)
        assert caught.value.status is Status.INVALID_ARGUMENT
        assert "authorized" not in caught.value.message


@pytest.mark.parametrize(
    "message", [request(*(f"n{each}" for each in range(MAX_NAMES))), request("é" * (MAX_NAME_BYTES // 2))]
)
async def test_requests_at_the_bounds_are_read(tmp_path, message):
    async with served_workload_api(tmp_path) as served:
        with pytest.raises(GRPCError, match="not authorized"):
            await Envoy(served.channel()).fetch(message)


async def test_a_refusal_repeats_a_few_names_and_not_all_of_them(tmp_path):
    async with served_workload_api(tmp_path) as served:
        with pytest.raises(GRPCError, match="not authorized") as caught:
            await Envoy(served.channel()).fetch(request(*(f"{each:03}" + "x" * 2000 for each in range(MAX_NAMES))))
        assert 2000 < len(caught.value.message) < 3000


def padded(size: int, *names: str, **fields: Any) -> pb.DiscoveryRequest:
    """A request of ``size`` bytes in its frame: Envoy describes itself in field 2, which is nothing to us."""
    base = request(*names, **fields).SerializeToString()
    filler = size - FRAME - len(base) - 5
    length = bytes([filler & 0x7F | 0x80, filler >> 7 & 0x7F | 0x80, filler >> 14 & 0x7F | 0x80, filler >> 21])
    return pb.DiscoveryRequest.FromString(base + b"\x12" + length + bytes(filler))


async def test_a_request_may_be_as_large_as_an_envoys_and_no_larger(tmp_path):
    async with served_workload_api(tmp_path) as served:
        largest = LIMITS.large_request_bytes
        assert secrets_in(await Envoy(served.channel()).fetch(padded(largest, "default")))
        with pytest.raises(StreamTerminatedError):
            # Frames that one read ends are judged together, so the cut may come one read later.
            await Envoy(served.channel()).fetch(padded(largest + LIMITS.read_chunk_bytes + FRAME, "default"))
        assert served.server.stats().cut == {"request_too_large": 1}


async def test_a_long_life_of_acknowledgements_is_no_large_request(tmp_path):
    limits = replace(LIMITS, large_request_bytes=100_000)
    async with served_workload_api(tmp_path, limits=limits) as served, opened(served) as stream:
        await stream.send_message(padded(60_000, "default"))
        answer = await receive(stream)
        for names in (("ROOTCA",), ("ALL",), ("default",)):
            await stream.send_message(padded(60_000, *names, response_nonce=answer.nonce))
            answer = await receive(stream)
            assert tuple(secrets_in(answer)) == names
        assert served.server.stats().cut == {}


async def test_a_caller_that_keeps_asking_is_slowed_down_and_others_are_not(tmp_path):
    names = ["default", "ROOTCA"]
    loop = asyncio.get_running_loop()
    async with served_workload_api(tmp_path) as served, opened(served) as stream:
        await stream.send_message(request("ALL"))
        answer = await receive(stream)
        started, count = loop.time(), int(REQUEST_RATE.burst) + 8
        for each in range(count):
            await stream.send_message(request(names[each % 2], response_nonce=answer.nonce))
            answer = await receive(stream)
            if each == count - 1:
                slow = loop.time()
                assert secrets_in(await Envoy(served.channel()).fetch(request("default")))
                assert loop.time() - slow < 0.5
        assert loop.time() - started > 0.5 * 8 / REQUEST_RATE.per_s


def identities(*bundles: Bundle, svids: tuple[X509Svid, ...]) -> Identities:
    held = tuple(Held(match(), svid) for svid in svids)
    return Identities(attested(), held, BundleSet(bundles[0], bundles[1:]))


def bundle(name: str, *authorities: bytes) -> Bundle:
    return Bundle(TrustDomain.parse(name), authorities)


SVID = X509Svid(match().spiffe_id, (b"leaf", b"intermediate"), b"key", 1)


def test_each_trust_domain_vouches_for_itself_only():
    held = identities(bundle("example.org", b"one"), bundle("partner.example", b"two"), svids=(SVID,))
    own, partner, both = (
        pb.SpiffeCertValidatorConfig.FromString(each.validation_context.custom_validator_config.typed_config.value)
        for each in build_secrets(held, ["ROOTCA", "spiffe://partner.example", "ALL"])
    )
    assert [each.name for each in own.trust_domains] == ["example.org"]
    assert [each.name for each in partner.trust_domains] == ["partner.example"]
    assert [each.name for each in both.trust_domains] == ["example.org", "partner.example"]
    assert both.trust_domains[1].trust_bundle == partner.trust_domains[0].trust_bundle


def test_a_bundle_that_verifies_nobody_is_left_out_because_envoy_rejects_it():
    held = identities(bundle("example.org"), bundle("keyless.example"), svids=(SVID,))
    assert [each.name for each in build_secrets(held, [])] == [str(SVID.spiffe_id)]
    for name in ("ROOTCA", "ALL", "spiffe://keyless.example"):
        with pytest.raises(RequestInvalidError):
            build_secrets(held, [name])


def test_the_chain_stands_leaf_first_in_lines_that_every_parser_takes():
    long = X509Svid(match().spiffe_id, (bytes(100), b"next"), bytes(64), 1)
    (secret,) = build_secrets(identities(bundle("example.org"), svids=(long,)), ["default"])
    lines = secret.tls_certificate.certificate_chain.inline_bytes.decode().splitlines()
    assert lines.count("-----BEGIN CERTIFICATE-----") == 2
    assert max(map(len, lines)) == 64
    assert "bmV4dA==" in lines[-2]


def test_a_packed_secret_is_named_as_envoy_names_it():
    packed = pack_secret(pb.Secret(name="n", tls_certificate=pb.TlsCertificate(private_key={"inline_bytes": b"k"})))
    assert packed.type_url == SECRET
    assert packed.value == b"\x0a\x01n\x12\x05\x12\x03\x12\x01k"
