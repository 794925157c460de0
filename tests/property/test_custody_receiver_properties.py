"""Nearly right requests: refused with our own error, or accepted for what they still are."""

from __future__ import annotations

import warnings

from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from custody_answers import answer
from custody_calls import BUNDLES
from custody_mutations import Json, changed_requests, changed_text, load_requests
from hopseal.custody.errors import Code
from hopseal.log.reader import read_log
from hopseal.verify import SvidError, parse_svid_leaf, verify_path
from vectors import pki
from vectors.pki import NOW

RECEIVE = load_requests("receive")
ACCEPTED = [request for request in RECEIVE if answer(request)["result"] == "ok"]
CODES = {code.value for code in Code}


@settings(max_examples=400)
@given(changed_requests(RECEIVE))
def test_a_changed_request_gets_an_answer_and_nothing_else(request: Json) -> None:
    outcome = answer(request)
    assert outcome["result"] == "ok" or outcome["code"] in CODES
    assert outcome["result"] == "ok" or bool(outcome["missing"]) == (outcome["code"] == Code.UNRESOLVED)


@settings(max_examples=400)
@given(st.sampled_from(ACCEPTED), st.sampled_from(["custody-record", "custody-chain"]), st.data())
def test_no_changed_character_of_a_record_passes(request: Json, field: str, data: st.DataObject) -> None:
    lines = [list(line) for line in request["input"]["headers"]]
    by_name = {name.lower(): line for line in lines for name in line[:1]}
    line = by_name.get(field, by_name["custody-record"])
    old = line[1]
    line[1] = data.draw(changed_text(old).filter(lambda new: new.split() != old.split()))
    assert answer({"kind": "receive", "input": request["input"] | {"headers": lines}})["result"] == "error"


def holds(der: bytes) -> bool:
    """Whether a leaf is valid, and not the reasoner's with another count of unused bits before its signature."""
    try:
        verify_path(parse_svid_leaf(der), lambda _subject: [], BUNDLES, NOW)
    except SvidError:
        return False
    original, changed = (x509.load_der_x509_certificate(each) for each in (pki.REASONER.der, der))
    same = (original.tbs_certificate_bytes, original.signature) == (changed.tbs_certificate_bytes, changed.signature)
    return der == pki.REASONER.der or not same


def test_the_certificate_that_is_changed_below_holds() -> None:
    assert holds(pki.REASONER.der)


@settings(max_examples=300)
@given(st.sampled_from([pki.REASONER.der, pki.PROD_CA.der]), st.data())
def test_no_changed_byte_of_a_certificate_keeps_it_valid(der: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(der) - 1))
    changed = bytearray(der)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not holds(bytes(changed))


@given(st.binary(max_size=120) | st.text(alphabet='0af \n{}:"', max_size=60).map(str.encode))
def test_no_bytes_make_the_log_reader_raise(data: bytes) -> None:
    contents = read_log(data)
    assert not contents.entries
    assert contents.torn_bytes == len(data)
