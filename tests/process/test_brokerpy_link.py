"""The broker's side of both of the attestor's sockets, over real sockets and real mutual TLS."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
from grpclib.const import Status

from attestor_double import ATTESTOR, BROKER, AttestorDouble
from broker.attestor_link import STREAMS_PER_CONNECTION, AttestorLink, IdentityUpdate
from broker.own_identity import OwnIdentityClient
from broker.references import CallerRef, ListenerRef
from hopseal.backoff import Backoff
from hopseal.errors import DeniedError, UnavailableError
from hopseal.ids import SpiffeId
from svid_authority import Authority
from waiting import async_wait_until

BOOT = bytes(range(16))
FRONT = "spiffe://example.org/agents/crm/front"


class Side:
    """The broker's two clients, running."""

    def __init__(self, double: AttestorDouble, **options) -> None:
        self.own = OwnIdentityClient(double.workload_socket, SpiffeId.parse(BROKER), _backoff())
        self.link = AttestorLink(
            double.broker_socket,
            SpiffeId.parse(ATTESTOR),
            self.own.current,
            boot_id=BOOT,
            openings=options.get("openings", 16),
            backoff=_backoff(),
        )
        self.subscriptions: list[asyncio.Task] = []

    def subscribe(self, reference) -> tuple[asyncio.Task, list[IdentityUpdate]]:
        updates: list[IdentityUpdate] = []
        task = asyncio.create_task(self.link.subscribe(reference, updates.append))
        self.subscriptions.append(task)
        return task, updates


def _backoff() -> Backoff:
    return Backoff(random.Random(1), first_s=0.01, longest_s=0.05)


@asynccontextmanager
async def side(double: AttestorDouble, *, wait: bool = True, **options):
    made = Side(double, **options)
    tasks = [asyncio.create_task(made.own.run()), asyncio.create_task(made.link.run())]
    try:
        if wait:
            await asyncio.wait_for(made.link.wait_connected(), 10)
        yield made
    finally:
        for task in tasks:
            assert not task.done(), task.result()
        for task in [*tasks, *made.subscriptions]:
            task.cancel()
        await asyncio.gather(*tasks, *made.subscriptions, return_exceptions=True)


@pytest.fixture
async def double(tmp_path):
    made = AttestorDouble(tmp_path)
    await made.start()
    yield made
    await made.stop()


async def ends(task: asyncio.Task, error: type[Exception]) -> Exception:
    await asyncio.wait({task}, timeout=10)
    assert task.done()
    found = task.exception()
    assert isinstance(found, error), found
    return found


async def test_the_broker_proves_itself_and_receives_a_components_svid(double):
    svid = double.authority.issue(FRONT)
    double.say(7, svid, instance="docker:abc")
    async with side(double) as broker:
        _, updates = broker.subscribe(CallerRef(7))
        await async_wait_until(lambda: updates)
        assert updates == [IdentityUpdate("docker:abc", (svid,))]
        assert double.references[0].pidfd_inode == 7
        assert double.references[0].boot_id == BOOT
        assert double.metadata[0]["workload.spiffe.io"] == "true"
        assert double.metadata[1]["broker.spiffe.io"] == "true"


async def test_a_listener_is_named_with_component_and_path(double):
    double.say(0, double.authority.issue(FRONT), component="crm/front")
    async with side(double) as broker:
        _, updates = broker.subscribe(ListenerRef(0, "crm/front", "/run/front.sock"))
        await async_wait_until(lambda: updates)
        sent = double.references[0]
        assert (sent.component, sent.path, sent.pidfd_inode) == ("crm/front", "/run/front.sock", 0)


async def test_rotations_arrive_on_the_open_stream(double):
    double.say(7, double.authority.issue(FRONT))
    async with side(double) as broker:
        _, updates = broker.subscribe(CallerRef(7))
        await async_wait_until(lambda: updates)
        renewed = double.authority.issue(FRONT)
        double.say(7, renewed)
        await async_wait_until(lambda: len(updates) == 2)
        assert updates[1].svids == (renewed,)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("config_changed: the configuration is not what was approved", "config_changed"),
        ("no code here", "identity_none"),
        ("", "identity_none"),
        ("Bad_Code: x", "identity_none"),
        ("listener_not_component: line\nbreak", "listener_not_component"),
    ],
)
async def test_permission_denied_is_a_refusal_with_the_attestors_code(double, message, code):
    double.refuse(7, message)
    async with side(double) as broker:
        task, _ = broker.subscribe(CallerRef(7))
        assert (await ends(task, DeniedError)).code == code


async def test_permission_denied_in_the_middle_of_a_stream_is_a_refusal(double):
    double.say(7, double.authority.issue(FRONT))
    async with side(double) as broker:
        task, updates = broker.subscribe(CallerRef(7))
        await async_wait_until(lambda: updates)
        double.refuse(7, "posture_changed: the posture is not what was approved")
        assert (await ends(task, DeniedError)).code == "posture_changed"
        assert broker.link.is_connected


