"""The embedded authority as an upstream, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509

from apifakes import NODE, TRUST_DOMAIN, Clock, EntryList, entry, running, selectors, spiffe_id
from attestor.upstream.embedded import store
from attestor.upstream.embedded.upstream import EmbeddedUpstream
from attestor.upstream.settings import EmbeddedSettings
from hopseal.entries import attestor_id
from hopseal.errors import BugError, InvalidError, UnavailableError
from hopseal.ids import TrustDomain
from waiting import async_wait_until

ENTRY = entry("/a", "uid:1", x509_ttl_s=100, jwt_ttl_s=50)
CA_TTL = 1200


def make(folder: Path, clock: Clock, entries: EntryList, trust_domain: TrustDomain = TRUST_DOMAIN) -> EmbeddedUpstream:
    settings = EmbeddedSettings(folder / "state", 100, 50, CA_TTL)
    return EmbeddedUpstream(settings, attestor_id(trust_domain, NODE), entries, clock=clock, tick_s=0.01)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def entries():
    return EntryList((ENTRY,))


@pytest.fixture
def upstream(tmp_path, clock, entries):
    return make(tmp_path, clock, entries)


@asynccontextmanager
async def first(upstream, *values):
    async with upstream.subscribe(selectors(*values)) as snapshots:
        yield await asyncio.wait_for(anext(snapshots), 5), snapshots


async def following(snapshots, holds):
    """The first snapshot for which ``holds``."""
    async with asyncio.timeout(5):
        async for snapshot in snapshots:
            if holds(snapshot):
                return snapshot
    raise AssertionError


def serial(svid):
    return x509.load_der_x509_certificate(svid.chain_der[0]).serial_number


async def test_an_svid_is_renewed_at_half_its_life_and_not_before(upstream, clock):
    async with running(upstream), first(upstream, "uid:1") as (start, snapshots):
        (svid,) = start.svids
        clock.now += 49
        newest = asyncio.ensure_future(anext(snapshots))
        await async_wait_until(lambda: upstream._health.healthy)
        done, _ = await asyncio.wait({newest}, timeout=0.1)
        assert not done
        clock.now += 1
        (renewed,) = (await asyncio.wait_for(newest, 5)).svids
        assert serial(renewed) != serial(svid)
        assert renewed.expires_at == int(clock.now) + 100


async def test_subscribers_of_one_entry_share_its_svid(upstream):
    async with (
        running(upstream),
        first(upstream, "uid:1") as (one, _),
        first(upstream, "uid:1", "gid:1") as (two, _),
    ):
        assert one.svids == two.svids


async def test_who_comes_back_gets_the_same_svid_until_it_is_due(upstream, clock):
    async with running(upstream):
        async with first(upstream, "uid:1") as (start, _):
            pass
        async with first(upstream, "uid:1") as (again, _):
            assert again.svids == start.svids
        clock.now += 50
        await async_wait_until(lambda: set(upstream._issued) == {upstream._own_entry})


async def test_the_key_of_an_entry_that_went_is_not_kept(upstream, entries):
    async with running(upstream):
        async with first(upstream, "uid:1"):
            pass
        entries.set()
        await async_wait_until(lambda: set(upstream._issued) == {upstream._own_entry})


async def test_every_moment_of_an_authoritys_change_verifies(upstream, clock):
    async with running(upstream), first(upstream, "uid:1") as (start, snapshots):
        issuers, snapshot = set(), start
        for _ in range(60):
            leaf = x509.load_der_x509_certificate(snapshot.svids[0].chain_der[0])
            authorities = [x509.load_der_x509_certificate(der) for der in snapshot.bundles.own.x509_authorities]
            (issuer,) = (
                each
                for each in authorities
                if leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
                == each.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
            )
            leaf.verify_directly_issued_by(issuer)
            assert issuer.not_valid_after_utc.timestamp() > clock.now
            issuers.add(issuer.serial_number)
            clock.now += 50
            snapshot = await following(snapshots, lambda each: each.svids[0].expires_at == int(clock.now) + 100)
        assert len(issuers) >= 4


async def test_a_new_authority_is_in_the_bundle_before_it_signs(upstream, clock):
    async with running(upstream), first(upstream, "uid:1") as (start, snapshots):
        clock.now += CA_TTL / 2
        published = await following(snapshots, lambda each: len(each.bundles.own.x509_authorities) == 2)
        assert published.bundles.own.sequence == start.bundles.own.sequence + 1
        leaf = x509.load_der_x509_certificate(published.svids[0].chain_der[0])
        leaf.verify_directly_issued_by(x509.load_der_x509_certificate(start.bundles.own.x509_authorities[0]))


@pytest.mark.parametrize("jump", [3600, -3600, 86_400, -86_400])
async def test_a_clock_set_by_an_hour_or_a_day_gets_valid_svids_at_once(upstream, clock, jump):
    async with running(upstream), first(upstream, "uid:1") as (start, snapshots):
        clock.now += jump
        snapshot = await following(snapshots, lambda each: each.svids != start.svids)
        leaf = x509.load_der_x509_certificate(snapshot.svids[0].chain_der[0])
        assert leaf.not_valid_before_utc.timestamp() <= clock.now < leaf.not_valid_after_utc.timestamp()
        assert upstream.health().healthy


async def test_two_on_one_state_folder_agree_on_the_authority(tmp_path, clock, entries):
    one, two = make(tmp_path, clock, entries), make(tmp_path, clock, EntryList((ENTRY,)))
    async with running(one, two), one.bundles() as ones, two.bundles() as twos:
        assert await anext(ones) == await anext(twos)
        clock.now += CA_TTL / 2
        assert await asyncio.wait_for(anext(ones), 5) == await asyncio.wait_for(anext(twos), 5)


async def test_each_accepts_what_the_other_signed(tmp_path, clock, entries):
    one, two = make(tmp_path, clock, entries), make(tmp_path, clock, EntryList((ENTRY,)))
    async with running(one, two), first(one, "uid:1") as (mine, _), first(two, "uid:1") as (theirs, _):
        for snapshot, other in ((mine, theirs), (theirs, mine)):
            leaf = x509.load_der_x509_certificate(snapshot.svids[0].chain_der[0])
            leaf.verify_directly_issued_by(x509.load_der_x509_certificate(other.bundles.own.x509_authorities[0]))


async def test_it_refuses_to_start_on_the_state_of_another_trust_domain(tmp_path, clock, entries):
    async with make(tmp_path, clock, entries):
        pass
    with pytest.raises(InvalidError) as caught:
        async with make(tmp_path, clock, entries, TrustDomain.parse("other.example")):
            pass
    assert caught.value.code == "authority_trust_domain_mismatch"


async def test_entries_take_effect_at_once_and_go_at_once(upstream, entries):
    async with running(upstream), first(upstream, "uid:2") as (start, snapshots):
        assert start.svids == ()
        entries.set(ENTRY, entry("/b", "uid:2"))
        assert [svid.spiffe_id for svid in (await anext(snapshots)).svids] == [spiffe_id("/b")]
        entries.set(ENTRY)
        assert (await anext(snapshots)).svids == ()


async def test_two_entries_of_one_identity_are_one_svid(upstream, entries):
    entries.set(ENTRY, entry("/a", "gid:1"), entry("/a", "gid:2", hint="other"))
    async with running(upstream), first(upstream, "uid:1", "gid:1", "gid:2") as (snapshot, _):
        assert [(svid.spiffe_id, svid.hint) for svid in snapshot.svids] == [
            (spiffe_id("/a"), ""),
            (spiffe_id("/a"), "other"),
        ]


async def test_the_first_snapshot_waits_for_the_entries(tmp_path, clock):
    async def never():
        await asyncio.Event().wait()
        yield ()

    upstream = make(tmp_path, clock, never)
    async with running(upstream), upstream.subscribe(selectors("uid:1")) as snapshots:
        waiting = asyncio.ensure_future(anext(snapshots))
        done, _ = await asyncio.wait({waiting}, timeout=0.1)
        assert not done
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        with pytest.raises(UnavailableError):
            await upstream.fetch_jwt_svids(selectors("uid:1"), ("a",), spiffe_id("/a"))


async def test_state_that_cannot_be_read_shows_in_health_while_the_last_good_one_serves(upstream, clock, tmp_path):
    file = tmp_path / "state" / "authority.json"
    async with running(upstream), first(upstream, "uid:1") as (_, snapshots):
        file.rename(file.with_suffix(".away"))
        await async_wait_until(lambda: not upstream.health().healthy)
        assert "authority_state_unavailable" in upstream.health().detail
        clock.now += 60
        assert (await asyncio.wait_for(anext(snapshots), 5)).svids[0].expires_at == int(clock.now) + 100
        file.with_suffix(".away").rename(file)
        await async_wait_until(lambda: upstream.health().healthy)
        assert upstream.health().since == int(clock.now)


async def test_a_full_disk_stops_the_svids_only_when_the_authority_expires(upstream, clock, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    async with running(upstream), first(upstream, "uid:1") as (_, snapshots):
        monkeypatch.setattr(store.AuthorityStore, "_write", full)
        clock.now += CA_TTL - 1
        last = await asyncio.wait_for(anext(snapshots), 5)
        assert last.svids[0].expires_at == int(clock.now) + 1
        clock.now += 1
        with pytest.raises(UnavailableError):
            await following(snapshots, lambda _each: False)
        async with upstream.subscribe(selectors("uid:1")) as again:
            with pytest.raises(UnavailableError):
                await anext(again)
        with pytest.raises(UnavailableError):
            await upstream.fetch_jwt_svids(selectors("uid:1"), ("a",), spiffe_id("/a"))
        assert not upstream.health().healthy
        monkeypatch.undo()
        await async_wait_until(lambda: upstream.health().healthy)
        async with first(upstream, "uid:1") as (recovered, _):
            assert recovered.svids[0].expires_at == int(clock.now) + 100


async def test_leaving_ends_every_subscription(upstream):
    async with running(upstream):
        snapshots = upstream.subscribe(selectors("uid:1"))
        follower = await snapshots.__aenter__()
        await anext(follower)
        own = upstream.own_identity()
        own_follower = await own.__aenter__()
        await anext(own_follower)
    for each in (follower, own_follower):
        with pytest.raises(UnavailableError):
            await anext(each)


async def test_it_must_be_entered_first(upstream):
    with pytest.raises(BugError):
        upstream._publish()
