"""The Python and the Rust codec: each verifies what the other signs, and both answer alike to what is nearly right.

The Rust codec is reached through the data plane's binding. It is imported plainly: without it these tests fail.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from custody_answers import answer, sign, unbase64
from custody_codecs import Sign, rust_answer, rust_sign, sealed_by
from custody_mutations import Json, changed_requests, changed_text, load_requests
from hopseal.custody.seal import parse_sealed
from vectors import pki
from vectors.pki import NOW, spiffe
from vectors.scene import (
    DEFAULTS,
    Scene,
    b64,
    b64u,
    digest,
    hop_claims,
    plain_headers,
    random_id,
    root_claims,
    some_hash,
)
from vectors.tokens import AUDIENCE, ISSUERS, obo, rsa_key, token, txn_claims

PATTERNS = {
    "aud": st.sampled_from([spiffe("crm-connector"), spiffe("guard"), "spiffe://prod.example.org/*"]),
    "ops": st.sampled_from(["*", "tools/*", "tools/call crm.lookup", "POST /mcp", "GET *"]),
}
limits = st.fixed_dictionaries(
    {},
    optional={
        "scope": st.sampled_from(["", "read", "read write"]),
        "exp": st.integers(NOW - 1, NOW + 700),
        "hops": st.integers(0, 8),
        "aud": st.lists(PATTERNS["aud"], max_size=2),
        "ops": st.lists(PATTERNS["ops"], max_size=2),
    },
)
texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20)
optional_claims = st.fixed_dictionaries(
    {},
    optional={
        "op": texts,
        "rr": st.booleans(),
        "tid": st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
        "by": st.just("spiffe://prod.example.org/hopseal/broker/node-1"),
        "in": st.lists(texts.map(some_hash), max_size=8),
        "srv": st.sampled_from([b64u(pki.CONNECTOR.x5t_raw), b64u(pki.REASONER.x5t_raw)]),
        "att": limits,
        "apv": st.lists(
            st.builds(
                lambda by: {"typ": "ticket", "id": "CHG-1", "h": some_hash("e"), "by": by, "at": NOW},
                texts,
            ),
            max_size=4,
        ),
    },
)
signers = pytest.mark.parametrize("codec", [sign, rust_sign], ids=["python", "rust"])


@signers
@given(root_limits=limits, hop=optional_claims, size=st.integers(1, 32), data=st.data())
def test_each_verifies_what_the_other_signs(
    codec: Sign, root_limits: Json, hop: Json, size: int, data: st.DataObject
) -> None:
    auth = {"exp": NOW + 600, "hops": 5} | root_limits
    roots = [root_claims(jti=random_id(f"cross {index}"), auth=auth) for index in range(size)]
    chosen = data.draw(st.integers(0, size - 1))
    ancestor = sealed_by(codec, roots, pki.ORCHESTRATOR)[chosen]
    scene = Scene()
    claims = hop_claims(prev=parse_sealed(ancestor).hash, rqb=scene.bind()) | hop
    record = sealed_by(codec, [claims], pki.REASONER)[0]
    given_input = DEFAULTS | scene.input(scene.custody(record=record, chain=[ancestor]))
    outcome = answer({"kind": "receive", "input": given_input})
    assert rust_answer({"kind": "receive", "input": given_input}) == outcome
    assert outcome["result"] == "ok" or outcome["code"] in {"custody_authority", "custody_audience"}


@signers
@pytest.mark.parametrize("size", [1, 2, 3, 31, 32])
def test_every_statement_of_a_batch_verifies_with_both(codec: Sign, size: int) -> None:
    claims = [root_claims(jti=random_id(f"batch {index}")) for index in range(size)]
    for index, text in enumerate(sealed_by(codec, claims, pki.ORCHESTRATOR)):
        request = {"kind": "seal", "input": {"sealed": text, "leaf": b64(pki.ORCHESTRATOR.der)}}
        assert answer(request) == rust_answer(request)
        assert (answer(request)["n"], answer(request)["index"]) == (size, index)


@settings(max_examples=600)
@given(changed_requests(load_requests("receive")))
def test_both_answer_alike_to_a_changed_request(request: Json) -> None:
    assert rust_answer(request) == answer(request)


@settings(max_examples=300)
@given(st.sampled_from(load_requests("seal")), st.data())
def test_both_answer_alike_to_a_changed_seal(request: Json, data: st.DataObject) -> None:
    changed = request["input"] | {"sealed": data.draw(changed_text(request["input"]["sealed"]))}
    assert rust_answer({"kind": "seal", "input": changed}) == answer({"kind": "seal", "input": changed})


@settings(max_examples=600)
@given(st.sampled_from([each["input"]["payload"] for each in load_requests("claims")]), st.data())
def test_both_answer_alike_to_changed_claims(payload: str, data: st.DataObject) -> None:
    raw = bytearray(unbase64(payload))
    at = data.draw(st.integers(0, len(raw) - 1))
    new = data.draw(st.binary(max_size=2) | st.sampled_from([b'"', b"[", b"{", b",", b"\\", b"0", b"-", b".", b" "]))
    raw[at : at + data.draw(st.integers(0, 2))] = new
    request = {"kind": "claims", "input": {"payload": b64(bytes(raw))}}
    assert rust_answer(request) == answer(request)


@given(limits, st.lists(st.none() | limits, max_size=3), st.integers(0, 8))
def test_both_fold_alike(root_limits: Json, atts: list[Json | None], hop: int) -> None:
    given_input = {
        "auth": {"exp": NOW + 600, "hops": 5} | root_limits,
        "atts": atts,
        "hop": hop,
        "now": NOW,
        "own_id": spiffe("crm-connector"),
        "operations": ["tools/call crm.lookup", "POST /mcp"],
    }
    request = {"kind": "folding", "input": given_input}
    assert rust_answer(request) == answer(request)


token_claims = st.fixed_dictionaries(
    {},
    optional={
        "scope": st.sampled_from(["", "read", "read write", "read  write", 7]),
        "exp": st.integers(NOW - 12, NOW + 700),
        "nbf": st.integers(NOW + 8, NOW + 12),
        "iat": st.integers(NOW + 8, NOW + 12),
        "aud": st.sampled_from([AUDIENCE, [AUDIENCE], ["x", AUDIENCE], "x", [], None]),
        "req_wl": st.sampled_from([spiffe("orchestrator"), spiffe("reasoner"), "", None]),
        "cnf": st.sampled_from([{"x5t#S256": b64u(pki.ORCHESTRATOR.x5t_raw)}, {}, "x"]),
        "sub": texts,
        "x": st.recursive(st.none() | st.floats(allow_nan=False) | st.integers() | texts, st.lists, max_leaves=4),
    },
)
signatures = st.sampled_from([("ES256", "es"), ("RS256", "rs"), ("PS256", "rs"), ("EdDSA", "ed"), ("RS256", "es")])


@settings(max_examples=300)
@given(
    claims=token_claims,
    signed=signatures,
    scope=st.sampled_from([None, "", "read", "read write"]),
    atts=st.lists(st.none() | limits, min_size=2, max_size=2),
    said=st.sampled_from([{}, {"sub": "u-2"}, {"typ": "at"}, {"iss": "https://other.example"}]),
)
def test_both_judge_whole_trees_on_a_users_behalf_alike(
    claims: Json, signed: tuple[str, str], scope: str | None, atts: list[Json | None], said: Json
) -> None:
    alg, kid = signed
    whole = {name: value for name, value in txn_claims(**claims).items() if value is not None}
    text = token(whole, alg=alg, kid=kid, key=None if alg != "RS256" or kid == "rs" else rsa_key())
    root_auth = {"exp": NOW + 600, "hops": 5} | ({} if scope is None else {"scope": scope})
    about = {"sub": "u-4711"} | {name: whole[name] for name in ("sub", "exp") if name in whole}
    root = root_claims(obo=obo(text, txn_claims(**about)) | said, auth=root_auth)
    ancestor = sealed_by(rust_sign, [root], pki.ORCHESTRATOR)[0]
    scene = Scene(headers=[*plain_headers(), ["Txn-Token", text]])
    middle = hop_claims(
        prev=parse_sealed(ancestor).hash,
        rqb=some_hash("r"),
        aud=spiffe("reasoner"),
        jti=random_id("middle"),
        **({"att": atts[0]} if atts[0] is not None else {}),
    )
    before = sealed_by(sign, [middle], pki.REASONER)[0]
    newest = hop_claims(
        hop=2,
        prev=parse_sealed(before).hash,
        rqb=scene.bind(),
        **({"att": atts[1]} if atts[1] is not None else {}),
    )
    record = sealed_by(sign, [newest], pki.REASONER)[0]
    given_input = DEFAULTS | {"issuers": ISSUERS} | scene.input(scene.custody(record=record, chain=[ancestor, before]))
    outcome = answer({"kind": "receive", "input": given_input})
    assert rust_answer({"kind": "receive", "input": given_input}) == outcome
    assert outcome["result"] == "ok" or outcome["code"] in {"custody_authority", "custody_malformed"}


@settings(max_examples=300)
@given(st.data())
def test_both_answer_alike_to_a_changed_token(data: st.DataObject) -> None:
    good = token(txn_claims())
    text = data.draw(changed_text(good))
    scene = Scene(root=root_claims(obo=obo(text, txn_claims())), headers=[*plain_headers(), ["Txn-Token", text]])
    request = {"kind": "receive", "input": DEFAULTS | {"issuers": ISSUERS} | scene.input()}
    assert rust_answer(request) == answer(request)


names = st.sampled_from(["Content-Digest", "authorization", "Authorization", "content-type", "content_type", "x"])
values = st.text(alphabet=st.characters(max_codepoint=255), max_size=8) | st.just("sha-256=:AA==:")


@given(st.lists(st.tuples(names, values).map(list), max_size=5), st.binary(max_size=4), st.booleans())
def test_both_bind_alike(headers: list[list[str]], body: bytes, with_digest: bool) -> None:
    lines = [*headers, *([["content-digest", digest(body)]] if with_digest else [])]
    given_input = {"method": "POST", "target_uri": "https://a/", "headers": lines, "body": b64(body)}
    request = {"kind": "binding", "input": given_input}
    assert rust_answer(request) == answer(request)


@given(st.text(alphabet=st.characters(max_codepoint=0x17F), max_size=12) | st.from_regex(r"[A-Za-z0-9_\-]{0,12}"))
def test_both_decode_alike(text: str) -> None:
    request = {"kind": "base64url", "input": {"text": text}}
    assert rust_answer(request) == answer(request)
