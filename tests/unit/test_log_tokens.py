"""User tokens that a log kept, against the roots that name them."""

from __future__ import annotations

import pytest

from hopseal.custody.errors import Code, CustodyError
from hopseal.custody.record import SealedRecord, parse_sealed_record
from hopseal.log.entries import TokenEntry
from hopseal.log.tokens import check_token
from vectors import pki
from vectors.pki import NOW, spiffe
from vectors.scene import ABSENT, b64u, dumps, root_claims, seal
from vectors.tokens import at_claims, obo, token, txn_claims

AUTH = {"exp": NOW + 250, "hops": 7, "scope": "crm.read"}


def root(claims: dict, **said: object) -> SealedRecord:
    made = root_claims(obo=obo(token(claims), claims, **said), auth=AUTH)
    return parse_sealed_record(seal([dumps(made)], pki.ORCHESTRATOR)[0].text)


def entry(claims: dict, workload: str | None = None) -> TokenEntry:
    return TokenEntry(0, 0, "A" * 43, claims, workload)


ACTOR = {"client_id": ABSENT, "act": {"sub": spiffe("orchestrator")}}
BOUND = {"req_wl": ABSENT, "cnf": {"x5t#S256": b64u(pki.ORCHESTRATOR.x5t_raw)}}


@pytest.mark.parametrize(
    ("claims", "workload"),
    [
        (txn_claims(), None),
        (txn_claims(**BOUND), None),
        (at_claims(), None),
        (at_claims(**ACTOR), None),
        (at_claims(client_id="crm-1"), spiffe("orchestrator")),
    ],
)
def test_a_token_that_says_what_the_root_says_fits(claims: dict, workload: str | None) -> None:
    made = root(claims)
    assert made.record.obo is not None
    check_token(made, made.record.obo, entry(claims, workload))


@pytest.mark.parametrize(
    ("claims", "changes", "workload", "detail"),
    [
        (txn_claims(), {"iss": "https://other"}, None, "obo.iss"),
        (txn_claims(), {"sub": "u-1"}, None, "obo.sub"),
        (txn_claims(), {"exp": NOW}, None, "obo.exp"),
        (txn_claims(), {"txn": "t-2"}, None, "obo.txn"),
        (txn_claims(), {"scope": "crm.write"}, None, "auth.scope"),
        (txn_claims(), {"req_wl": spiffe("reasoner")}, spiffe("orchestrator"), "not issued to"),
        (txn_claims(**BOUND), {"cnf": {"x5t#S256": "A" * 43}}, None, "not issued to"),
        (at_claims(), {"client_id": spiffe("reasoner")}, spiffe("orchestrator"), "not issued to"),
        (at_claims(client_id="crm-1"), {}, spiffe("reasoner"), "not issued to"),
        (at_claims(client_id="crm-1"), {}, None, "not issued to"),
        (at_claims(), {"client_id": "x", "act": "y"}, None, "not issued to"),
    ],
)
def test_a_token_that_says_something_else_does_not(
    claims: dict, changes: dict, workload: str | None, detail: str
) -> None:
    made = root(claims)
    assert made.record.obo is not None
    with pytest.raises(CustodyError) as caught:
        check_token(made, made.record.obo, entry(claims | changes, workload))
    assert caught.value.code == Code.AUTHORITY
    assert detail in caught.value.detail
