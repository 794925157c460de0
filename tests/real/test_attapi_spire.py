"""SPIRE as an upstream when things go wrong, its registration entries, and its own clients against our API."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from apifakes import (
    NODE,
    TRUST_DOMAIN,
    EntryList,
    FakeAttestations,
    attested,
    entry,
    match,
    running,
    selectors,
    spiffe_id,
)
from apiserving import served_workload_api
from attestor.upstream import SpireSettings, Upstream, build_upstream
from attestor.upstream.spire import agent as agent_module
from attestor.upstream.spire import upstream as upstream_module
from hopseal.entries import Entry
from hopseal.errors import InvalidError, UnavailableError
from hopseal.ids import SpiffeId
from hopseal.registrations import (
    Registration,
    RegistrationChanges,
    attestor_registration,
    diff_registrations,
    registration_of,
)
from hopseal.spire_server import Action, SpireServer
from real.spire import SpireAgent, find_binaries, socket_folder
from real.spire import SpireServer as SpireServerProcess
from waiting import async_wait_until

TIMEOUT_S = 15.0


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with socket_folder() as path:
        yield path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[SpireServerProcess]:
    process = SpireServerProcess(folder / "server")
    try:
        process.start()
        yield process
    finally:
        process.stop()


@pytest.fixture
def agent(folder: Path, server: SpireServerProcess, request) -> Iterator[SpireAgent]:
    """An agent of the test's own, not started."""
    process = SpireAgent(folder / f"agent-{abs(hash(request.node.nodeid)) % 10**8}", server, node=NODE)
    yield process
    process.stop()


def parent_of(agent: SpireAgent) -> SpiffeId:
    return SpiffeId.parse(agent.parent_id)


async def register(server: SpireServerProcess, agent: SpireAgent, *entries: Entry, own: bool = True) -> None:
    """Make these the server's owned entries, with the attestor's own or without."""
    wanted = [registration_of(each, parent_of(agent)) for each in entries]
    if own:
        wanted.append(attestor_registration(TRUST_DOMAIN, NODE, parent_of(agent), {"uid": "0"}))
    async with SpireServer(server.socket) as client:
        outcomes = await client.apply(diff_registrations(wanted, await client.list_owned()))
    assert not [outcome for outcome in outcomes if outcome.error]


def upstream_of(agent: SpireAgent) -> Upstream:
    return build_upstream(SpireSettings(agent.public_socket, agent.admin_socket), TRUST_DOMAIN, NODE, EntryList())


@asynccontextmanager
async def healthy(upstream: Upstream) -> AsyncIterator[None]:
    async with running(upstream):
        await async_wait_until(lambda: upstream.health().healthy, timeout_s=TIMEOUT_S)
        yield


async def with_svids(snapshots, count=1):
    async with asyncio.timeout(TIMEOUT_S):
        async for snapshot in snapshots:
            if len(snapshot.svids) == count:
                return snapshot
    raise AssertionError


async def test_spire_absent_at_start_is_unavailable_at_once_and_found_when_it_comes(server, agent):
    await register(server, agent, entry("/a", "uid:1"))
    upstream = upstream_of(agent)
    async with running(upstream):
        started = time.monotonic()
        async with upstream.subscribe(selectors("uid:1")) as snapshots:
            with pytest.raises(UnavailableError) as caught:
                await anext(snapshots)
        assert caught.value.code == "upstream_unavailable"
        with pytest.raises(UnavailableError):
            await upstream.fetch_jwt_svids(selectors("uid:1"), ("a",), spiffe_id("/a"))
        assert time.monotonic() - started < 2
        assert not upstream.health().healthy
        agent.start()
        await async_wait_until(lambda: upstream.health().healthy, timeout_s=TIMEOUT_S)
        async with upstream.subscribe(selectors("uid:1")) as snapshots:
            await with_svids(snapshots)


