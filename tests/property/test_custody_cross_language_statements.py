"""Receipts and other statements: each codec verifies what the other signs, and both answer alike to changed ones."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from custody_answers import answer, sign, unbase64
from custody_codecs import Sign, rust_answer, rust_sign, sealed_by
from custody_mutations import Json, changed_bytes, changed_exchanges, changed_text, load_requests
from custody_strategies import hashes, kids, statements, texts
from hopseal.custody.seal import parse_sealed
from vectors import pki
from vectors.answers import (
    ANSWER,
    CLOSING_DEFAULTS,
    RESPONSE_DEFAULTS,
    answer_headers,
    closing_claims,
    receipt_claims,
    rsb_of,
)
from vectors.scene import b64, b64u, dumps, sha

TYPES = ["rec", "rcp", "obs", "cls", "att"]


signers = pytest.mark.parametrize("codec", [sign, rust_sign], ids=["python", "rust"])


@signers
@given(status=st.integers(100, 999), fin=st.sampled_from(["eof", "abort", "deny"]), kids=kids, dec=texts)
def test_each_verifies_the_receipts_of_the_other(codec: Sign, status: int, fin: str, kids: Json, dec: str) -> None:
    rsb = rsb_of(status, answer_headers())
    text = sealed_by(codec, [receipt_claims(st=status, rsb=rsb, fin=fin, kids=kids, dec=dec)], pki.CONNECTOR)[0]
    headers = [*answer_headers(), ["Custody-Receipt", text]]
    request = {"kind": "receipt_verify", "input": RESPONSE_DEFAULTS | {"status": status, "headers": headers}}
    outcome = answer(request)
    assert rust_answer(request) == outcome
    assert (outcome["fin"], outcome["kids"], outcome["dec"]) == (fin, kids, dec)


@signers
@given(body=st.binary(max_size=40), fin=st.sampled_from(["eof", "abort"]))
def test_each_verifies_the_closing_statements_of_the_other(codec: Sign, body: bytes, fin: str) -> None:
    claims = closing_claims(len=len(body), cd=b64u(sha(body)), fin=fin)
    text = sealed_by(codec, [claims], pki.REASONER)[0]
    given_input = CLOSING_DEFAULTS | {"body": b64(body), "trailers": [["Custody-Close", text]]}
    request = {"kind": "closing_verify", "input": given_input}
    assert rust_answer(request) == answer(request)
    assert answer(request)["fin"] == fin


@given(st.lists(statements, min_size=1, max_size=32))
def test_both_write_the_same_claims_into_a_seal(claims: list[Json]) -> None:
    party = pki.CONNECTOR
    python, rust = (sealed_by(codec, claims, party) for codec in (sign, rust_sign))
    assert [parse_sealed(text).claims for text in python] == [dumps(each) for each in claims]
    assert [parse_sealed(text).claims for text in rust] == [dumps(each) for each in claims]


@settings(max_examples=600)
@given(changed_exchanges(load_requests("receipt_verify") + load_requests("closing_verify")))
def test_both_answer_alike_to_a_changed_exchange(request: Json) -> None:
    assert rust_answer(request) == answer(request)


@settings(max_examples=800)
@given(
    st.sampled_from([unbase64(each["input"]["payload"]) for each in load_requests("statement")]).flatmap(changed_bytes),
    st.lists(st.sampled_from(TYPES), min_size=1, unique=True) | st.just(TYPES),
)
def test_both_answer_alike_to_changed_claims(payload: bytes, types: list[str]) -> None:
    request = {"kind": "statement", "input": {"payload": b64(payload), "types": types}}
    assert rust_answer(request) == answer(request)


@given(st.lists(hashes, max_size=40))
def test_both_count_receipts_alike(listed: list[str]) -> None:
    request = {"kind": "kids", "input": {"hashes": listed}}
    assert rust_answer(request) == answer(request)


@given(
    st.integers(100, 999),
    st.lists(
        st.tuples(
            st.sampled_from(
                ["Content-Digest", "content-type", "Content-Type", "content-encoding", "content_type", "x"]
            ),
            st.text(alphabet=st.characters(max_codepoint=255), max_size=8),
        ).map(list),
        max_size=5,
    ),
)
def test_both_bind_responses_alike(status: int, headers: list[list[str]]) -> None:
    request = {"kind": "response_binding", "input": {"status": status, "headers": headers}}
    assert rust_answer(request) == answer(request)


@given(st.sampled_from([unbase64(each["input"]["body"]) for each in load_requests("sse")]).flatmap(changed_bytes))
def test_both_end_event_streams_alike(body: bytes) -> None:
    request = {"kind": "sse", "input": {"body": b64(body)}}
    assert rust_answer(request) == answer(request)


@given(st.sampled_from(load_requests("evidence")), st.integers(-400, 400))
def test_both_judge_evidence_alike(request: Json, later: int) -> None:
    moved = request | {"input": request["input"] | {"now": request["input"]["now"] + later}}
    assert rust_answer(moved) == answer(moved)


@given(st.data())
def test_both_answer_alike_to_a_changed_receipt(data: st.DataObject) -> None:
    text = sealed_by(sign, [receipt_claims()], pki.CONNECTOR)[0]
    changed = data.draw(changed_text(text))
    request = {"kind": "receipt_verify", "input": RESPONSE_DEFAULTS | {"headers": answer_headers(), "comment": changed}}
    assert len(ANSWER) == receipt_claims()["len"]
    assert rust_answer(request) == answer(request)
