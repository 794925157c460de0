"""Bounds of what a receiver remembers."""

from __future__ import annotations

import pytest

from hopseal.custody.cache import BoundedCache, ReplayStore, RootIssuers
from hopseal.custody.certs import CertificateCache, KnownCertificates
from hopseal.custody.errors import Code, CustodyError
from hopseal.custody.seal import thumbprint
from hopseal.ids import SpiffeId
from hopseal.limits import CHAIN_AGE_S, CLOCK_SKEW_S
from hopseal.verify import parse_certificate, subject_name
from vectors import pki
from vectors.pki import NOW, spiffe

ISS = SpiffeId.parse(spiffe("orchestrator"))
OTHER = SpiffeId.parse(spiffe("shell"))


def test_a_full_cache_forgets_what_was_used_longest_ago() -> None:
    cache: BoundedCache[int, str] = BoundedCache(entries=3, per_owner=3)
    for key in range(3):
        assert cache.put(key, f"value {key}", "peer") == []
    assert cache.get(0) == "value 0"
    other_owner = cache.put(3, "value 3", "another peer")
    assert other_owner == ["value 1"]
    assert [cache.get(key) for key in range(4)] == ["value 0", None, "value 2", "value 3"]


def test_a_peer_above_its_share_displaces_only_its_own_entries() -> None:
    cache: BoundedCache[int, str] = BoundedCache(entries=10, per_owner=2)
    cache.put(0, "kept", "quiet")
    for key in range(1, 50):
        cache.put(key, "flood", "loud")
    assert cache.get(0) == "kept"
    assert len(cache) == 3


def test_a_share_of_one_entry_is_replaced() -> None:
    cache: BoundedCache[int, str] = BoundedCache(entries=10, per_owner=1)
    cache.put(1, "a", "peer")
    assert cache.put(2, "b", "peer") == ["a"]
    assert cache.put(2, "c", "peer") == []
    assert (cache.get(2), len(cache)) == ("c", 1)


def test_a_peer_cannot_take_over_an_entry_to_displace_it() -> None:
    cache: BoundedCache[int, str] = BoundedCache(entries=10, per_owner=2)
    cache.put(0, "kept", "quiet")
    for key in (0, 1, 2, 3):
        cache.put(key, "kept", "loud")
    assert cache.get(0) == "kept"


def test_storing_again_counts_as_use() -> None:
    cache: BoundedCache[int, str] = BoundedCache(entries=2, per_owner=2)
    for key in (0, 1, 0):
        cache.put(key, "value", "peer")
    cache.put(2, "value", "another peer")
    assert [cache.get(key) for key in range(3)] == ["value", None, "value"]


def test_a_peer_without_entries_takes_no_memory() -> None:
    cache: BoundedCache[int, str] = BoundedCache(entries=2, per_owner=2)
    for key in range(100):
        cache.put(key, "value", f"peer {key}")
    assert len(cache._owned) == 2


def test_entries_can_be_forgotten_by_condition() -> None:
    cache: BoundedCache[int, str] = BoundedCache(entries=10, per_owner=10)
    for key in range(4):
        cache.put(key, "odd" if key % 2 else "even", "peer")
    cache.discard_if(lambda value: value == "odd")
    assert [cache.get(key) for key in range(4)] == ["even", None, "even", None]
    assert cache.discard(1) is None


def test_a_record_is_used_once_until_it_expires() -> None:
    store = ReplayStore()
    store.use(ISS, "jti", expires_at=NOW + 10, now=NOW)
    with pytest.raises(CustodyError) as refused:
        store.use(ISS, "jti", expires_at=NOW + 10, now=NOW + 9)
    assert refused.value.code == Code.REPLAYED
    store.use(ISS, "jti", expires_at=NOW + 20, now=NOW + 10)
    store.use(OTHER, "jti", expires_at=NOW + 20, now=NOW + 10)
    assert len(store) == 2