async def test_a_killed_agent_is_not_noticed_by_who_holds_an_svid(server, agent):
    await register(server, agent, entry("/a", "uid:1"))
    agent.start()
    upstream = upstream_of(agent)
    seen = []
    async with healthy(upstream), upstream.subscribe(selectors("uid:1")) as snapshots:
        first = await with_svids(snapshots)

        async def watch():
            async for snapshot in snapshots:
                seen.append(snapshot)  # noqa: PERF401 - looked at while it grows

        watching = asyncio.create_task(watch())
        await asyncio.to_thread(agent.kill)
        await async_wait_until(lambda: not upstream.health().healthy)
        async with upstream.subscribe(selectors("uid:1")) as late:
            assert (await asyncio.wait_for(anext(late), 5)).svids == (seen[-1] if seen else first).svids
        async with upstream.bundles() as bundles:
            assert (await anext(bundles)).own.x509_authorities == first.bundles.own.x509_authorities
        await asyncio.to_thread(agent.start)
        await async_wait_until(lambda: upstream.health().healthy, timeout_s=TIMEOUT_S)
        await async_wait_until(lambda: seen, timeout_s=TIMEOUT_S, what="an SVID of the restarted agent")
        await register(server, agent, entry("/a", "uid:1", hint="after"))
        await async_wait_until(lambda: seen[-1].svids and seen[-1].svids[0].hint == "after", timeout_s=TIMEOUT_S)
        assert not watching.done()
        watching.cancel()
        await asyncio.wait({watching})
        assert all(snapshot.svids for snapshot in seen)


async def test_a_stream_that_nobody_follows_lingers_and_then_ends(server, agent, monkeypatch):
    await register(server, agent, entry("/a", "uid:1"))
    agent.start()
    upstream = upstream_of(agent)
    async with healthy(upstream):
        async with upstream.subscribe(selectors("uid:1")) as snapshots:
            first = await with_svids(snapshots)
        await register(server, agent, entry("/a", "uid:1", hint="meanwhile"))
        await async_wait_until(
            lambda: [svid.hint for svid in upstream._known[selectors("uid:1")].watch.value.svids] == ["meanwhile"],
            timeout_s=TIMEOUT_S,
        )
        async with upstream.subscribe(selectors("uid:1")) as snapshots:
            again = await anext(snapshots)
            assert again.svids[0].hint == "meanwhile"
            assert again.svids != first.svids
        monkeypatch.setattr(upstream_module, "LINGER_S", 0.0)
        await async_wait_until(lambda: not upstream._known)
        assert not upstream._streams


async def test_streams_that_nobody_follows_are_bounded(server, agent, monkeypatch):
    monkeypatch.setattr(upstream_module, "MAX_LINGERING", 3)
    await register(server, agent)
    agent.start()
    upstream = upstream_of(agent)
    async with healthy(upstream):
        for number in range(8):
            async with upstream.subscribe(selectors(f"uid:{number}")) as snapshots:
                await anext(snapshots)
        assert set(upstream._known) == {selectors(f"uid:{number}") for number in (5, 6, 7)}


async def test_what_was_left_is_still_known_when_the_agent_is_away(server, agent, monkeypatch):
    monkeypatch.setattr(upstream_module, "MAX_LINGERING", 0)
    await register(server, agent, entry("/a", "uid:1"))
    agent.start()
    upstream = upstream_of(agent)
    async with healthy(upstream):
        async with upstream.subscribe(selectors("uid:1")) as snapshots:
            first = await with_svids(snapshots)
        (token,) = await upstream.fetch_jwt_svids(selectors("uid:1"), ("a",), spiffe_id("/a"))
        await asyncio.to_thread(agent.kill)
        async with upstream.subscribe(selectors("uid:1")) as snapshots:
            assert (await anext(snapshots)).svids[0].spiffe_id == first.svids[0].spiffe_id
        assert await upstream.fetch_jwt_svids(selectors("uid:1"), ("a",), spiffe_id("/a")) == (token,)
        with pytest.raises(UnavailableError):
            await upstream.fetch_jwt_svids(selectors("uid:1"), ("b",), spiffe_id("/a"))
        async with upstream.subscribe(selectors("uid:2")) as snapshots:
            with pytest.raises(UnavailableError):
                await anext(snapshots)


async def test_a_cached_svid_is_served_to_its_end_and_never_beyond(server, agent):
    await register(server, agent, entry("/a", "uid:1", x509_ttl_s=8))
    agent.start()
    upstream = upstream_of(agent)
    async with healthy(upstream), upstream.subscribe(selectors("uid:1")) as snapshots:
        snapshot = await with_svids(snapshots)
        await asyncio.to_thread(agent.kill)
        rotated = asyncio.ensure_future(anext(snapshots))
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(rotated, 20)
        late = time.time() - snapshot.svids[0].expires_at
        assert 0 <= late < 2
        async with upstream.subscribe(selectors("uid:1")) as again:
            with pytest.raises(UnavailableError):
                await anext(again)


