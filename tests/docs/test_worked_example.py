"""docs/custody-worked-example.md holds what its keys make, and the Python codec makes the same of them."""

from __future__ import annotations

import json
from pathlib import Path

import jwt
import pytest

from custody_answers import answer
from hopseal.custody.encoding import encode_b64url, sha256
from hopseal.custody.merkle import build_tree, hash_leaf
from hopseal.custody.seal import Signer, parse_sealed, seal_statements
from hopseal.custody.statement import encode_statement, parse_statement
from vectors.answers import RESPONSE_DEFAULTS
from vectors.scene import DEFAULTS, b64, dumps
from vectors.worked_example import HOP, MADE, PARTIES, RECEIPT, ROOT, Made, companion, page

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "custody-worked-example.md").read_text(encoding="utf-8")
COMPANION = json.loads((DOCS / "custody-worked-example.json").read_text(encoding="ascii"))
each = pytest.mark.parametrize("made", MADE, ids=lambda made: made.name)


def test_the_page_is_what_its_generator_writes() -> None:
    assert page() == PAGE


def test_the_file_for_programs_is_what_its_generator_writes() -> None:
    assert json.loads(companion()) == COMPANION


@each
def test_the_codec_writes_the_claims_that_are_printed(made: Made) -> None:
    payload = encode_statement(parse_statement(dumps(made.claims)))
    assert f"```json\n{payload.decode()}\n```" in PAGE


@each
def test_the_codec_seals_a_statement_as_printed(made: Made) -> None:
    signer = PARTIES[made.signer]
    payloads = [dumps(made.claims)]
    if made is RECEIPT:
        payloads.append(dumps(made.claims | {"jti": encode_b64url(sha256(b"id the receipt of another call")[:16])}))
    text = seal_statements(payloads, Signer(signer.der, signer.key, deterministic=True))[0]
    assert f"\n    {text}\n" in PAGE
    statement = parse_sealed(text)
    assert f"\n    {statement.hash}\n" in PAGE
    leaf = f"custody/v1 {made.kind} {statement.hash} {encode_b64url(statement.seal.key)}"
    assert f"\n    {leaf}\n" in PAGE
    leaf_hash = hash_leaf(leaf.encode() + b"\n").hex()
    assert f"\n    {leaf_hash}\n" in PAGE


@each
def test_any_jose_library_verifies_a_seal_of_the_example(made: Made) -> None:
    key = PARTIES[made.signer].key.public_key()
    body = jwt.decode(made.statement.jws, key, algorithms=["ES256"])
    assert jwt.get_unverified_header(made.statement.jws)["typ"] == "custody-seal+jwt"
    assert body == {
        "v": 1,
        "n": 1 + len(made.neighbours),
        "root": encode_b64url(parse_sealed(made.statement.text).seal.root),
    }


def test_the_tree_over_the_leaves_is_the_codecs() -> None:
    root, paths = build_tree([made.leaf_hash for made in MADE])
    assert f"\n    {b64(root)}\n" in PAGE
    for path in paths:
        assert f"\n    {' '.join(map(b64, path))}\n" in PAGE


def test_the_connector_accepts_the_request_of_the_example() -> None:
    given = DEFAULTS | {"headers": COMPANION["request"]["headers"], "body": b64(COMPANION["request"]["body"].encode())}
    outcome = answer({"kind": "receive", "input": given})
    assert (outcome["result"], outcome["record"]) == ("ok", HOP.statement.hash)
    assert HOP.claims["prev"] == ROOT.statement.hash


def test_the_reasoner_accepts_the_receipt_of_the_example() -> None:
    response = COMPANION["response"]
    given = RESPONSE_DEFAULTS | {"headers": response["headers"], "record": HOP.statement.text}
    outcome = answer({"kind": "receipt_verify", "input": given})
    assert (outcome["result"], outcome["receipt"]) == ("ok", RECEIPT.statement.hash)
