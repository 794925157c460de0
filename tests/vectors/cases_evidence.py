"""Vectors of evidence statements: accepted, or treated as absent (§4.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vectors import pki
from vectors.answers import evidence_claims, receipt_claims
from vectors.pki import NOW, spiffe
from vectors.scene import Json, b64, b64u, case, dumps, error

ATTESTOR = "spiffe://prod.example.org/hopseal/attestor/node-1"
ABROAD = "spiffe://partner.example.net/hopseal/attestor/node-1"
EVIDENCE_DEFAULTS: Json = {
    "attestors": {pki.PROD: [ATTESTOR]},
    "sub": spiffe("crm-connector"),
    "leaf": b64(pki.CONNECTOR.der),
    "now": NOW,
}


def evidence_cases() -> Iterator[Json]:
    exp = evidence_claims()["exp"]
    yield _case("current", "everything fits", True)
    yield _case("in its last second", "now < exp", True, now=exp - 1)
    yield _case("expired", "now < exp", False, now=exp)
    yield _case("withdrawn", "the verdict", False, {"verdict": "withdrawn"})
    yield _case("of another component", "sub", False, {"sub": spiffe("shell")})
    yield _case("of another leaf", "sx is the leaf in use", False, {"sx": b64u(pki.SHELL.x5t_raw)})
    yield _case("by nobody configured", "iss", False, {"iss": spiffe("reasoner")})
    yield _case("about itself", "a component does not attest itself", False, {"iss": spiffe("crm-connector")})
    yield _case("no attestor configured", "nothing is accepted", False, attestors={})
    other = {pki.PARTNER: [ATTESTOR]}
    yield _case("configured for another trust domain", "that of sub counts", False, attestors=other)
    foreign = {pki.PROD: [ABROAD]}
    yield _case(
        "attestor of another trust domain", "it must be in that of sub", False, {"iss": ABROAD}, attestors=foreign
    )
    yield _case("with the log's key", "a measurement", True, {"log": {"origin": "o", "vkey": "o+1+A"}})
    given = {"payload": b64(dumps(receipt_claims()))}
    yield case("a receipt", "of another type", given, error("malformed"))


def _case(name: str, why: str, accepted: bool, claims: Json | None = None, **members: Any) -> Json:
    payload = dumps(evidence_claims(**claims or {}))
    return case(name, why, {"payload": b64(payload)} | members, {"result": "ok", "accepted": accepted})
