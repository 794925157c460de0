"""What every identity upstream promises; run on the embedded authority and on a real SPIRE."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_private_key

from apifakes import NODE, TRUST_DOMAIN, EntryList, entry, running, selectors, spiffe_id
from attestor.api.jwt_validation import JwtSvidInvalidError, verify_jwt_svid
from attestor.upstream import EmbeddedSettings, SpireSettings, Upstream, build_upstream
from hopseal.entries import Entry
from hopseal.ids import SpiffeId
from hopseal.registrations import attestor_registration, diff_registrations, registration_of
from hopseal.snapshot import IdentitySnapshot
from hopseal.spire_server import SpireServer
from real.spire import SpireAgent
from real.spire import SpireServer as SpireServerProcess
from real.spire import spire as running_spire
from waiting import async_wait_until

TIMEOUT_S = 15.0


class Backend(Protocol):
    """An upstream that runs, and its entries."""

    upstream: Upstream

    async def set(self, *entries: Entry) -> None: ...


class EmbeddedBackend:
    def __init__(self, upstream: Upstream, source: EntryList) -> None:
        self.upstream = upstream
        self._source = source

    async def set(self, *entries: Entry) -> None:
        self._source.set(*entries)


class SpireBackend:
    """Every test's entries have IDs of their own.

    An entry that is deleted and made again under one ID between two syncs of the agent has the same revision, and the
    agent goes on with the old one.
    """

    _made = itertools.count()

    def __init__(self, upstream: Upstream, server: SpireServer, parent: SpiffeId) -> None:
        self._number = next(self._made)
        self.upstream = upstream
        self._server = server
        self._parent = parent
        self._own = attestor_registration(TRUST_DOMAIN, NODE, parent, {"uid": "0"})

    async def set(self, *entries: Entry) -> None:
        named = (replace(each, entry_id=f"{each.entry_id}.{self._number}") for each in entries)
        wanted = [self._own, *(registration_of(each, self._parent) for each in named)]
        outcomes = await self._server.apply(diff_registrations(wanted, await self._server.list_owned()))
        assert not [outcome for outcome in outcomes if outcome.error]


@pytest.fixture(scope="module")
def spire_processes() -> Iterator[tuple[SpireServerProcess, SpireAgent]]:
    with running_spire(NODE) as processes:
        yield processes


@pytest.fixture(params=["embedded", pytest.param("spire", marks=pytest.mark.real)])
async def backend(request, tmp_path) -> AsyncIterator[Backend]:
    if request.param == "embedded":
        source = EntryList()
        upstream = build_upstream(EmbeddedSettings(tmp_path / "state"), TRUST_DOMAIN, NODE, source)
        async with running(upstream):
            yield EmbeddedBackend(upstream, source)
        return
    server, agent = request.getfixturevalue("spire_processes")
    upstream = build_upstream(SpireSettings(agent.public_socket, agent.admin_socket), TRUST_DOMAIN, NODE, EntryList())
    async with SpireServer(server.socket) as entries:
        backend = SpireBackend(upstream, entries, SpiffeId.parse(agent.parent_id))
        await backend.set()
        async with running(upstream):
            await async_wait_until(lambda: upstream.health().healthy, timeout_s=TIMEOUT_S)
            yield backend
        await backend.set()


async def following(
    snapshots: AsyncIterator[IdentitySnapshot], *paths: str, hint: str | None = None
) -> IdentitySnapshot:
    """The first snapshot that holds exactly these identities."""
    async with asyncio.timeout(TIMEOUT_S):
        async for snapshot in snapshots:
            if sorted(svid.spiffe_id.path for svid in snapshot.svids) == sorted(paths) and (
                hint is None or {svid.hint for svid in snapshot.svids} == {hint}
            ):
                return snapshot
    raise AssertionError("the subscription ended")


@asynccontextmanager
async def settled(backend: Backend, *values: str, paths: tuple[str, ...]) -> AsyncIterator[IdentitySnapshot]:
    async with backend.upstream.subscribe(selectors(*values)) as snapshots:
        yield await following(snapshots, *paths)


def serial(snapshot: IdentitySnapshot) -> int:
    return x509.load_der_x509_certificate(snapshot.svids[0].chain_der[0]).serial_number


def assert_usable(snapshot: IdentitySnapshot) -> None:
    """Every SVID verifies with the bundle that came with it, and has its own key."""
    authorities = [x509.load_der_x509_certificate(der) for der in snapshot.bundles.own.x509_authorities]
    for svid in snapshot.svids:
        leaf, *intermediates = [x509.load_der_x509_certificate(der) for der in svid.chain_der]
        top = leaf
        for issuer in intermediates:
            top.verify_directly_issued_by(issuer)
            top = issuer
        (authority,) = [each for each in authorities if each.subject == top.issuer and verifies(top, each)]
        assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [str(svid.spiffe_id)]
        assert int(leaf.not_valid_after_utc.timestamp()) == svid.expires_at
        key = load_der_private_key(svid.key_pkcs8, None)
        assert key.public_key() == leaf.public_key()
        assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def verifies(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except Exception:
        return False
    return True


async def test_the_first_snapshot_comes_at_once_even_without_svids(backend):
    async with backend.upstream.subscribe(selectors("uid:404")) as snapshots:
        snapshot = await asyncio.wait_for(anext(snapshots), 2)
    assert snapshot.svids == ()
    assert snapshot.bundles.own.trust_domain == TRUST_DOMAIN
    assert snapshot.bundles.own.x509_authorities


async def test_an_entry_becomes_an_svid_that_verifies(backend):
    async with backend.upstream.subscribe(selectors("uid:1", "gid:1")) as snapshots:
        assert (await anext(snapshots)).svids == ()
        await backend.set(entry("/a", "uid:1", hint="main"))
        snapshot = await following(snapshots, "/a")
    assert_usable(snapshot)
    assert [svid.hint for svid in snapshot.svids] == ["main"]


async def test_every_selector_of_an_entry_is_required(backend):
    await backend.set(entry("/both", "uid:1", "image:sha256:abc"), entry("/one", "uid:1"))
    async with settled(backend, "uid:1", "image:sha256:abc", "gid:5", paths=("/both", "/one")) as snapshot:
        assert_usable(snapshot)
    async with settled(backend, "uid:1", "image:sha256:abd", paths=("/one",)):
        pass


async def test_a_changed_hint_is_a_new_snapshot(backend):
    await backend.set(entry("/a", "uid:1", hint="old"))
    async with backend.upstream.subscribe(selectors("uid:1")) as snapshots:
        await following(snapshots, "/a", hint="old")
        await backend.set(entry("/a", "uid:1", hint="new"))
        assert_usable(await following(snapshots, "/a", hint="new"))


async def test_removal_is_a_snapshot_without_the_svid_and_it_can_come_back(backend):
    await backend.set(entry("/a", "uid:1"), entry("/b", "uid:1"))
    async with backend.upstream.subscribe(selectors("uid:1")) as snapshots:
        await following(snapshots, "/a", "/b")
        await backend.set(entry("/b", "uid:1"))
        await following(snapshots, "/b")
        await backend.set()
        await following(snapshots)
        await backend.set(entry("/a", "uid:1"))
        assert_usable(await following(snapshots, "/a"))


async def test_two_entries_of_one_identity_are_one_svid(backend):
    await backend.set(entry("/a", "uid:1"), entry("/a", "gid:1"))
    async with settled(backend, "uid:1", "gid:1", paths=("/a",)) as snapshot:
        assert_usable(snapshot)


async def test_an_svid_is_rotated_before_it_ends(backend):
    await backend.set(entry("/a", "uid:1", x509_ttl_s=10))
    async with backend.upstream.subscribe(selectors("uid:1")) as snapshots:
        first = await following(snapshots, "/a")
        second = first
        while second.svids[0].expires_at <= first.svids[0].expires_at:  # SPIRE may issue twice for a new entry
            second = await following(snapshots, "/a")
        assert time.time() < first.svids[0].expires_at
        assert_usable(second)
        assert serial(second) != serial(first)


async def test_a_jwt_svid_is_for_its_audience_and_verifies_with_the_bundle(backend):
    await backend.set(entry("/a", "uid:1", hint="h"), entry("/b", "uid:1"))
    async with settled(backend, "uid:1", paths=("/a", "/b")) as snapshot:
        (svid,) = await backend.upstream.fetch_jwt_svids(selectors("uid:1"), ("me", "them"), spiffe_id("/a"))
        assert (svid.spiffe_id, svid.hint) == (spiffe_id("/a"), "h")
        valid = verify_jwt_svid(svid.token, "them", snapshot.bundles, svid.expires_at - 1)
        assert valid.spiffe_id == spiffe_id("/a")
        for audience, now in (("you", svid.expires_at - 1), ("me", svid.expires_at)):
            with pytest.raises(JwtSvidInvalidError):
                verify_jwt_svid(svid.token, audience, snapshot.bundles, now)


async def test_a_jwt_svid_that_is_not_earned_is_not_given(backend):
    await backend.set(entry("/a", "uid:1"))
    async with settled(backend, "uid:1", paths=("/a",)):
        assert await backend.upstream.fetch_jwt_svids(selectors("uid:1"), ("me",), spiffe_id("/b")) == ()
        assert await backend.upstream.fetch_jwt_svids(selectors("uid:2"), ("me",), spiffe_id("/a")) == ()


async def test_bundles_are_there_at_once(backend):
    async with backend.upstream.bundles() as bundles:
        present = await asyncio.wait_for(anext(bundles), 2)
    assert present.own.trust_domain == TRUST_DOMAIN
    assert present.own.x509_authorities
    assert b'"kid"' in present.own.jwt_keys
    assert present.federated == ()


async def test_the_attestor_has_an_identity_of_its_own(backend):
    async with backend.upstream.own_identity() as snapshots:
        snapshot = await asyncio.wait_for(anext(snapshots), TIMEOUT_S)
    assert [svid.spiffe_id for svid in snapshot.svids] == [spiffe_id(f"/hopseal/attestor/{NODE}")]
    assert_usable(snapshot)


async def test_it_is_healthy_and_says_what_it_is(backend):
    health = backend.upstream.health()
    assert health.healthy
    assert health.kind in {"embedded", "spire-delegated"}
    assert health.detail == ""


async def test_a_slow_subscriber_gets_the_newest(backend):
    await backend.set(entry("/a", "uid:1", hint="0"))
    async with (
        backend.upstream.subscribe(selectors("uid:1")) as slow,
        backend.upstream.subscribe(selectors("uid:1")) as quick,
    ):
        await following(slow, "/a", hint="0")
        for turn in range(1, 4):
            await backend.set(entry("/a", "uid:1", hint=str(turn)))
            await following(quick, "/a", hint=str(turn))
        hints = []
        async with asyncio.timeout(TIMEOUT_S):
            while "3" not in hints:
                hints.append((await anext(slow)).svids[0].hint)
        # Both subscriptions are streams of their own: the last turn may reach this one a moment later.
        assert hints in (["3"], ["2", "3"])


async def test_many_subscribers_at_once_all_get_theirs(backend):
    await backend.set(entry("/a", "uid:1"))
    async with settled(backend, "uid:1", paths=("/a",)):

        async def one(number: int) -> int:
            async with backend.upstream.subscribe(selectors("uid:1", f"gid:{number % 150}")) as snapshots:
                return len((await following(snapshots, "/a")).svids)

        assert await asyncio.gather(*(one(number) for number in range(300))) == [1] * 300


async def test_a_subscription_can_be_left_and_taken_again(backend):
    await backend.set(entry("/a", "uid:1"))
    for _ in range(3):
        async with settled(backend, "uid:1", paths=("/a",)) as snapshot:
            assert_usable(snapshot)
