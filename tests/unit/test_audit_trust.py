"""Trust policies, and which logged bundles were current at a moment."""

from __future__ import annotations

import json

import pytest

from audit_scene import pem_of, trust_file
from hopseal.bundle import Bundle
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.log.audit.trust import (
    MAX_TRUST_BYTES,
    REFRESH_S,
    LoggedBundle,
    TrustError,
    TrustHistory,
    TrustPolicy,
    parse_trust,
)
from vectors import pki
from vectors.pki import NOW

PROD = TrustDomain.parse(pki.PROD)
PARTNER = TrustDomain.parse(pki.PARTNER)
ATTESTOR = f"spiffe://{pki.PROD}/hopseal/attestor/a"


def logged(origin: str, index: int, at: int, *ders: bytes, trust_domain: TrustDomain = PROD) -> LoggedBundle:
    return LoggedBundle(origin, index, at, Bundle(trust_domain, ders))


def read(document: object) -> TrustPolicy:
    return parse_trust(json.dumps(document).encode())


def test_without_a_trust_policy_every_domains_logged_bundles_count() -> None:
    trust = TrustPolicy().get(PROD)
    assert trust is not None
    assert (trust.pinned, trust.attestors) == (None, frozenset())


def test_a_policy_pins_authorities_and_names_attestors() -> None:
    pem = pem_of(pki.PROD_CA) + pem_of(pki.PARTNER_CA)
    trust = read(trust_file(bundles="pinned", pem=pem, attestors=[ATTESTOR])).get(PROD)
    assert trust is not None
    assert trust.pinned == Bundle(PROD, (pki.PROD_CA.der, pki.PARTNER_CA.der))
    assert trust.attestors == {SpiffeId.parse(ATTESTOR)}


@pytest.mark.parametrize(("others", "accepted"), [("logged", True), ("refuse", False)])
def test_other_domains_are_accepted_or_refused(others: str, accepted: bool) -> None:
    history = TrustHistory([], read(trust_file(others=others, bundles="logged")))
    assert history.is_accepted(PROD)
    assert history.is_accepted(PARTNER) == accepted
    assert history.attestors(PARTNER) == frozenset()
    assert history.views(PARTNER, NOW, ()) == ()


@pytest.mark.parametrize(
    "document",
    [
        {},
        trust_file(bundles="logged") | {"v": 2},
        trust_file(bundles="logged") | {"type": "trust"},
        trust_file(bundles="logged") | {"more": 1},
        trust_file(bundles="logged", others="accept"),
        trust_file(bundles="somewhere"),
        trust_file(bundles="pinned"),
        trust_file(bundles="logged", pem="x"),
        trust_file(bundles="pinned", pem="no certificate"),
        trust_file(bundles="logged", more=1),
        trust_file(bundles="logged", attestors=["spiffe://elsewhere.example/a"]),
        trust_file(bundles="logged", attestors="x"),
        trust_file("Not A Domain", bundles="logged"),
        trust_file() | {"trust_domains": []},
    ],
)
def test_a_wrong_policy_is_refused(document: object) -> None:
    with pytest.raises(TrustError) as caught:
        read(document)
    assert caught.value.code == "trust_invalid"


def test_a_policy_that_is_too_long_is_refused() -> None:
    with pytest.raises(TrustError, match="longer"):
        parse_trust(b" " * (MAX_TRUST_BYTES + 1))


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (NOW - REFRESH_S - 1, ()),
        (NOW - REFRESH_S, (b"one",)),
        (NOW, (b"one",)),
        (NOW + 700, (b"one", b"two")),
        (NOW + 1_009, (b"one", b"two")),
        (NOW + 1_010, (b"two",)),
        (NOW + 9_999, (b"two",)),
    ],
)
def test_a_bundle_counts_from_soon_before_it_was_witnessed_until_the_next_was(at: int, expected: tuple[bytes]) -> None:
    history = TrustHistory([logged("a", 9, NOW + 1_000, b"two"), logged("a", 1, NOW, b"one")], TrustPolicy())
    assert [view.ders for view in history.views(PROD, at, ["a"])] == [expected]


def test_each_log_that_holds_the_statement_is_asked_by_itself() -> None:
    history = TrustHistory([logged("a", 1, NOW, b"one"), logged("b", 1, NOW, b"two")], TrustPolicy())
    assert [(view.source, view.ders) for view in history.views(PROD, NOW, ["b", "c"])] == [("b", (b"two",))]
    assert [view.source for view in history.views(PROD, NOW, ["a", "b"])] == ["a", "b"]


def test_without_a_log_that_holds_both_every_log_is_asked() -> None:
    history = TrustHistory([logged("a", 1, NOW, b"one"), logged("b", 1, NOW, b"two")], TrustPolicy())
    assert [view.source for view in history.views(PROD, NOW, [])] == ["a", "b"]


def test_pinned_authorities_are_all_that_is_asked() -> None:
    history = TrustHistory([logged("a", 1, NOW, b"one")], read(trust_file(bundles="pinned", pem=pem_of(pki.PROD_CA))))
    assert [(view.source, view.ders) for view in history.views(PROD, NOW, ["a"])] == [("pinned", (pki.PROD_CA.der,))]
