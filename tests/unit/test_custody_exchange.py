"""An exchange from its record to its receipt: what the Python callee builds, the Python caller accepts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from custody_calls import BUNDLES, HEADERS, OPERATIONS, PARTIES, Node, begin, call, fresh_id, root, signer
from hopseal.custody import verification
from hopseal.custody.answering import Answer, build_closing, build_observation, build_receipt, check_receipt_possible
from hopseal.custody.binding import BodySum, Header, RollingSum, bind_response, bind_stream
from hopseal.custody.errors import Code, CustodyError
from hopseal.custody.event_stream import EventStreamScanner, format_event_comment, split_event_stream
from hopseal.custody.evidence_statement import EvidenceStatement, LogKey, Verdict
from hopseal.custody.exchange import (
    CallerState,
    Response,
    StreamEnd,
    VerifiedClosing,
    VerifiedReceipt,
    verify_closing,
    verify_receipt,
)
from hopseal.custody.headers import format_custody_fields
from hopseal.custody.kids import KidsTree, kids_of
from hopseal.custody.outcome import Fin
from hopseal.custody.receiver import (
    Authenticated,
    Receiver,
    ReceiverState,
    Request,
    authenticate_request,
    authorise_request,
    verify_request,
)
from hopseal.custody.record import SealedRecord, parse_sealed_record
from hopseal.custody.seal import Seal, verify_signature
from hopseal.custody.sealing import seal_each
from hopseal.custody.sender import build_child
from hopseal.custody.statement import Statement, parse_sealed_statement
from hopseal.custody.trailing_fields import format_closing_fields, format_receipt_fields
from hopseal.errors import BugError
from hopseal.ids import SpiffeId
from vectors import pki
from vectors.pki import NOW, Party, spiffe
from vectors.scene import BODY, TARGET, plain_headers, some_hash

ANSWER = b'{"result":{}}'
ANSWER_HEADERS: list[Header] = [("Content-Type", "application/json")]
STREAM_HEADERS: list[Header] = [(name, value) for name, value in plain_headers() if name != "Content-Digest"]
CALLEE = spiffe("reasoner")


def seal_one(statement: Statement, party: Party) -> str:
    return seal_each([statement], signer(party), NOW)[0]


def asked(**changes: object) -> SealedRecord:
    """A record of the orchestrator for the reasoner that asks for a receipt."""
    return parse_sealed_record(
        seal_one(replace(root("orchestrator", "reasoner"), **{"rr": True, **changes}), pki.ORCHESTRATOR)
    )


def answered(request: SealedRecord, **changes: object) -> Answer:
    return replace(Answer(200, ANSWER_HEADERS, BodySum.of(ANSWER)), **changes)


def receipt_text(request: SealedRecord, **changes: object) -> str:
    return seal_one(build_receipt(request, answered(request, **changes), iat=NOW, jti=fresh_id()), pki.REASONER)


def check(
    request: SealedRecord, lines: Sequence[Header] = (), state: CallerState | None = None, **changes: object
) -> VerifiedReceipt | None:
    body = BodySum.of(ANSWER)
    response = Response(200, [*ANSWER_HEADERS, *lines], body, (pki.REASONER.der,))
    return verify_receipt(request, replace(response, **changes), BUNDLES, state or CallerState(), NOW)


def test_a_built_receipt_is_accepted_for_its_request() -> None:
    request = asked()
    verified = check(request, format_receipt_fields(receipt_text(request, dec="d-1", kids=[some_hash("k")])))
    assert verified is not None
    outcome = verified.sealed.claims.outcome
    assert (outcome.rec, outcome.cid, outcome.fin) == (request.hash, request.record.cid, Fin.EOF)
    assert (outcome.dec, outcome.kids, verified.sealed.claims.iss) == ("d-1", (some_hash("k"),), SpiffeId.parse(CALLEE))


def test_a_receipt_travels_in_the_last_comment_of_an_event_stream() -> None:
    request = asked()
    text = receipt_text(request, body=BodySum.of(b"data: 1\n\n"))
    body, comment = split_event_stream(b"data: 1\n\n" + format_event_comment(text))
    verified = check(request, comment=comment, body=BodySum.of(body))
    assert verified is not None
    assert verified.sealed.text == text


def test_an_event_passes_on_at_once_and_only_the_end_is_held_back() -> None:
    scanner = EventStreamScanner()
    assert scanner.push(b"data: 1\n\n") == b"data: 1\n\n"
    assert scanner.push(b": ping\n\n: cus") == b": ping\n\n"
    assert scanner.push(b"tody-receipt a.b\n") == b""
    assert scanner.push(b"\ndata: 2\n\n") == b": custody-receipt a.b\n\ndata: 2\n\n"
    assert scanner.push(b": custody-receipt c.d\n\n") == b""
    assert scanner.finish() == (b"", "c.d")


def test_no_more_is_held_back_than_a_receipt_can_be() -> None:
    scanner = EventStreamScanner()
    line = b": custody-receipt " + b"a" * 4096
    assert scanner.push(line) == b""
    assert scanner.push(b"a") == line + b"a"
    assert scanner.finish() == (b"", None)


def test_a_rotated_leaf_is_accepted_when_it_is_sent_along_and_remembered() -> None:
    request, state = asked(), CallerState()
    renewed = pki.svid(CALLEE, seed="reasoner after rotation")
    receipt = build_receipt(request, answered(request), iat=NOW, jti=fresh_id())
    text = seal_one(receipt, renewed)
    assert check(request, format_receipt_fields(text, [renewed.der]), state) is not None
    assert check(request, format_receipt_fields(text), state) is not None


def test_without_a_receipt_only_a_request_that_asked_for_none_is_answered() -> None:
    assert check(parse_sealed_record(seal_one(root("orchestrator", "reasoner"), pki.ORCHESTRATOR))) is None
    with pytest.raises(CustodyError) as refused:
        check(asked())
    assert refused.value.code == Code.RECEIPT_UNAVAILABLE


@pytest.mark.parametrize(("rr", "can_sign"), [(True, True), (None, False), (False, False)])
def test_a_callee_answers_if_it_can_sign_or_need_not(rr: bool | None, can_sign: bool) -> None:
    check_receipt_possible(asked(rr=rr), can_sign=can_sign)


def test_a_callee_that_cannot_sign_refuses_who_requires_a_receipt() -> None:
    with pytest.raises(CustodyError) as refused:
        check_receipt_possible(asked(), can_sign=False)
    assert refused.value.code == Code.RECEIPT_UNAVAILABLE


def test_nobody_builds_a_receipt_for_a_record_to_an_origin() -> None:
    with pytest.raises(CustodyError) as refused:
        receipt_text(asked(aud="https://api.example.com"))
    assert refused.value.code == Code.MALFORMED


def test_a_field_too_large_for_its_receiver_is_not_written() -> None:
    for write in (format_receipt_fields, format_closing_fields):
        with pytest.raises(CustodyError) as refused:
            write("x" * 4097)
        assert refused.value.code == Code.TOO_LARGE


def test_an_observation_never_passes_as_a_receipt() -> None:
    request = asked()
    connector = SpiffeId.parse(CALLEE)
    outside = {"host": "api.example.com", "spki": some_hash("key")}
    seen = build_observation(request, answered(request), connector=connector, **outside, iat=NOW, jti=fresh_id())
    text = seal_one(seen, pki.REASONER)
    assert parse_sealed_statement(text, ["obs"]).claims == seen
    assert seen.iss == connector
    with pytest.raises(CustodyError) as refused:
        check(request, format_receipt_fields(text))
    assert refused.value.code == Code.MALFORMED


# --- refusals with a receipt


def authenticate(node: Node, text: str) -> tuple[Authenticated, Receiver, ReceiverState]:
    request = Request(
        HEADERS + format_custody_fields(text, (), ()), BODY, "POST", TARGET, OPERATIONS, (pki.ORCHESTRATOR.der,)
    )
    receiver = Receiver(SpiffeId.parse(CALLEE), frozenset(), BUNDLES, lambda _root: False, lambda _path: True)
    return authenticate_request(request, receiver, node.state, NOW), receiver, node.state


def test_a_refusal_after_authentication_can_carry_a_receipt() -> None:
    request = asked()
    authenticated, receiver, state = authenticate(Node("reasoner"), request.text)
    with pytest.raises(CustodyError) as refused:
        authorise_request(authenticated, receiver, state)
    assert refused.value.code == Code.AUTHORITY
    denial = receipt_text(authenticated.newest, status=403, fin=Fin.DENY)
    verified = check(request, format_receipt_fields(denial), status=403)
    assert verified is not None
    assert verified.sealed.claims.outcome.fin is Fin.DENY


# --- streams


def streamed() -> SealedRecord:
    rqb = bind_stream("POST", TARGET, STREAM_HEADERS)
    return asked(rqb=rqb, bm="stream")


def accept_stream(opening: SealedRecord) -> None:
    headers = STREAM_HEADERS + format_custody_fields(opening.text, (), ())
    request = Request(headers, b"", "POST", TARGET, OPERATIONS, (pki.ORCHESTRATOR.der,))
    receiver = Receiver(
        SpiffeId.parse(CALLEE), frozenset(), BUNDLES, lambda _root: True, lambda _path: True, accept_streams=True
    )
    verify_request(request, receiver, ReceiverState(), NOW)


def end(opening: SealedRecord, parts: Sequence[bytes], lines: Sequence[Header]) -> VerifiedClosing:
    rolling = RollingSum()
    for part in parts:
        rolling.update(part)
    stream = StreamEnd(rolling.sum(), lines, (pki.ORCHESTRATOR.der,))
    return verify_closing(opening, stream, BUNDLES, ReceiverState(), NOW)


def test_a_streamed_body_is_accepted_and_closed() -> None:
    opening = streamed()
    accept_stream(opening)
    closing = build_closing(opening, BodySum.of(b"onetwo"), Fin.EOF, iat=NOW, jti=fresh_id())
    verified = end(opening, [b"one", b"two"], format_closing_fields(seal_one(closing, pki.ORCHESTRATOR)))
    assert verified.sealed.claims == closing


def test_a_stream_that_lost_its_last_part_is_refused() -> None:
    opening = streamed()
    closing = build_closing(opening, BodySum.of(b"onetwo"), Fin.EOF, iat=NOW, jti=fresh_id())
    with pytest.raises(CustodyError) as refused:
        end(opening, [b"one"], format_closing_fields(seal_one(closing, pki.ORCHESTRATOR)))
    assert refused.value.code == Code.BINDING


@pytest.mark.parametrize(("bm", "fin"), [(None, Fin.EOF), ("stream", Fin.DENY)])
def test_only_a_stream_is_closed_and_never_denied_by_its_caller(bm: str | None, fin: Fin) -> None:
    with pytest.raises(BugError):
        build_closing(asked(bm=bm), BodySum.of(b""), fin, iat=NOW, jti=fresh_id())


def test_a_call_says_that_it_streams_and_wants_a_receipt() -> None:
    accepted = begin("orchestrator", Node("reasoner"))
    record = build_child(call("reasoner", "crm-connector", rr=True, bm="stream"), accepted)
    assert (record.rr, record.bm) == (True, "stream")


# --- what is common to all statements


def test_statements_of_several_types_for_one_trust_domain_share_a_seal_and_others_do_not() -> None:
    request = asked()
    receipt = build_receipt(request, answered(request), iat=NOW, jti=fresh_id())
    abroad = replace(receipt, outcome=replace(receipt.outcome, aud=SpiffeId.parse(spiffe("gateway", pki.PARTNER))))
    connector = SpiffeId.parse(CALLEE)
    seen = build_observation(
        request, answered(request), connector=connector, host="a", spki=some_hash("k"), iat=NOW, jti=fresh_id()
    )
    closing = build_closing(streamed(), BodySum.of(b""), Fin.ABORT, iat=NOW, jti=fresh_id())
    record = replace(root("orchestrator", "reasoner"), aud="https://api.example.com")
    texts = seal_each([receipt, abroad, seen, closing, record], signer(PARTIES["reasoner"]), NOW)
    seals = [parse_sealed_statement(text).statement.seal for text in texts]
    assert [seal.n for seal in seals] == [3, 1, 3, 3, 1]
    assert seals[0] == seals[2] == seals[3]


def test_evidence_is_sealed_beside_what_stays_in_its_trust_domain() -> None:
    evidence = EvidenceStatement(
        iss=SpiffeId.parse(CALLEE),
        iat=NOW,
        exp=NOW + 60,
        jti=fresh_id(),
        sub=SpiffeId.parse(CALLEE),
        sx=some_hash("leaf"),
        verdict=Verdict.ATTESTED,
        log=LogKey("custody.prod.example.org/n1", "custody.prod.example.org/n1+0a0b0c0d+AQ"),
    )
    abroad = replace(root("orchestrator", "reasoner"), aud=spiffe("gateway", pki.PARTNER))
    texts = seal_each([evidence, abroad, asked().record], signer(pki.REASONER), NOW)
    assert parse_sealed_statement(texts[0], ["att"]).claims == evidence
    assert [parse_sealed_statement(text).statement.seal.n for text in texts] == [2, 1, 2]


def test_one_verified_seal_serves_a_record_and_a_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def count(seal: Seal, key: object) -> None:
        checked.append(seal.text)
        verify_signature(seal, key)

    monkeypatch.setattr(verification, "verify_signature", count)
    request, state = asked(), CallerState()
    built = [build_receipt(request, answered(request), iat=NOW, jti=fresh_id()) for _ in range(3)]
    for text in seal_each(built, signer(pki.REASONER), NOW):
        assert check(request, format_receipt_fields(text), state) is not None
    assert len(checked) == 1


def test_a_body_in_parts_comes_to_the_same_as_in_one() -> None:
    rolling = RollingSum()
    assert rolling.sum() == BodySum.of(b"")
    for part in (b"a", b"", b"bc"):
        rolling.update(part)
    assert rolling.sum() == BodySum.of(b"abc")


def test_a_tree_of_receipts_says_how_many() -> None:
    hashes = [some_hash(str(index)) for index in range(9)]
    tree = kids_of(hashes)
    assert isinstance(tree, KidsTree)
    assert tree.n == 9
    assert kids_of(hashes[:8]) == tuple(hashes[:8])


def test_a_response_without_covered_fields_is_bound_by_its_status() -> None:
    assert bind_response(200, []) != bind_response(201, [])