async def test_an_agent_that_hangs_is_found_out_and_its_svids_stay(server, agent, monkeypatch):
    monkeypatch.setattr(upstream_module, "PROBE_INTERVAL_S", 0.2)
    monkeypatch.setattr(upstream_module, "PROBE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(agent_module, "CALL_TIMEOUT_S", 0.5)
    await register(server, agent, entry("/a", "uid:1"))
    agent.start()
    upstream = upstream_of(agent)
    async with healthy(upstream), upstream.subscribe(selectors("uid:1")) as snapshots:
        first = await with_svids(snapshots)
        os.kill(agent.pid, signal.SIGSTOP)
        try:
            await async_wait_until(lambda: not upstream.health().healthy, timeout_s=TIMEOUT_S)
            async with upstream.subscribe(selectors("uid:1")) as late:
                assert (await asyncio.wait_for(anext(late), 2)).svids == first.svids
            with pytest.raises(UnavailableError):
                await upstream.fetch_jwt_svids(selectors("uid:1"), ("a",), spiffe_id("/a"))
        finally:
            os.kill(agent.pid, signal.SIGCONT)
        await async_wait_until(lambda: upstream.health().healthy, timeout_s=TIMEOUT_S)


async def test_hundreds_of_subscriptions_survive_a_restart_without_a_burst(server, agent):
    await register(server, agent, entry("/a", "uid:1"))
    agent.start()
    upstream = upstream_of(agent)
    newest = {}

    async def follow(number):
        async with upstream.subscribe(selectors("uid:1", f"gid:{number}")) as snapshots:
            async for snapshot in snapshots:
                newest[number] = snapshot

    async with healthy(upstream):
        tasks = [asyncio.create_task(follow(number)) for number in range(400)]
        await async_wait_until(lambda: len(newest) == 400 and all(each.svids for each in newest.values()), timeout_s=20)
        await asyncio.to_thread(agent.kill)
        await asyncio.to_thread(agent.start)
        await register(server, agent, entry("/a", "uid:1", hint="again"))
        await async_wait_until(
            lambda: all(each.svids and each.svids[0].hint == "again" for each in newest.values()), timeout_s=30
        )
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_without_an_entry_of_its_own_the_attestor_says_so(server, agent):
    await register(server, agent, entry("/a", "uid:1"), own=False)
    agent.start()
    upstream = upstream_of(agent)
    async with running(upstream):
        await async_wait_until(lambda: "entries bootstrap" in upstream.health().detail, timeout_s=TIMEOUT_S)
        assert "own_identity_missing" in upstream.health().detail
        await register(server, agent, entry("/a", "uid:1"))
        await async_wait_until(lambda: upstream.health().healthy, timeout_s=TIMEOUT_S)


async def test_an_attestor_that_is_no_delegate_is_unhealthy_and_serves_nothing(folder, server):
    agent = SpireAgent(folder / "no-delegate", server, node=NODE, delegates=["spiffe://example.org/somebody/else"])
    try:
        agent.start()
        await register(server, agent, entry("/a", "uid:1"))
        upstream = upstream_of(agent)
        async with running(upstream):
            await async_wait_until(lambda: "authorized delegate" in upstream.health().detail, timeout_s=TIMEOUT_S)
            async with upstream.subscribe(selectors("uid:1")) as snapshots:
                with pytest.raises(UnavailableError):
                    await anext(snapshots)
    finally:
        agent.stop()


async def test_components_are_served_through_our_api_while_the_agent_restarts(server, agent, tmp_path):
    await register(server, agent, entry("/agents/crm/orchestrator", "uid:0"))
    agent.start()
    upstream = upstream_of(agent)
    async with served_workload_api(tmp_path, upstream=upstream) as served:
        await async_wait_until(lambda: upstream.health().healthy, timeout_s=TIMEOUT_S)
        assert "spiffe://example.org/agents/crm/orchestrator" in await spire_cli(served.path, "fetch", "x509")
        await asyncio.to_thread(agent.kill)
        assert "spiffe://example.org/agents/crm/orchestrator" in await spire_cli(served.path, "fetch", "x509")


class TestClients:
    """Programs of others, against our Workload API."""

    @pytest.fixture
    async def served(self, tmp_path):
        verdict = attested(
            match(hint="first"), match("/agents/crm/other", "gid:0", qualified="crm/other", hint="second")
        )
        entries = EntryList((entry("/agents/crm/orchestrator", "uid:0"), entry("/agents/crm/other", "gid:0")))
        async with served_workload_api(tmp_path, attestations=FakeAttestations(verdict), entries=entries) as served:
            yield served

    async def test_spire_agent_fetches_x509_svids(self, served, tmp_path):
        out = await spire_cli(served.path, "fetch", "x509", "-write", str(tmp_path))
        assert "Received 2 svids" in out
        assert "first" in out
        assert "second" in out
        assert (tmp_path / "svid.0.pem").read_text().startswith("-----BEGIN CERTIFICATE")

    async def test_spire_agent_fetches_and_validates_jwt_svids(self, served):
        out = await spire_cli(
            served.path,
            "fetch",
            "jwt",
            "-audience",
            "me",
            "-spiffeID",
            "spiffe://example.org/agents/crm/other",
            "-output",
            "json",
        )
        token = json.loads(out)[0]["svids"][0]["svid"]
        assert "SVID is valid" in await spire_cli(served.path, "validate", "jwt", "-audience", "me", "-svid", token)
        assert "SVID is not valid" in await spire_cli(
            served.path, "validate", "jwt", "-audience", "you", "-svid", token, fails=True
        )

    async def test_spire_agent_is_told_that_there_is_no_identity(self, served):
        served.entries.set()
        out = await spire_cli(served.path, "fetch", "x509", fails=True)
        assert "no identity issued" in out

    async def test_the_spiffe_package_of_pypi_gets_everything(self, served):
        # Of another generation of protobuf code, and of the same message names: a process of its own.
        program = """
import json, sys
from spiffe import WorkloadApiClient
with WorkloadApiClient(sys.argv[1]) as client:
    context = client.fetch_x509_context()
    tokens = client.fetch_jwt_svids(audience={'me'})
    bundles = client.fetch_jwt_bundles()
    checked = client.validate_jwt_svid(tokens[0].token, 'me')
    print(json.dumps({
        'x509': [str(svid.spiffe_id) for svid in context.x509_svids],
        'jwt': [str(token.spiffe_id) for token in tokens],
        'checked': str(checked.spiffe_id),
        'bundles': [bundle.trust_domain.name for bundle in bundles.bundles],
    }))
"""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-W",
            "ignore",
            "-c",
            program,
            f"unix://{served.path}",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, errors = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0, errors.decode()
        found = json.loads(out)
        both = ["spiffe://example.org/agents/crm/orchestrator", "spiffe://example.org/agents/crm/other"]
        assert (found["x509"], found["jwt"], found["bundles"]) == (both, both, ["example.org"])
        assert found["checked"] == both[0]


async def spire_cli(socket: Path, *arguments: str, fails: bool = False) -> str:
    """The output of ``spire-agent api …`` against ``socket``."""
    process = await asyncio.create_subprocess_exec(
        find_binaries() / "spire-agent",
        "api",
        *arguments,
        "-socketPath",
        str(socket),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert bool(process.returncode) == fails, out.decode()
    return out.decode()


class TestRegistrationEntries:
    @pytest.fixture
    async def client(self, server):
        async with SpireServer(server.socket) as client:
            await client.apply(diff_registrations([], await client.list_owned()))
            yield client
            await client.apply(diff_registrations([], await client.list_owned()))

    @pytest.fixture
    def parent(self):
        return SpiffeId.parse("spiffe://example.org/node/n1")

    def registrations(self, parent: SpiffeId, count: int, hint: str = "") -> list[Registration]:
        return [
            registration_of(entry(f"/many/{number}", f"uid:{number}", hint=hint), parent) for number in range(count)
        ]

    async def test_what_was_written_is_read_back_as_it_was(self, client, parent):
        wanted = [
            registration_of(
                entry("/a", "image:sha256:abc", "config:sha256:def", "container-label:a=b:c", hint="h"), parent
            ),
            attestor_registration(TRUST_DOMAIN, "n1", parent, {"uid": "0", "path": "/usr/bin/hopseal"}),
        ]
        outcomes = await client.apply(diff_registrations(wanted, await client.list_owned()))
        assert [(outcome.action, outcome.error) for outcome in outcomes] == [(Action.CREATE, "")] * 2
        present = await client.list_owned()
        assert set(present) == set(wanted)
        assert not diff_registrations(wanted, present)

    async def test_changes_are_applied_and_nothing_is_left_to_do(self, client, parent):
        await client.apply(diff_registrations(self.registrations(parent, 3), await client.list_owned()))
        wanted = [*self.registrations(parent, 2, hint="new"), registration_of(entry("/b", "uid:77"), parent)]
        outcomes = await client.apply(diff_registrations(wanted, await client.list_owned()))
        assert sorted(outcome.action for outcome in outcomes) == ["create", "delete", "update", "update"]
        assert not diff_registrations(wanted, await client.list_owned())

    async def test_entries_of_others_are_never_listed(self, client, parent, server):
        server.run(
            "entry",
            "create",
            "-parentID",
            str(parent),
            "-spiffeID",
            "spiffe://example.org/theirs",
            "-selector",
            "unix:uid:9",
        )
        assert await client.list_owned() == ()
        assert "spiffe://example.org/theirs" in server.run("entry", "show")

    async def test_fields_that_are_not_ours_survive_an_update(self, client, parent, server):
        (registration,) = self.registrations(parent, 1)
        await client.apply(RegistrationChanges((registration,), (), ()))
        shown = json.loads(server.run("entry", "show", "-entryID", registration.entry_id, "-output", "json"))
        assert shown["entries"][0]["id"] == registration.entry_id
        server.run(
            "entry",
            "update",
            "-entryID",
            registration.entry_id,
            "-parentID",
            str(parent),
            "-spiffeID",
            str(registration.spiffe_id),
            "-selector",
            "hopseal:uid:0",
            "-dns",
            "kept.example",
        )
        await client.apply(diff_registrations([registration], await client.list_owned()))
        shown = json.loads(server.run("entry", "show", "-entryID", registration.entry_id, "-output", "json"))
        assert shown["entries"][0]["dns_names"] == ["kept.example"]

    async def test_a_refused_change_says_why_and_stops_no_other(self, client, parent):
        good, bad, ugly = self.registrations(parent, 3)
        foreign = replace(bad, spiffe_id=SpiffeId.parse("spiffe://other.example/a"))
        outcomes = await client.apply(RegistrationChanges((good, foreign, ugly), (), ()))
        assert [bool(outcome.error) for outcome in outcomes] == [False, True, False]
        again = await client.apply(RegistrationChanges((good,), (), ()))
        assert again[0].error
        gone = await client.apply(RegistrationChanges((), ((bad, bad),), ()))
        assert gone[0].error

    async def test_more_than_a_page_is_listed(self, client, parent):
        wanted = self.registrations(parent, 520)
        outcomes = await client.apply(diff_registrations(wanted, ()))
        assert not [outcome for outcome in outcomes if outcome.error]
        assert set(await client.list_owned()) == set(wanted)

    async def test_a_server_that_is_not_there_is_unavailable(self, tmp_path):
        async with SpireServer(tmp_path / "nobody.sock") as client:
            with pytest.raises(UnavailableError) as caught:
                await client.list_owned()
        assert caught.value.code == "rpc_unavailable"
        with pytest.raises(UnavailableError):
            await client.list_owned()

    async def test_an_entry_of_ours_that_cannot_be_read_is_named(self, client, server, parent):
        long = "spiffe://example.org/" + "a" * 300
        server.run(
            "entry",
            "create",
            "-entryID",
            "hopseal.long",
            "-parentID",
            str(parent),
            "-spiffeID",
            long,
            "-selector",
            "unix:uid:9",
        )
        try:
            with pytest.raises(InvalidError) as caught:
                await client.list_owned()
            assert (caught.value.code, "hopseal.long" in caught.value.detail) == ("spire_entry_malformed", True)
        finally:
            server.run("entry", "delete", "-entryID", "hopseal.long")