@pytest.mark.parametrize("status", [Status.UNAVAILABLE, Status.INTERNAL, Status.RESOURCE_EXHAUSTED, Status.OK])
async def test_any_other_end_is_an_attestor_that_is_away(double, status):
    double.refuse(7, "upstream away", status=status)
    async with side(double) as broker:
        task, _ = broker.subscribe(CallerRef(7))
        assert (await ends(task, UnavailableError)).code == "attestor_unavailable"


async def test_a_malformed_svid_is_no_answer(double):
    svid, other = double.authority.issue(FRONT), double.authority.issue(FRONT)
    mixed = type(svid)(svid.spiffe_id, svid.chain_der, other.key_pkcs8, svid.expires_at)
    double.say(7, mixed)
    async with side(double) as broker:
        task, updates = broker.subscribe(CallerRef(7))
        await ends(task, UnavailableError)
        assert updates == []


async def test_an_answer_without_an_instance_is_no_answer(double):
    double.say(7, double.authority.issue(FRONT), instance="")
    async with side(double) as broker:
        task, updates = broker.subscribe(CallerRef(7))
        await ends(task, UnavailableError)
        assert updates == []


async def test_a_lost_connection_ends_every_stream_and_is_dialled_again(double):
    double.say(7, double.authority.issue(FRONT))
    async with side(double) as broker:
        task, updates = broker.subscribe(CallerRef(7))
        await async_wait_until(lambda: updates)
        await double.stop()
        await ends(task, UnavailableError)
        await async_wait_until(lambda: not broker.link.is_connected)
        await ends(broker.subscribe(CallerRef(7))[0], UnavailableError)
        await double.start()
        await asyncio.wait_for(broker.link.wait_connected(), 10)
        _, again = broker.subscribe(CallerRef(7))
        await async_wait_until(lambda: again)


async def test_the_broker_waits_for_an_attestor_that_starts_later(tmp_path):
    double = AttestorDouble(tmp_path)
    async with side(double, wait=False) as broker:
        await async_wait_until(lambda: "FileNotFoundError" in broker.own.problem)
        assert not broker.link.is_connected
        await double.start()
        await asyncio.wait_for(broker.link.wait_connected(), 10)
        assert broker.own.problem == ""
    await double.stop()


async def test_a_rotated_own_svid_is_used_on_a_new_connection_without_a_gap(double):
    double.say(7, double.authority.issue(FRONT))
    async with side(double) as broker:
        task, updates = broker.subscribe(CallerRef(7))
        await async_wait_until(lambda: updates)
        states: list[bool] = []

        async def watch() -> None:
            while True:
                await broker.link.state.wait_change(broker.link.state.version)
                states.append(broker.link.is_connected)

        watcher = asyncio.create_task(watch())
        double.rotate_broker()
        await ends(task, UnavailableError)
        _, again = broker.subscribe(CallerRef(7))
        await async_wait_until(lambda: again)
        watcher.cancel()
        assert states == [True]
        assert len(double.peers) == 2


async def test_a_withdrawn_own_identity_ends_the_connection(double):
    async with side(double) as broker:
        double.broker_svid = None
        double._wake()
        await async_wait_until(lambda: not broker.link.is_connected)
        assert broker.own.current.value is None
        assert "exe_changed" in broker.own.problem


async def test_the_own_svid_is_kept_while_the_attestor_is_away(double):
    async with side(double) as broker:
        await double.stop()
        await async_wait_until(lambda: broker.own.problem)
        assert broker.own.current.value is not None


async def test_an_svid_of_another_identity_is_not_taken_for_the_own(tmp_path):
    double = AttestorDouble(tmp_path)
    double.broker_svid = double.authority.issue("spiffe://example.org/hopseal/broker/node-2")
    await double.start()
    async with side(double, wait=False) as broker:
        await async_wait_until(lambda: "broker_identity_missing" in broker.own.problem)
        assert broker.own.current.value is None
    await double.stop()


@pytest.mark.parametrize(
    "options",
    [
        {"attestor_id": "spiffe://example.org/hopseal/attestor/node-2"},
        {"attestor_id": BROKER},
        {"serve_names": (ATTESTOR, "spiffe://example.org/other")},
        {"serve_names": (ATTESTOR + "/",)},
        {"server_authority": Authority()},
        {"server_authority": Authority("other.org")},
    ],
    ids=["other node", "the broker itself", "two names", "malformed name", "other authority", "other trust domain"],
)
async def test_somebody_else_behind_the_socket_is_never_asked(tmp_path, options):
    double = AttestorDouble(tmp_path, **options)
    double.say(7, double.authority.issue(FRONT))
    await double.start()
    async with side(double, wait=False) as broker:
        await async_wait_until(lambda: broker.link.state.value.detail.startswith("attestor_un"))
        await ends(broker.subscribe(CallerRef(7))[0], UnavailableError)
        assert not broker.link.is_connected
    assert double.references == []
    await double.stop()


