"""Custody header fields as a sender writes and strips them, and the problem document of a refusal."""

from __future__ import annotations

import pytest

from hopseal.custody.encoding import encode_json
from hopseal.custody.errors import RULES, Code, CustodyError, problem, refusal
from hopseal.custody.headers import format_custody_fields, read_custody_fields, strip_custody
from hopseal.custody.peer_refusal import PeerRefusal, read_refusal
from hopseal.errors import DeniedError, InvalidError, UnavailableError
from vectors import pki
from vectors.scene import some_hash


def test_written_fields_are_read_back() -> None:
    headers = format_custody_fields("r", ["a", "b"], [pki.REASONER.der])
    fields = read_custody_fields(headers)
    assert (fields.record, fields.chain, len(fields.certs)) == ("r", ("a", "b"), 1)


def test_a_root_has_one_field_only() -> None:
    assert format_custody_fields("r", (), ()) == [("Custody-Record", "r")]


@pytest.mark.parametrize(("chain", "code"), [(["x"] * 8, Code.TOO_LONG), (["x" * 4097], Code.TOO_LARGE)])
def test_what_a_receiver_would_refuse_is_not_written(chain: list[str], code: Code) -> None:
    with pytest.raises(CustodyError) as refused:
        format_custody_fields("r", chain, ())
    assert refused.value.code == code


def test_whatever_could_speak_for_somebody_else_is_stripped() -> None:
    headers = [
        ("Custody-Record", "x"),
        ("custody_chain", "x"),
        ("CUSTODY-HANDLE", "x"),
        ("X-Forwarded-Client-Cert", "x"),
        ("x_forwarded_client_cert", "x"),
        ("Client-Cert", "x"),
        ("Client-Cert-Chain", "x"),
        ("Txn_Token", "x"),
        ("idempotency_key", "x"),
        ("Accept", "kept"),
        ("x-custody-record", "kept"),
        ("Txn-Token", "kept"),
        ("x_other", "kept"),
    ]
    assert strip_custody(headers) == headers[-4:]


def test_a_problem_document_holds_code_status_and_what_is_missing() -> None:
    missing = refusal(Code.UNRESOLVED, "for the log", missing=("cert:x",))
    assert problem(missing) == {
        "type": "https://hopseal.dev/errors/custody_unresolved",
        "title": "referenced items are not known here",
        "status": 428,
        "code": "custody_unresolved",
        "missing": ["cert:x"],
    }


PROBLEM_FIELDS = [("content-type", "application/problem+json")]
CERT = "cert:" + some_hash("certificate")


@pytest.mark.parametrize("code", Code)
def test_a_refusal_is_read_back_from_its_problem_document(code: Code) -> None:
    missing = (CERT, "rec:" + some_hash("record")) if code == Code.UNRESOLVED else ()
    document = encode_json(problem(refusal(code, missing=missing)))
    assert read_refusal(RULES[code].http, PROBLEM_FIELDS, document) == PeerRefusal(code.value, missing)


@pytest.mark.parametrize(
    ("status", "fields", "body"),
    [
        (399, PROBLEM_FIELDS, b'{"code":"x"}'),
        (600, PROBLEM_FIELDS, b'{"code":"x"}'),
        (400, [], b'{"code":"x"}'),
        (400, [("content-type", "application/json")], b'{"code":"x"}'),
        (400, [*PROBLEM_FIELDS, *PROBLEM_FIELDS], b'{"code":"x"}'),
        (400, PROBLEM_FIELDS, b""),
        (400, PROBLEM_FIELDS, b"{}"),
        (400, PROBLEM_FIELDS, b'{"code":5}'),
        (400, PROBLEM_FIELDS, b'{"code":"X"}'),
        (400, PROBLEM_FIELDS, b'{"code":"x","code":"y"}'),
        (400, PROBLEM_FIELDS, b'{"code":"x","missing":"cert:"}'),
        (400, PROBLEM_FIELDS, b'{"code":"x","missing":["cert:AA"]}'),
        (400, PROBLEM_FIELDS, encode_json({"code": "x", "missing": [CERT.replace("cert", "key")]})),
        (400, PROBLEM_FIELDS, encode_json({"code": "x", "missing": [CERT] * 33})),
        (400, PROBLEM_FIELDS, encode_json({"code": "x", "title": "t" * 16_384})),
    ],
)
def test_whatever_is_no_refusal_is_none(status: int, fields: list[tuple[str, str]], body: bytes) -> None:
    assert read_refusal(status, fields, body) is None


@pytest.mark.parametrize("status", [400, 599])
def test_every_error_status_can_be_a_refusal(status: int) -> None:
    missing = [CERT] * 32
    body = encode_json({"code": "x" * 64, "missing": missing, "title": "ignored"})
    assert read_refusal(status, PROBLEM_FIELDS, body) == PeerRefusal("x" * 64, tuple(missing))


@pytest.mark.parametrize("code", Code)
def test_no_detail_leaves_in_a_problem_document(code: Code) -> None:
    document = problem(refusal(code, "spiffe://prod.example.org/secret"))
    assert "secret" not in str(document)
    assert "missing" not in document


@pytest.mark.parametrize("code", Code)
def test_the_family_of_a_code_fits_its_status(code: Code) -> None:
    status = RULES[code].http
    family = DeniedError if status == 403 else UnavailableError if status in {425, 503} else InvalidError
    assert isinstance(refusal(code), family)
