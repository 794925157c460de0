"""What SPIRE Agent says, how it is asked, and what may be served of it; without an agent."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from apifakes import TRUST_DOMAIN, Clock, selectors, spiffe_id
from attestor.upstream.embedded import signing
from attestor.upstream.embedded.authority import create_authorities
from attestor.upstream.spire.dialing import MAX_BACKOFF_S, MAX_OPENING, OpeningGate, make_backoff
from attestor.upstream.spire.health import Health
from attestor.upstream.spire.known import KnownIdentities
from attestor.upstream.spire.parsing import (
    AnswerMalformedError,
    choose_svids,
    is_anchored,
    parse_trust_domain,
    parse_x509_svid,
    split_certificates,
)
from hopseal.bundle import Bundle, BundleSet
from hopseal.errors import UnavailableError
from hopseal.ids import TrustDomain

NOW = 1_800_000_000
PARTNER = TrustDomain.parse("partner.example")
STRANGER = TrustDomain.parse("stranger.example")
AUTHORITIES = create_authorities(TRUST_DOMAIN, NOW, 86_400)
OTHERS = create_authorities(TRUST_DOMAIN, NOW, 86_400)
AWAY = UnavailableError("upstream_unavailable", "away")


def svid(path: str = "/a", ttl_s: int = 600, hint: str = "", authorities=AUTHORITIES):
    signer = authorities.signer(NOW)
    return signing.sign_x509_svid(spiffe_id(path), hint, signer.certificate, signer.key, NOW, ttl_s)


def bundle_set(authorities=AUTHORITIES) -> BundleSet:
    der = tuple(each.certificate.public_bytes(Encoding.DER) for each in authorities.authorities)
    return BundleSet(Bundle(TRUST_DOMAIN, der), (Bundle(PARTNER, ()), Bundle(STRANGER, ())))


class TestParsing:
    def test_concatenated_certificates_are_split(self):
        listed = [svid().chain_der[0] for _ in range(3)]
        assert split_certificates(b"".join(listed)) == tuple(listed)
        assert split_certificates(b"") == ()

    @pytest.mark.parametrize("cut", [1, 2, 3, 100])
    def test_a_cut_list_is_refused(self, cut):
        with pytest.raises(AnswerMalformedError):
            split_certificates(svid().chain_der[0][:-cut])

    @given(st.binary(max_size=200))
    def test_any_bytes_are_certificates_or_our_error(self, data):
        try:
            found = split_certificates(data)
        except AnswerMalformedError:
            return
        assert b"".join(found) == data

    def test_a_good_svid_is_taken(self):
        good = svid(hint="h")
        assert parse_x509_svid(str(good.spiffe_id), good.chain_der, good.key_pkcs8, "h") == good

    @pytest.mark.parametrize("wrong", ["id", "key", "chain", "not an id", "key bytes"])
    def test_parts_that_do_not_fit_are_refused(self, wrong):
        good, other = svid(), svid("/b")
        parts = {
            "id": ("spiffe://example.org/b", good.chain_der, good.key_pkcs8),
            "key": (str(good.spiffe_id), good.chain_der, other.key_pkcs8),
            "chain": (str(good.spiffe_id), (), good.key_pkcs8),
            "not an id": ("spiffe://example.org/../a", good.chain_der, good.key_pkcs8),
            "key bytes": (str(good.spiffe_id), good.chain_der, b"key"),
        }[wrong]
        with pytest.raises(AnswerMalformedError) as caught:
            parse_x509_svid(*parts, "")
        assert caught.value.code == "upstream_answer_malformed"

    def test_of_one_identity_the_longest_is_chosen(self):
        short, long, other = svid(ttl_s=60), svid(ttl_s=600), svid("/b")
        hinted = svid(hint="h", ttl_s=30)
        assert choose_svids([short, other, long, hinted]) == (long, other, hinted)

    def test_a_trust_domain_is_a_name_or_an_id(self):
        assert parse_trust_domain("spiffe://partner.example") == parse_trust_domain("partner.example") == PARTNER
        with pytest.raises(AnswerMalformedError):
            parse_trust_domain("spiffe://partner.example/path")

    def test_a_chain_must_end_in_the_bundle(self):
        known, unknown = bundle_set().own.x509_authorities, bundle_set(OTHERS).own.x509_authorities
        assert is_anchored(svid(), known)
        assert is_anchored(svid(), unknown + known)
        assert not is_anchored(svid(), unknown)
        assert not is_anchored(svid(), ())
        with_root = replace(svid(), chain_der=(svid().chain_der[0], *known))
        assert is_anchored(with_root, known)


class TestKnown:
    @pytest.fixture
    def clock(self):
        return Clock(NOW)

    @pytest.fixture
    def known(self, clock):
        known = KnownIdentities(selectors("uid:1"), clock, removal_delay_s=0.05)
        known.take_bundles(bundle_set())
        return known

    async def test_an_svid_is_published_with_the_bundles_it_federates_with(self, known):
        one = svid()
        known.take((one,), frozenset({PARTNER}))
        snapshot = await anext(known.watch.follow())
        assert snapshot.svids == (one,)
        assert [bundle.trust_domain for bundle in snapshot.bundles.federated] == [PARTNER]

    async def test_an_empty_message_that_another_follows_removes_nothing(self, known):
        one, two = svid(), svid()
        known.take((one,), frozenset())
        follower = known.watch.follow()
        await anext(follower)
        known.take((), frozenset())
        known.take((two,), frozenset())
        assert (await anext(follower)).svids == (two,)
        waiting = asyncio.ensure_future(anext(follower))
        done, _ = await asyncio.wait({waiting}, timeout=0.1)
        assert not done
        waiting.cancel()

    async def test_an_empty_message_counts_after_the_delay(self, known):
        known.take((svid(),), frozenset())
        follower = known.watch.follow()
        await anext(follower)
        start = asyncio.get_running_loop().time()
        known.take((), frozenset())
        known.take((), frozenset())
        assert (await anext(follower)).svids == ()
        assert 0.04 < asyncio.get_running_loop().time() - start < 1

    async def test_a_first_empty_message_is_nothing_issued(self, known):
        known.take((), frozenset())
        assert (await anext(known.watch.follow())).svids == ()

    async def test_the_same_svids_again_are_no_news(self, known):
        one = svid()
        known.take((one,), frozenset())
        follower = known.watch.follow()
        await anext(follower)
        known.take((one,), frozenset())
        waiting = asyncio.ensure_future(anext(follower))
        done, _ = await asyncio.wait({waiting}, timeout=0.05)
        assert not done
        waiting.cancel()

    async def test_an_svid_waits_for_the_bundle_that_holds_its_authority(self, known):
        old, new = svid(), svid(authorities=OTHERS)
        known.take((old,), frozenset())
        known.take((new,), frozenset())
        assert known.watch.value.svids == (old,)
        both = bundle_set().own.x509_authorities + bundle_set(OTHERS).own.x509_authorities
        known.take_bundles(BundleSet(Bundle(TRUST_DOMAIN, both)))
        assert known.watch.value.svids == (new,)

    async def test_while_the_agent_is_away_svids_last_to_their_end_and_not_longer(self, known, clock):
        short, long = svid(ttl_s=60), svid("/b", ttl_s=100)
        known.take((short, long), frozenset())
        known.lose(AWAY)
        clock.now += 59
        known.publish()
        assert known.watch.value.svids == (short, long)
        clock.now += 1
        known.publish()
        assert known.watch.value.svids == (long,)
        clock.now += 40
        known.publish()
        with pytest.raises(UnavailableError):
            await anext(known.watch.follow())

    async def test_nothing_known_and_nobody_to_ask_is_unavailable(self, known):
        known.lose(AWAY)
        with pytest.raises(UnavailableError):
            await anext(known.watch.follow())
        known.take((svid(),), frozenset())
        assert len((await anext(known.watch.follow())).svids) == 1

    async def test_what_was_set_aside_is_served_only_if_the_agent_cannot_be_asked(self, known):
        one = svid()
        known.take((one,), frozenset())
        known.set_aside()
        known.take_bundles(bundle_set())
        assert known.watch.value is None
        known.lose(AWAY)
        assert known.watch.value.svids == (one,)
        known.take((), frozenset())
        follower = known.watch.follow()
        await anext(follower)
        assert (await anext(follower)).svids == ()

    async def test_a_removal_that_was_announced_is_not_forgotten_when_the_agent_goes(self, known):
        known.take((svid(),), frozenset())
        follower = known.watch.follow()
        await anext(follower)
        known.take((), frozenset())
        known.lose(AWAY)
        assert (await anext(follower)).svids == ()

    async def test_what_expired_is_not_worth_keeping(self, known, clock):
        assert not known.is_worth_keeping
        known.take((svid(ttl_s=60),), frozenset())
        assert known.is_worth_keeping
        clock.now += 60
        assert not known.is_worth_keeping


class Always(random.Random):
    """Chance that always falls the same way."""

    def __init__(self, value: float) -> None:
        super().__init__(0)
        self.value = value

    def random(self) -> float:
        return self.value


class TestDialing:
    def test_waits_double_up_to_a_limit_and_start_anew_after_success(self):
        longest, shortest = make_backoff(Always(1.0)), make_backoff(Always(0.0))
        waits = [(shortest.next_s(), longest.next_s()) for _ in range(8)]
        assert [high for _, high in waits] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, MAX_BACKOFF_S, MAX_BACKOFF_S]
        assert all(low == high / 2 for low, high in waits)
        longest.reset()
        assert longest.next_s() == 0.1

    async def test_openings_are_bounded_and_apart(self):
        gate = OpeningGate()
        times = []
        most = now_open = 0
        release = asyncio.Event()

        async def one():
            nonlocal most, now_open
            async with gate.opening() as opened:
                times.append(asyncio.get_running_loop().time())
                now_open += 1
                most = max(most, now_open)
                await release.wait()
                now_open -= 1
                opened()
                opened()

        tasks = [asyncio.create_task(one()) for _ in range(2 * MAX_OPENING)]
        async with asyncio.timeout(10):
            while len(times) < MAX_OPENING:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            assert len(times) == MAX_OPENING
            release.set()
            await asyncio.gather(*tasks)
        assert most <= MAX_OPENING
        assert times[-1] - times[0] >= 0.001 * (len(times) - 1) * 0.9

    async def test_a_place_comes_back_when_the_opening_fails(self):
        gate = OpeningGate()
        for _ in range(2 * MAX_OPENING):
            with pytest.raises(ZeroDivisionError):
                async with gate.opening():
                    raise ZeroDivisionError
        async with gate.opening():
            pass


class TestHealth:
    def test_it_is_healthy_only_while_every_link_is_up(self):
        clock = Clock(NOW)
        health = Health(clock)
        one, two = health.link("one"), health.link("two")
        assert not health.current.healthy
        one.up()
        assert not health.current.healthy
        clock.now += 5
        two.up()
        assert (health.current.healthy, health.current.since, health.current.detail) == (True, NOW + 5, "")
        clock.now += 5
        one.down(AWAY)
        clock.now += 5
        two.down(AWAY)
        assert (health.current.healthy, health.current.since) == (False, NOW + 10)
        assert "one: " in health.current.detail
        assert "two: " in health.current.detail