async def test_an_attestor_that_refuses_the_brokers_certificate_is_not_called_connected(tmp_path):
    double = AttestorDouble(tmp_path)
    await double.start()
    stranger = Authority()
    svid = stranger.issue(BROKER)
    double.broker_svid = svid
    async with side(double, wait=False) as broker:
        await async_wait_until(lambda: "attestor_unreachable" in broker.link.state.value.detail)
        assert broker.link.state.version <= 2
        assert not broker.link.is_connected
    await double.stop()


async def test_a_silent_server_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("broker.attestor_link.DIAL_S", 0.2)
    double = AttestorDouble(tmp_path)
    await double.start()
    double.broker_socket.unlink()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(double.broker_socket))
        silent.listen(64)
        async with side(double, wait=False) as broker:
            await async_wait_until(lambda: "TimeoutError" in broker.link.state.value.detail)
    await double.stop()


async def test_a_hung_attestor_is_found_out_by_the_probe(tmp_path, monkeypatch):
    """The attestor's process is stopped: its sockets stay open and say nothing."""
    monkeypatch.setattr("broker.attestor_link.PROBE_EVERY_S", 0.1)
    monkeypatch.setattr("broker.attestor_link.PROBE_ANSWER_S", 0.3)
    script = tmp_path / "serve.py"
    script.write_text(
        "import asyncio, sys, pathlib\n"
        "sys.path[:0] = ['tests', '.']\n"
        "from attestor_double import AttestorDouble\n"
        "async def main():\n"
        "    double = AttestorDouble(pathlib.Path(sys.argv[1]))\n"
        "    double.say(7, double.authority.issue('spiffe://example.org/agents/crm/front'))\n"
        "    await double.start()\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    server = subprocess.Popen([sys.executable, str(script), str(tmp_path)])
    try:
        double = AttestorDouble(tmp_path)
        async with side(double) as broker:
            task, updates = broker.subscribe(CallerRef(7))
            await async_wait_until(lambda: updates)
            os.kill(server.pid, 19)
            await ends(task, UnavailableError)
            assert not broker.link.is_connected
            os.kill(server.pid, 18)
            await asyncio.wait_for(broker.link.wait_connected(), 10)
    finally:
        server.kill()
        server.wait()


async def test_streams_are_spread_over_connections(double):
    count = STREAMS_PER_CONNECTION * 2 + 1
    svid = double.authority.issue(FRONT)
    for inode in range(count):
        double.say(inode, svid)
    async with side(double) as broker:
        found = [broker.subscribe(CallerRef(inode))[1] for inode in range(count)]
        await async_wait_until(lambda: all(found))
        assert len(double.peers) == 3
        for task in broker.subscriptions:
            task.cancel()
        await asyncio.gather(*broker.subscriptions, return_exceptions=True)
        broker.subscriptions.clear()
        await async_wait_until(lambda: sum(double.open.values()) == 0)
        _, again = broker.subscribe(CallerRef(0))
        await async_wait_until(lambda: again)
        assert len(double.peers) == 3


async def test_few_subscriptions_are_opened_at_once(double):
    double.hold_openings = asyncio.Event()
    for inode in range(20):
        double.say(inode, double.authority.issue(FRONT))
    async with side(double, openings=3) as broker:
        found = [broker.subscribe(CallerRef(inode))[1] for inode in range(20)]
        await async_wait_until(lambda: double.opening == 3)
        double.hold_openings.set()
        await async_wait_until(lambda: all(found))
        assert double.most_opening == 3


async def test_an_attestor_that_never_answers_a_reference_is_given_up(double, monkeypatch):
    monkeypatch.setattr("broker.attestor_link.OPEN_S", 0.2)
    async with side(double) as broker:
        await ends(broker.subscribe(CallerRef(99))[0], UnavailableError)
        await async_wait_until(lambda: double.opening == 0)
        assert broker.link.is_connected


async def test_no_descriptor_is_left_by_failed_dials(tmp_path):
    double = AttestorDouble(tmp_path, server_authority=Authority())
    await double.start()
    async with side(double, wait=False) as broker:
        await async_wait_until(lambda: broker.link.state.value.detail.startswith("attestor_un"))
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            seen = broker.own.current.version
            double.rotate_broker()
            await async_wait_until(lambda seen=seen: broker.own.current.version > seen)
        await async_wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before + 4)
    await double.stop()


async def test_the_key_never_touches_a_disk(double, tmp_path):
    async with side(double):
        shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)
        written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "server.pem"]
        assert written == []