def test_a_full_replay_store_refuses_and_forgets_nothing() -> None:
    store = ReplayStore(capacity=2)
    store.use(ISS, "a", expires_at=NOW + 5, now=NOW)
    store.use(ISS, "b", expires_at=NOW + 9, now=NOW)
    with pytest.raises(CustodyError) as refused:
        store.use(ISS, "c", expires_at=NOW + 9, now=NOW + 4)
    assert refused.value.code == Code.UNAVAILABLE
    with pytest.raises(CustodyError) as again:
        store.use(ISS, "a", expires_at=NOW + 5, now=NOW + 4)
    assert again.value.code == Code.REPLAYED
    store.use(ISS, "c", expires_at=NOW + 9, now=NOW + 5)


def test_a_chain_keeps_its_first_issuer_until_no_root_of_it_can_be_accepted() -> None:
    roots = RootIssuers()
    roots.remember("cid", ISS, NOW)
    roots.check("cid", ISS, NOW)
    roots.check("another cid", OTHER, NOW)
    until = NOW + CHAIN_AGE_S + 2 * CLOCK_SKEW_S
    with pytest.raises(CustodyError) as refused:
        roots.check("cid", OTHER, until - 1)
    assert refused.value.code == Code.CHAIN
    roots.check("cid", OTHER, until)


def test_too_many_chains_at_once_are_refused_until_old_ones_end() -> None:
    roots = RootIssuers(capacity=2)
    roots.remember("a", ISS, NOW)
    roots.remember("b", ISS, NOW + 1)
    roots.remember("a", ISS, NOW + 2)
    with pytest.raises(CustodyError) as refused:
        roots.remember("c", ISS, NOW + 2)
    assert refused.value.code == Code.UNAVAILABLE
    roots.remember("c", ISS, NOW + 1 + CHAIN_AGE_S + 2 * CLOCK_SKEW_S)


def test_certificates_are_found_by_thumbprint_and_by_subject() -> None:
    cache = CertificateCache()
    cache.add(pki.PROD_CA.der, "peer")
    cache.add(pki.PROD_CA.der, "another peer")
    certificate = parse_certificate(pki.PROD_CA.der)
    assert len(cache) == 1
    assert cache.get(thumbprint(pki.PROD_CA.der)) == pki.PROD_CA.der
    assert cache.named(subject_name(certificate)) == (certificate,)
    assert cache.named(b"nobody") == ()


def test_a_forgotten_certificate_is_found_by_nothing() -> None:
    cache = CertificateCache(entries=10, per_peer=2)
    ders = [pki.ORCHESTRATOR.der, pki.REASONER.der, b"no certificate", b"none either", pki.PROD_CA.der]
    for der in ders:
        cache.add(der, "peer")
    leaves = subject_name(parse_certificate(pki.REASONER.der))
    assert [cache.get(thumbprint(der)) for der in ders] == [None, None, None, *ders[3:]]
    assert cache.named(leaves) == ()
    assert len(cache._by_subject) == 1


def test_one_of_several_certificates_of_a_subject_can_go() -> None:
    cache = CertificateCache(entries=2, per_peer=2)
    for party in (pki.ORCHESTRATOR, pki.REASONER, pki.CONNECTOR):
        cache.add(party.der, "peer")
    same_subject = subject_name(parse_certificate(pki.REASONER.der))
    assert [each.serial_number for each in cache.named(same_subject)] == [
        parse_certificate(party.der).serial_number for party in (pki.REASONER, pki.CONNECTOR)
    ]


def test_a_certificate_given_and_cached_is_offered_once() -> None:
    cache = CertificateCache()
    cache.add(pki.PROD_CA.der, "peer")
    known = KnownCertificates([pki.PROD_CA.der, b"no certificate"], cache)
    assert len(known.named(subject_name(parse_certificate(pki.PROD_CA.der)))) == 1
    assert known.get(thumbprint(b"no certificate")) == b"no certificate"
