"""The Broker API over a real socket: who may ask, about whom, and when it ends."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from apifakes import (
    LIMITS,
    NODE,
    REFUSED,
    TRUST_DOMAIN,
    EntryList,
    FakeAttestations,
    attested,
    broker_match,
    entry,
    match,
    running,
    selectors,
    spiffe_id,
)
from apiserving import held_descriptors, tls_channel, tls_client
from attestor.api import server as server_module
from attestor.api.broker import BrokerServer, instance_header
from attestor.peer import PinnedProcess, boot_id, pin_pid
from attestor.states import State
from attestor.upstream import EmbeddedSettings, Upstream, build_upstream
from attestor.verdict import Attested, Refused
from hopseal.documents.model import SvidMode
from hopseal.errors import DeniedError, UnavailableError
from hopseal.snapshot import IdentitySnapshot
from hopseal.sockets import bind_unix_socket
from hopseal.wire.client import subscription
from hopseal.wire.gen.hopseal.v1.reference_pb2 import ListenerReference, PidfdReference
from hopseal.wire.gen.spiffe.broker import api_pb2 as pb
from hopseal.wire.gen.spiffe.broker.api_grpc import APIStub
from waiting import async_wait_until

HEADER = {"broker.spiffe.io": "true"}
REASONER = "spiffe://example.org/agents/crm/orchestrator"
METHODS = {
    "SubscribeToX509SVID": pb.SubscribeToX509SVIDRequest,
    "SubscribeToX509Bundles": pb.SubscribeToX509BundlesRequest,
    "FetchJWTSVID": pb.FetchJWTSVIDRequest,
    "SubscribeToJWTBundles": pb.SubscribeToJWTBundlesRequest,
}


@dataclass
class ServedBroker:
    path: Path
    attestations: FakeAttestations
    entries: EntryList
    upstream: Upstream
    server: BrokerServer
    holders: list[int]

    async def identity(self, *values: str) -> IdentitySnapshot:
        async with self.upstream.subscribe(selectors(*values)) as snapshots:
            return await anext(snapshots)

    @asynccontextmanager
    async def client(self, snapshot: IdentitySnapshot | None = None) -> AsyncIterator[APIStub]:
        await async_wait_until(lambda: self.server._own.present)
        with tls_channel(self.path, tls_client(snapshot or await self.identity("exe:broker"))) as channel:
            yield APIStub(channel)


@pytest.fixture
async def served(tmp_path):
    holders: list[int] = []
    attestations = FakeAttestations(attested(broker_match()))
    entries = EntryList(
        (
            entry("/agents/crm/orchestrator", "uid:0"),
            entry("/agents/crm/other", "gid:0"),
            entry("/hopseal/broker/n1", "exe:broker"),
            entry("/hopseal/broker/n2", "exe:other-broker"),
        )
    )
    upstream = build_upstream(EmbeddedSettings(tmp_path / "state"), TRUST_DOMAIN, NODE, entries)
    bound = bind_unix_socket(tmp_path / "broker.sock", mode=0o600)

    async def find_holders(path: str) -> list[PinnedProcess]:
        await asyncio.sleep(0)
        assert path == "/run/a.sock"
        return [pin_pid(pid) for pid in holders]

    server = BrokerServer(
        bound.sock,
        attestations,
        upstream,
        LIMITS,
        frozenset({spiffe_id("/hopseal/broker/n1")}),
        find_listeners=find_holders,
    )
    async with running(upstream, server):
        yield ServedBroker(tmp_path / "broker.sock", attestations, entries, upstream, server, holders)
    bound.close()


@pytest.fixture
async def sleeper():
    process = await asyncio.create_subprocess_exec("sleep", "1000")
    pinned = pin_pid(process.pid)
    yield pinned
    pinned.close()
    if process.returncode is None:
        process.kill()
    await process.wait()


@pytest.fixture
async def second():
    process = await asyncio.create_subprocess_exec("sleep", "1000")
    pinned = pin_pid(process.pid)
    yield pinned
    pinned.close()
    process.kill()
    await process.wait()


def refer(message: PidfdReference | ListenerReference) -> pb.WorkloadReference:
    packed = AnyMessage()
    packed.Pack(message)
    return pb.WorkloadReference(reference=packed)


def to_process(process: PinnedProcess) -> pb.WorkloadReference:
    return refer(PidfdReference(pidfd_inode=process.pidfd_inode, boot_id=boot_id()))


def to_listener(process: PinnedProcess | None, component: str = "crm/orchestrator") -> pb.WorkloadReference:
    inode = process.pidfd_inode if process is not None else 0
    return refer(ListenerReference(pidfd_inode=inode, boot_id=boot_id(), component=component, path="/run/a.sock"))


async def ask(client, name, reference, metadata=HEADER):
    """The first answer of any method, with the initial metadata."""
    request = METHODS[name](reference=reference)
    if name == "FetchJWTSVID":
        request.audience.append("a")
    async with asyncio.timeout(5), getattr(client, name).open(metadata=metadata) as stream:
        await stream.send_message(request, end=True)
        answer = await stream.recv_message()
        if answer is None:
            await stream.recv_trailing_metadata()
        if name != "FetchJWTSVID":
            await stream.cancel()
        return answer, dict(stream.initial_metadata)


async def refusal(client, name, reference, metadata=HEADER):
    with pytest.raises(GRPCError) as caught:
        await ask(client, name, reference, metadata)
    return caught.value.status, caught.value.message


async def test_a_broker_gets_the_identity_of_the_process_it_names(served, sleeper):
    served.attestations.set(attested(match(hint="h"), instance="docker:abc"), sleeper.pidfd_inode)
    async with served.client() as client:
        answer, metadata = await ask(client, "SubscribeToX509SVID", to_process(sleeper))
        assert [(svid.spiffe_id, svid.hint) for svid in answer.svids] == [(REASONER, "h")]
        assert answer.svids[0].x509_svid_key
        assert answer.svids[0].bundle
        assert metadata["hopseal-instance"] == "docker:abc"
        assert served.attestations.confirmed == [sleeper.pid]
        tokens, _ = await ask(client, "FetchJWTSVID", to_process(sleeper))
        assert [svid.spiffe_id for svid in tokens.svids] == [REASONER]
        certificates, _ = await ask(client, "SubscribeToX509Bundles", to_process(sleeper))
        assert certificates.bundles.keys() == {"spiffe://example.org"}
        keys, _ = await ask(client, "SubscribeToJWTBundles", to_process(sleeper))
        assert keys.bundles.keys() == {"spiffe://example.org"}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "metadata",
    [{}, {"broker.spiffe.io": "1"}, [*HEADER.items(), *HEADER.items()], {"workload.spiffe.io": "true"}],
)
async def test_the_security_header_is_required_exactly_once(served, sleeper, name, metadata):
    async with served.client() as client:
        assert (await refusal(client, name, to_process(sleeper), metadata))[0] is Status.INVALID_ARGUMENT


@pytest.mark.parametrize("name", METHODS)
async def test_a_refused_process_is_denied_with_its_code(served, sleeper, name):
    served.attestations.set(REFUSED, sleeper.pidfd_inode)
    async with served.client() as client:
        assert await refusal(client, name, to_process(sleeper)) == (
            Status.PERMISSION_DENIED,
            "config_changed: the configuration changed and is no longer what was approved",
        )


async def test_several_identities_are_all_shown_so_that_the_broker_can_refuse(served, sleeper):
    both = attested(match(), match("/agents/crm/other", "gid:0", qualified="crm/other"))
    served.attestations.set(both, sleeper.pidfd_inode)
    async with served.client() as client:
        answer, _ = await ask(client, "SubscribeToX509SVID", to_process(sleeper))
        assert len(answer.svids) == 2


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (attested(match(svid=SvidMode.WORKLOAD_API)), "svid_not_here"),
        (attested(broker_match()), "svid_not_here"),
        (attested(match("/agents/crm/orchestrator", "uid:77")), "svid_none"),
    ],
)
async def test_identities_that_are_not_the_brokers_to_use_are_denied(served, sleeper, verdict, code):
    served.attestations.set(verdict, sleeper.pidfd_inode)
    async with served.client() as client:
        status, message = await refusal(client, "SubscribeToX509SVID", to_process(sleeper))
        assert (status, message.partition(":")[0]) == (Status.PERMISSION_DENIED, code)


async def test_drift_of_the_component_ends_its_stream_and_no_other(served, sleeper, second):
    for each in (sleeper, second):
        served.attestations.set(attested(match()), each.pidfd_inode)
    async with served.client() as client:
        request = pb.SubscribeToX509SVIDRequest(reference=to_process(sleeper))
        other = pb.SubscribeToX509SVIDRequest(reference=to_process(second))
        async with (
            subscription(client.SubscribeToX509SVID, request, metadata=HEADER) as answers,
            subscription(client.SubscribeToX509SVID, other, metadata=HEADER) as others,
        ):
            await anext(answers)
            await anext(others)
            served.attestations.set(REFUSED, sleeper.pidfd_inode)
            with pytest.raises(DeniedError, match="config_changed"):
                await asyncio.wait_for(anext(answers), 1)
            served.attestations.set(attested(match(hint="new"), generation=2), second.pidfd_inode)
            assert (await asyncio.wait_for(anext(others), 5)).svids[0].hint == "new"


async def test_drift_of_the_broker_ends_all_of_its_streams(served, sleeper):
    served.attestations.set(attested(match()), sleeper.pidfd_inode)
    async with served.client() as client:
        request = pb.SubscribeToX509SVIDRequest(reference=to_process(sleeper))
        async with subscription(client.SubscribeToX509SVID, request, metadata=HEADER) as answers:
            await anext(answers)
            served.attestations.set(REFUSED)
            with pytest.raises(DeniedError):
                await asyncio.wait_for(anext(answers), 1)


@pytest.mark.parametrize(
    "verdict", [attested(match()), attested(match("/hopseal/broker/n2", qualified="hopseal/broker"))]
)
async def test_a_stolen_certificate_opens_nothing(served, sleeper, verdict):
    served.attestations.set(attested(match()), sleeper.pidfd_inode)
    async with served.client() as client:
        served.attestations.set(verdict)
        status, message = await refusal(client, "SubscribeToX509SVID", to_process(sleeper))
        assert (status, message.partition(":")[0]) == (Status.PERMISSION_DENIED, "peer_unauthorised")


@pytest.mark.parametrize("values", [("uid:0",), ("exe:other-broker",)])
async def test_only_configured_brokers_may_connect(served, sleeper, values):
    async with served.client(await served.identity(*values)) as client:
        with pytest.raises((StreamTerminatedError, OSError)):
            await ask(client, "FetchJWTSVID", to_process(sleeper))
    assert served.server.stats().cut == {"peer_unauthorised": 1}
    await async_wait_until(lambda: served.server.stats().open_connections == 0)


async def test_a_certificate_of_a_stranger_or_none_is_refused(served, sleeper, tmp_path):
    strange = EntryList((entry("/hopseal/broker/n1", "exe:broker"),))
    other = build_upstream(EmbeddedSettings(tmp_path / "strange"), TRUST_DOMAIN, NODE, strange)
    async with running(other), other.subscribe(selectors("exe:broker")) as snapshots:
        stranger = await anext(snapshots)
    await async_wait_until(lambda: served.server._own.present)
    own = await served.identity("exe:broker")
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.load_verify_locations(cadata=own.bundles.own.x509_authorities[0])
    bare.set_alpn_protocols(["h2"])
    for context in (tls_client(stranger, trusted=own.bundles.own.x509_authorities), bare):
        with tls_channel(served.path, context) as channel, pytest.raises((StreamTerminatedError, OSError)):
            await ask(APIStub(channel), "FetchJWTSVID", to_process(sleeper))
    await async_wait_until(lambda: served.server.stats().open_connections == 0)


async def test_the_attestor_shows_its_own_identity_and_no_ticket(served):
    await async_wait_until(lambda: served.server._own.present)
    context = tls_client(await served.identity("exe:broker"))

    def connect() -> tuple[list[tuple[str, str]], str | None, bool]:
        with socket.socket(socket.AF_UNIX) as plain:
            plain.connect(str(served.path))
            with context.wrap_socket(plain) as secure:
                secure.settimeout(0.3)
                with suppress(TimeoutError):
                    secure.recv(1000)
                certificate = secure.getpeercert()
                assert certificate is not None
                return certificate["subjectAltName"], secure.version(), secure.session.has_ticket

    names, version, has_ticket = await asyncio.to_thread(connect)
    assert names == (("URI", "spiffe://example.org/hopseal/attestor/n1"),)
    assert (version, has_ticket) == ("TLSv1.3", False)


async def test_tls_1_2_and_plain_text_are_refused(served, sleeper):
    await async_wait_until(lambda: served.server._own.present)
    old = tls_client(await served.identity("exe:broker"))
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with tls_channel(served.path, old) as channel, pytest.raises((StreamTerminatedError, OSError)):
        await ask(APIStub(channel), "FetchJWTSVID", to_process(sleeper))
    plain = Channel(path=str(served.path))
    with pytest.raises((StreamTerminatedError, OSError)):
        await ask(APIStub(plain), "FetchJWTSVID", to_process(sleeper))
    plain.close()
    assert served.server.stats().refused == {"handshake": 2}


async def test_a_handshake_that_is_never_finished_gives_its_place_back(served, monkeypatch):
    monkeypatch.setattr(server_module, "HANDSHAKE_TIMEOUT_S", 0.2)
    await async_wait_until(lambda: served.server._own.present)
    before = held_descriptors()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(served.path))
        await async_wait_until(lambda: served.server.stats().refused == {"handshake": 1})
    assert served.server.stats().open_connections == 0
    await async_wait_until(lambda: held_descriptors() <= before)


async def test_a_quiet_broker_keeps_its_connection(served, sleeper):
    served.server._limits = replace(LIMITS, first_request_timeout_s=0.1, idle_timeout_s=0.1)
    served.attestations.set(attested(match()), sleeper.pidfd_inode)
    async with served.client() as client:
        await client.FetchJWTSVID.channel.__connect__()
        await asyncio.sleep(0.6)
        await ask(client, "FetchJWTSVID", to_process(sleeper))
    assert served.server.stats().accepted == 1


async def test_without_a_certificate_of_its_own_the_attestor_takes_no_connection(served, sleeper):
    await async_wait_until(lambda: served.server._own.present)
    context = tls_client(await served.identity("exe:broker"))
    served.upstream._own.fail(UnavailableError("upstream_unavailable", "away"))
    await async_wait_until(lambda: served.server._own.present is None)
    with tls_channel(served.path, context) as channel, pytest.raises((StreamTerminatedError, OSError)):
        await ask(APIStub(channel), "FetchJWTSVID", to_process(sleeper))
    assert served.server.stats().refused == {"no_certificate": 1}
    served.upstream._own.publish(await served.identity("exe:broker"))
    await async_wait_until(lambda: served.server._own.present)


class TestReferences:
    @pytest.mark.parametrize(
        ("type_url", "value"),
        [
            ("type.googleapis.com/spiffe.broker.WorkloadPIDReference", b"\x08\x01"),
            ("type.googleapis.com/hopseal.v1.Unknown", b""),
            ("example.org/hopseal.v1.PidfdReference", b""),
            ("hopseal.v1.PidfdReference", b""),
            ("", b""),
        ],
    )
    async def test_other_types_are_refused(self, served, type_url, value):
        async with served.client() as client:
            reference = pb.WorkloadReference(reference=AnyMessage(type_url=type_url, value=value))
            status, message = await refusal(client, "SubscribeToX509SVID", reference)
            assert (status, message.partition(":")[0]) == (Status.PERMISSION_DENIED, "reference_denied")

    @pytest.mark.parametrize(
        "reference",
        [
            pb.WorkloadReference(
                reference=AnyMessage(type_url="type.googleapis.com/hopseal.v1.PidfdReference", value=b"\xff\xff")
            ),
            refer(PidfdReference(pidfd_inode=1, boot_id=b"\0" * 16)),
            refer(PidfdReference(pidfd_inode=1)),
            refer(ListenerReference(boot_id=boot_id(), component="crm/orchestrator", path="relative")),
            refer(ListenerReference(boot_id=boot_id(), path="/run/a.sock")),
        ],
        ids=["bytes", "boot", "no boot", "relative", "no component"],
    )
    async def test_references_that_cannot_be_understood_are_invalid(self, served, reference):
        async with served.client() as client:
            assert (await refusal(client, "SubscribeToX509SVID", reference))[0] is Status.INVALID_ARGUMENT

    @pytest.mark.parametrize("inode", [0, 1, 2**63, 2**64 - 1])
    async def test_an_inode_of_nobody_is_denied(self, served, inode):
        async with served.client() as client:
            reference = refer(PidfdReference(pidfd_inode=inode, boot_id=boot_id()))
            status, _ = await refusal(client, "SubscribeToX509SVID", reference)
            assert status in {Status.PERMISSION_DENIED, Status.UNAVAILABLE}

    async def test_a_process_that_exited_is_gone_for_good(self, served):
        process = await asyncio.create_subprocess_exec("sleep", "1000")
        with pin_pid(process.pid) as pinned:
            reference = to_process(pinned)
        process.kill()
        await process.wait()
        async with served.client() as client:
            status, message = await refusal(client, "SubscribeToX509SVID", reference)
            assert (status, message.partition(":")[0]) == (Status.PERMISSION_DENIED, "peer_gone")


class TestListeners:
    def attest(
        self, served: ServedBroker, *processes: PinnedProcess, verdict: Attested | Refused | None = None
    ) -> None:
        for process in processes:
            served.attestations.set(verdict or attested(match()), process.pidfd_inode)

    async def test_a_live_listener_that_is_the_component_is_accepted(self, served, sleeper):
        self.attest(served, sleeper)
        async with served.client() as client:
            answer, _ = await ask(client, "SubscribeToX509SVID", to_listener(sleeper))
            assert answer.svids[0].spiffe_id == REASONER

    @pytest.mark.parametrize("verdict", [attested(match(qualified="crm/other")), REFUSED])
    async def test_a_live_listener_that_is_not_is_denied(self, served, sleeper, verdict):
        self.attest(served, sleeper, verdict=verdict)
        async with served.client() as client:
            status, message = await refusal(client, "SubscribeToX509SVID", to_listener(sleeper))
            assert (status, message.partition(":")[0]) == (Status.PERMISSION_DENIED, "listener_not_component")

    async def test_a_dead_listener_is_accepted_if_every_holder_is_the_component(self, served, sleeper, second):
        self.attest(served, sleeper, second)
        served.holders[:] = [sleeper.pid, second.pid]
        async with served.client() as client:
            answer, _ = await ask(client, "SubscribeToX509SVID", to_listener(None))
            assert answer.svids[0].spiffe_id == REASONER

    async def test_one_holder_that_is_not_the_component_spoils_it(self, served, sleeper, second):
        self.attest(served, sleeper)
        self.attest(served, second, verdict=attested(match(qualified="crm/other")))
        served.holders[:] = [sleeper.pid, second.pid]
        async with served.client() as client:
            _, message = await refusal(client, "SubscribeToX509SVID", to_listener(None))
            assert message.partition(":")[0] == "listener_not_component"

    async def test_a_socket_without_holders_is_denied(self, served):
        async with served.client() as client:
            _, message = await refusal(client, "SubscribeToX509SVID", to_listener(None))
            assert message.partition(":")[0] == "listener_gone"

    async def test_drift_of_any_holder_ends_the_stream(self, served, sleeper, second):
        self.attest(served, sleeper, second)
        served.holders[:] = [sleeper.pid, second.pid]
        async with served.client() as client:
            request = pb.SubscribeToX509SVIDRequest(reference=to_listener(None))
            async with subscription(client.SubscribeToX509SVID, request, metadata=HEADER) as answers:
                await anext(answers)
                self.attest(served, second, verdict=REFUSED)
                with pytest.raises(DeniedError, match="config_changed"):
                    await asyncio.wait_for(anext(answers), 1)

    async def test_a_listener_whose_attestation_is_busy_is_unavailable(self, served, sleeper):
        busy = Refused(State.UNREADABLE, "rate_limited", "too many", retry=True)
        self.attest(served, sleeper, verdict=busy)
        async with served.client() as client:
            assert (await refusal(client, "SubscribeToX509SVID", to_listener(sleeper)))[0] is Status.UNAVAILABLE


async def test_a_process_that_moves_to_another_instance_is_asked_about_again(served, sleeper):
    served.attestations.set(attested(match(), instance="cgroup:/a"), sleeper.pidfd_inode)
    async with served.client() as client, client.SubscribeToX509SVID.open(metadata=HEADER) as stream:
        await stream.send_message(pb.SubscribeToX509SVIDRequest(reference=to_process(sleeper)), end=True)
        await stream.recv_message()
        served.attestations.set(attested(match(), instance="cgroup:/b", generation=2), sleeper.pidfd_inode)
        assert await asyncio.wait_for(stream.recv_message(), 5) is None
        with pytest.raises(GRPCError) as caught:
            await stream.recv_trailing_metadata()
        assert caught.value.status is Status.UNAVAILABLE


@pytest.mark.parametrize(
    ("instance", "header"),
    [
        ("docker:abc", "docker:abc"),
        ("x" * 128, "x" * 128),
        ("x" * 129, "sha256:"),
        ("cgroup:/a b", "sha256:"),
        ("cgroup:/ä", "sha256:"),
        ("", ""),
    ],
)
def test_an_instance_is_shown_as_it_is_or_by_its_digest(instance, header):
    shown = instance_header(instance)
    assert shown.startswith(header)
    assert len(shown) <= 128


async def test_many_references_leak_no_descriptor(served, sleeper):
    served.attestations.set(attested(match()), sleeper.pidfd_inode)
    served.holders[:] = [sleeper.pid]
    async with served.client() as client:
        await ask(client, "SubscribeToX509SVID", to_process(sleeper))
        await async_wait_until(lambda: served.attestations.watched == 0)
        before = held_descriptors()
        for _ in range(20):
            await ask(client, "SubscribeToX509SVID", to_process(sleeper))
            await ask(client, "SubscribeToX509SVID", to_listener(None))
            await refusal(client, "SubscribeToX509SVID", to_listener(sleeper, "crm/nobody"))
        await async_wait_until(lambda: served.attestations.watched == 0)
        await async_wait_until(lambda: held_descriptors() <= before)
