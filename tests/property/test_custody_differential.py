"""Well-sealed lies: exchanges and chains whose signatures hold and whose contents may not, judged by both codecs.

Changed bytes mostly stop at the parser or the signature. Here every statement is sealed anew after it was changed, so
that the rules behind them are compared too.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from broker import _dataplane
from custody_answers import answer
from custody_mutations import Json
from vectors import pki
from vectors.answers import (
    ANSWER,
    CLOSING_DEFAULTS,
    REQUEST,
    REQUEST_WITHOUT_RR,
    RESPONSE_DEFAULTS,
    STREAM,
    answer_headers,
    cert_field,
    closing_claims,
    receipt_claims,
    rsb_of,
)
from vectors.chains import build_chain
from vectors.pki import NOW, PARTNER, Party, spiffe
from vectors.scene import BODY, DEFAULTS, Scene, b64, b64u, dumps, random_id, seal, sha, some_hash, twin, with_prefix

EXPIRED = pki.svid(spiffe("crm-connector"), seed="expired", valid_from=NOW - 7200, valid_until=NOW - 3600)
STRANGER = pki.svid(spiffe("crm-connector"), "partner CA", seed="minted by a partner")
SERVERS = [pki.CONNECTOR, pki.CONNECTOR_BEFORE, EXPIRED, STRANGER, pki.SHELL, pki.GATEWAY]
CLIENTS = [pki.REASONER, pki.ORCHESTRATOR, pki.SHELL, pki.GATEWAY]
IDS = st.sampled_from([spiffe("crm-connector"), spiffe("reasoner"), spiffe("shell"), spiffe("gateway", PARTNER)])
TIMES = st.integers(NOW - 15, NOW + 15)

# Claims that are right most of the time: a lie that comes alone is the one that a missing check lets through.
RECEIPT_LIES: dict[str, st.SearchStrategy[Any]] = {
    "iss": IDS,
    "aud": IDS,
    "iat": TIMES,
    "cid": st.just(random_id("another chain")),
    "rec": st.sampled_from([REQUEST.hash, REQUEST_WITHOUT_RR.hash, STREAM.hash]),
    "st": st.sampled_from([200, 201, 500]),
    "rsb": st.sampled_from([rsb_of(200, []), rsb_of(201, answer_headers())]),
    "len": st.sampled_from([0, len(ANSWER), len(ANSWER) + 1]),
    "cd": st.sampled_from([b64u(sha(b"")), some_hash("another body")]),
    "fin": st.sampled_from(["abort", "deny"]),
    "t": st.sampled_from(["obs", "rec", "cls"]),
}
CLOSING_LIES: dict[str, st.SearchStrategy[Any]] = {
    "iss": IDS,
    "aud": IDS,
    "iat": TIMES,
    "cid": st.just(random_id("another chain")),
    "rec": st.sampled_from([REQUEST.hash, STREAM.hash]),
    "len": st.sampled_from([0, len(BODY) - 1]),
    "cd": st.sampled_from([b64u(sha(b"")), some_hash("another body")]),
    "fin": st.sampled_from(["abort", "deny"]),
    "t": st.just("rcp"),
}


def both(kind: str, given_input: Json) -> Json:
    """The one answer of both codecs."""
    request = {"kind": kind, "input": given_input}
    python, rust = answer(request), json.loads(_dataplane.custody_verify(json.dumps(request)))
    assert rust == python
    return python


@st.composite
def changes(draw: st.DrawFn, lies: dict[str, st.SearchStrategy[Any]]) -> Json:
    names = draw(st.lists(st.sampled_from(sorted(lies)), max_size=2, unique=True))
    return {name: draw(lies[name]) for name in names}


def mostly(right: Party, others: list[Party]) -> st.SearchStrategy[Party]:
    return st.integers(0, 3).flatmap(lambda chance: st.sampled_from(others) if chance == 0 else st.just(right))


def sealed_among(claims: list[bytes], signer: Party, at: int) -> str:
    return seal(claims, signer)[at].text


@settings(max_examples=500)
@given(st.data())
def test_both_judge_well_sealed_receipts_alike(data: st.DataObject) -> None:
    lies = data.draw(changes(RECEIPT_LIES))
    signer = data.draw(mostly(pki.CONNECTOR, SERVERS))
    batch = data.draw(st.integers(1, 4))
    at = data.draw(st.integers(0, batch - 1))
    others = [dumps(receipt_claims(jti=random_id(str(number)))) for number in range(batch)]
    text = sealed_among([*others[:at], dumps(receipt_claims(**lies)), *others[at + 1 :]], signer, at)
    connected = data.draw(mostly(signer, [pki.CONNECTOR, pki.CONNECTOR_BEFORE, pki.SHELL]))
    listed = data.draw(st.lists(st.sampled_from(SERVERS), max_size=2, unique=True))
    place = data.draw(st.sampled_from(["headers", "trailers", "comment"]))
    field = ["custody-receipt", text]
    given_input = RESPONSE_DEFAULTS | {
        "record": data.draw(st.sampled_from([REQUEST, REQUEST, REQUEST_WITHOUT_RR])).text,
        "headers": answer_headers() + ([field] if place == "headers" else []),
        "trailers": ([field] if place == "trailers" else []) + ([cert_field(*listed)] if listed else []),
        "comment": text if place == "comment" else None,
        "tls_server": [b64(connected.der)],
        "now": data.draw(st.sampled_from([NOW, NOW, NOW + 60, NOW - 20])),
        "state": {"certs": data.draw(st.sampled_from([[], [b64(signer.der)]]))},
    }
    verdict = both("receipt_verify", given_input)
    if verdict["result"] == "ok":
        assert lies.keys() <= {"fin", "iat", "rec", "len", "iss", "aud", "st"}
        assert signer in (pki.CONNECTOR, pki.CONNECTOR_BEFORE)


@settings(max_examples=300)
@given(st.data())
def test_both_judge_well_sealed_closing_statements_alike(data: st.DataObject) -> None:
    lies = data.draw(changes(CLOSING_LIES))
    signer = data.draw(mostly(pki.REASONER, CLIENTS))
    text = seal([dumps(closing_claims(**lies))], signer)[0].text
    connected = data.draw(mostly(signer, CLIENTS))
    listed = data.draw(st.lists(st.sampled_from(CLIENTS), max_size=2, unique=True))
    given_input = CLOSING_DEFAULTS | {
        "trailers": [["Custody-Close", text], *([cert_field(*listed)] if listed else [])],
        "tls_peer": data.draw(st.sampled_from([[b64(connected.der)]] * 4 + [[]])),
        "now": data.draw(st.sampled_from([NOW, NOW, NOW + 60, NOW - 20])),
    }
    verdict = both("closing_verify", given_input)
    if verdict["result"] == "ok":
        assert signer is pki.REASONER


@settings(max_examples=400)
@given(st.data())
def test_both_put_the_same_ancestors_in_front(data: st.DataObject) -> None:
    """Any part of a chain inline, any held, any certificate along: both accept, refuse and ask for the same."""
    length = data.draw(st.integers(2, 6))
    texts, facts = build_chain(length)
    ancestors = texts[:-1]
    inline = [text for text in ancestors if data.draw(st.booleans())]
    first_held = data.draw(st.integers(0, len(ancestors)))
    held = [twin(text) if data.draw(st.integers(0, 4)) == 0 else text for text in ancestors[first_held:]]
    certs = data.draw(st.sampled_from([[], [pki.ORCHESTRATOR], [pki.ORCHESTRATOR, pki.REASONER]]))
    known = data.draw(st.sampled_from([[], [b64(pki.ORCHESTRATOR.der)]]))
    scene = Scene(certs=certs)
    given_input = (
        DEFAULTS
        | scene.input(scene.custody(record=texts[-1], chain=inline))
        | {"state": with_prefix(held) | {"certs": known}}
    )
    verdict = both("receive", given_input)
    if verdict["result"] == "ok":
        assert verdict == facts
        assert inline == ancestors[len(ancestors) - len(inline) :]
    elif not inline and first_held == 0:
        raise AssertionError("a chain that is held whole was refused")
