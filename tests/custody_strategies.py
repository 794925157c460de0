"""Hypothesis strategies of statements of every type, as claims in the order in which they are written."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from vectors.answers import closing_claims, evidence_claims, kids_tree, observation_claims, receipt_claims
from vectors.pki import spiffe
from vectors.scene import hop_claims, random_id, some_hash

Json = dict[str, Any]
ORDER = [
    "v",
    "t",
    "iss",
    "aud",
    "iat",
    "jti",
    "cid",
    "rec",
    "st",
    "rsb",
    "len",
    "cd",
    "fin",
    "kids",
    "dec",
    "host",
    "spki",
]

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
hashes = texts.map(some_hash)
ids = texts.map(random_id)
components = st.sampled_from(["crm-connector", "reasoner", "a"]).map(spiffe)
times = st.integers(0, 2**53 - 1)
kids = st.lists(hashes, max_size=8) | st.lists(hashes, min_size=9, max_size=20).map(kids_tree)
_outcome = {
    "iss": components,
    "aud": components,
    "iat": times,
    "jti": ids,
    "cid": ids,
    "rec": hashes,
    "st": st.integers(100, 999),
    "rsb": hashes,
    "len": times,
    "cd": hashes,
    "fin": st.sampled_from(["eof", "abort", "deny"]),
    "kids": kids,
}


def _ordered(claims: Json) -> Json:
    return {name: claims[name] for name in ORDER if name in claims}


receipts = st.fixed_dictionaries(_outcome, optional={"dec": texts}).map(lambda claims: receipt_claims(**claims))
observations = st.builds(
    lambda claims, host, own: _ordered(observation_claims(**claims) | {"aud": own, "iss": own, "host": host}),
    st.fixed_dictionaries(_outcome, optional={"dec": texts}),
    st.sampled_from(["api.example.com", "[::1]:8443", "10.0.0.1"]),
    components,
)
closings = st.fixed_dictionaries(
    {name: _outcome[name] for name in ("iss", "aud", "iat", "jti", "cid", "rec", "cd", "len")}
    | {"fin": st.sampled_from(["eof", "abort"])}
).map(lambda claims: closing_claims(**claims))
evidence = st.builds(
    lambda iat, exp, verdict, log: evidence_claims(iat=iat, exp=exp, verdict=verdict, **log),
    times,
    times,
    st.sampled_from(["attested", "withdrawn"]),
    st.just({}) | texts.filter(bool).map(lambda origin: {"log": {"origin": origin, "vkey": f"{origin}+1+AQ"}}),
)
records = st.builds(
    lambda prev, rqb, op, rr: hop_claims(prev=prev, rqb=rqb, **op, **rr),
    hashes,
    hashes,
    st.fixed_dictionaries({}, optional={"op": texts}),
    st.fixed_dictionaries({}, optional={"rr": st.booleans()}),
)
statements = receipts | observations | closings | evidence | records
