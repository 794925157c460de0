"""SPIFFE IDs and trust domains: every character in every position, and every bound on both sides."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopseal.ids import MAX_SPIFFE_ID_BYTES, MAX_TRUST_DOMAIN_BYTES, IdentityError, SpiffeId, TrustDomain

TRUST_DOMAIN_CHARACTERS = set(string.ascii_lowercase + string.digits + "._-")
SEGMENT_CHARACTERS = TRUST_DOMAIN_CHARACTERS | set(string.ascii_uppercase)
EVERY_CHARACTER = [*map(chr, range(256)), "\u0131", "\u212a", "\u2028", "\uff0e", "\udc80", "\U0001f511"]
LONGEST_ID = "spiffe://td/" + "p" * (MAX_SPIFFE_ID_BYTES - len("spiffe://td/"))


@pytest.mark.parametrize("template", ["{}ab", "a{}b", "ab{}", "{}"])
def test_a_trust_domain_has_these_characters_and_no_others(template):
    taken = {character for character in EVERY_CHARACTER if is_taken(TrustDomain, template.format(character))}
    assert taken == TRUST_DOMAIN_CHARACTERS


@pytest.mark.parametrize("template", ["{}ab/c", "a{}b/c", "ab{}/c", "ab/c{}d/e", "ab/{}cd/e", "ab/cd/e{}", "ab/cd{}/e"])
def test_a_path_has_these_characters_and_no_others(template):
    taken = {
        character for character in EVERY_CHARACTER if is_taken(SpiffeId, f"spiffe://td/{template.format(character)}")
    }
    # A slash is taken where it begins another segment and refused where it makes an empty one.
    assert taken - {"/"} == SEGMENT_CHARACTERS
    assert ("/" in taken) == (template in {"a{}b/c", "ab/c{}d/e"})


@pytest.mark.parametrize("template", ["spiffe://t{}d/a", "spiffe://{}td/a", "spiffe://td{}/a"])
def test_the_trust_domain_of_an_id_has_these_characters_and_no_others(template):
    taken = {character for character in EVERY_CHARACTER if is_taken(SpiffeId, template.format(character))}
    assert taken - {"/"} == TRUST_DOMAIN_CHARACTERS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://",
        "spiffe:///a",
        "spiffe://td",
        "spiffe://td/",
        "spiffe://td//a",
        "spiffe://td/a/",
        "spiffe://td/a//b",
        "spiffe://td/.",
        "spiffe://td/..",
        "spiffe://td/a/./b",
        "spiffe://td/a/../b",
        "SPIFFE://td/a",
        "spiffe:/td/a",
        "http://td/a",
        " spiffe://td/a",
        "spiffe://td/a\n",
        "spiffe://td:443/a",
        "spiffe://user@td/a",
        "spiffe://td/a?b",
        "spiffe://td/a#b",
        "spiffe://td/%61",
    ],
)
def test_what_is_no_workloads_spiffe_id_is_refused(text):
    assert not is_taken(SpiffeId, text)


@pytest.mark.parametrize(
    "text", ["spiffe://td/a", "spiffe://td/...", "spiffe://td/.a/b..c", "spiffe://_-./A", LONGEST_ID]
)
def test_a_spiffe_id_is_written_as_it_was_read(text):
    assert str(SpiffeId.parse(text)) == text


@pytest.mark.parametrize(
    ("kind", "longest"), [(TrustDomain, "d" * MAX_TRUST_DOMAIN_BYTES), (SpiffeId, LONGEST_ID)], ids=["domain", "id"]
)
def test_a_name_is_as_long_as_its_bound_and_no_longer(kind, longest):
    assert is_taken(kind, longest)
    with pytest.raises(IdentityError, match="longer than"):
        kind.parse(longest + "x")


def test_an_id_never_equals_its_text():
    assert SpiffeId.parse("spiffe://td/a") != "spiffe://td/a"
    assert TrustDomain.parse("td") != "td"


@given(st.text() | st.text("spife:/td.A\n%", max_size=20).map("spiffe://td/".__add__))
def test_any_text_is_an_id_written_the_same_way_or_an_identity_error(text):
    try:
        found = SpiffeId.parse(text)
    except IdentityError:
        return
    assert str(found) == text
    assert found.path.startswith("/")


def is_taken(kind: type[SpiffeId | TrustDomain], text: str) -> bool:
    try:
        kind.parse(text)
    except IdentityError:
        return False
    return True
