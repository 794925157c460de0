"""Key sets of issuers, and roots on a user's behalf as the Python sender makes them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from custody_answers import read_issuers
from custody_calls import BODY, BUNDLES, HEADERS, OPERATIONS, TARGET, TASK, Node, begin, call, fresh_id, signer
from hopseal.custody.authority import Authority
from hopseal.custody.behalf import presented_token
from hopseal.custody.binding import Header, bind_request
from hopseal.custody.delegation import Continuation
from hopseal.custody.errors import Code, CustodyError
from hopseal.custody.headers import format_custody_fields
from hopseal.custody.jwks import KeySetError, parse_key_set
from hopseal.custody.receiver import Accepted, Receiver, ReceiverState, Request, verify_request
from hopseal.custody.record import Record
from hopseal.custody.sender import build_root, build_sibling, seal_records
from hopseal.custody.usertoken import UserToken, verify_token
from hopseal.ids import SpiffeId
from vectors import pki, tokens
from vectors.pki import NOW, spiffe
from vectors.tokens import ABSENT, at_claims, token, txn_claims

ISSUERS = read_issuers(tokens.ISSUERS)
READ = Authority(exp=NOW + 200, hops=3, scope=frozenset({"crm.read"}))


def verified(text: str, typ: str = "txn") -> UserToken:
    return verify_token(text, typ, ISSUERS, NOW)


def line(text: str) -> Header:
    return ("Txn-Token", text)


def receive(record: Record, headers: list[Header], **changes: object) -> Accepted:
    text = seal_records([record], signer(pki.ORCHESTRATOR), NOW)[0]
    receiver = Receiver(SpiffeId.parse(spiffe("reasoner")), frozenset(), BUNDLES, lambda _: True, lambda _: True)
    request = Request(
        headers + format_custody_fields(text, (), ()), BODY, "POST", TARGET, OPERATIONS, (pki.ORCHESTRATOR.der,)
    )
    return verify_request(request, replace(receiver, issuers=ISSUERS, **changes), ReceiverState(), NOW)


def bound(text: str) -> dict[str, object]:
    return {"rqb": bind_request("POST", TARGET, [*HEADERS, line(text)], BODY)}


def test_a_root_on_a_users_behalf_is_accepted_and_so_is_its_sibling() -> None:
    text = token(txn_claims())
    made = build_root(
        call("orchestrator", "reasoner", **bound(text)), cid=fresh_id(), task=TASK, auth=READ, token=verified(text)
    )
    accepted = receive(made, [*HEADERS, line(text)])
    assert accepted.behalf is not None
    assert accepted.behalf.verified
    assert (accepted.behalf.obo.sub, accepted.authority.scope) == ("u-4711", {"crm.read"})
    sibling = build_sibling(call("orchestrator", "reasoner", **bound(text)), made)
    again = receive(sibling, [*HEADERS, line(text)])
    assert again.behalf == accepted.behalf


def test_a_root_without_user_has_no_behalf() -> None:
    assert begin("orchestrator", Node("reasoner")).behalf is None


def test_nobody_may_assert_users_or_seal_boundaries_by_default() -> None:
    cont = Continuation(rec="A" * 43, cid="A" * 22, why="boundary")
    made = build_root(call("orchestrator", "reasoner"), cid=fresh_id(), task=TASK, auth=READ, cont=cont)
    with pytest.raises(CustodyError) as caught:
        receive(made, list(HEADERS))
    assert caught.value.code == Code.AUTHORITY
    assert receive(made, list(HEADERS), accept_sealing=lambda _: True).newest.record.cont == cont


@pytest.mark.parametrize(
    ("claims", "authority"),
    [
        ({}, replace(READ, scope=frozenset({"crm.admin"}))),
        ({}, replace(READ, scope=None)),
        ({"req_wl": spiffe("reasoner")}, READ),
    ],
    ids=["scope beyond the token's", "no limit of scope", "token of another workload"],
)
def test_the_sender_refuses_what_no_receiver_would_take(claims: dict[str, str], authority: Authority) -> None:
    with pytest.raises(CustodyError) as caught:
        build_root(
            call("orchestrator", "reasoner"),
            cid=fresh_id(),
            task=TASK,
            auth=authority,
            token=verified(token(txn_claims(**claims))),
        )
    assert caught.value.code == Code.AUTHORITY


def test_a_token_bound_to_a_certificate_is_left_to_the_receiver() -> None:
    claims = txn_claims(req_wl=ABSENT, cnf={"x5t#S256": "A" * 43})
    made = build_root(
        call("orchestrator", "reasoner"), cid=fresh_id(), task=TASK, auth=READ, token=verified(token(claims))
    )
    assert made.obo is not None


def test_no_text_of_a_token_shows_the_token() -> None:
    text = token(at_claims())
    shown = repr(verified(text, "at"))
    assert text not in shown
    assert text.split(".")[2] not in shown


@pytest.mark.parametrize(
    "given",
    [
        None,
        [],
        {},
        {"keys": None},
        {"keys": []},
        {"keys": [{"kty": "oct", "k": "AAAA"}]},
        {"keys": [tokens.jwk("", tokens.ec_key())]},
        {"keys": [tokens.jwk("k" * 257, tokens.ec_key())]},
        {"keys": [tokens.jwk("a", tokens.ec_key()), tokens.jwk("a", tokens.ed_key())]},
        {"keys": [tokens.jwk(None, tokens.ec_key()), tokens.jwk(None, tokens.ed_key())]},
        {"keys": [tokens.jwk("a", tokens.ed_key(), crv="Ed448")]},
        {"keys": [tokens.jwk("a", tokens.ed_key(), x="AA")]},
        {"keys": [tokens.jwk("a", tokens.ec_key(), x="A" * 43)]},
        {"keys": [{"kty": "EC", "crv": "P-256", "x": 7}]},
        {"keys": [tokens.jwk(str(n), tokens.ec_key()) for n in range(65)]},
    ],
)
def test_a_key_set_without_a_usable_key_is_refused(given: object) -> None:
    with pytest.raises(KeySetError) as caught:
        parse_key_set(given)
    assert caught.value.code == "jwks_invalid"


def test_every_usable_key_of_a_set_is_kept() -> None:
    keys = parse_key_set({"keys": [*tokens.key_set()["keys"], {"kty": "oct"}]})
    assert [key.kid for key in keys] == ["es", "rs", "ed"]


def test_a_short_signature_is_a_wrong_one() -> None:
    (key,) = parse_key_set({"keys": [tokens.jwk("a", tokens.ec_key())]})
    assert not key.verifies("ES256", b"text", b"short")


@pytest.mark.parametrize(
    ("headers", "typ", "expected"),
    [
        ([("TXN-Token", " a \t")], "txn", "a"),
        ([("Authorization", "BEARER a")], "at", "a"),
        ([("Authorization", "Bearer")], "at", ""),
        ([("Authorization", "Basic a")], "at", None),
        ([("Authorization", "Bearer a"), ("authorization", "Bearer a")], "at", None),
        ([("Txn-Token", "a")], "at", None),
    ],
)
def test_a_token_is_presented_in_one_line_of_its_own_field(
    headers: list[Header], typ: str, expected: str | None
) -> None:
    assert presented_token(headers, typ) == expected
