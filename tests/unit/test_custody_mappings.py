"""Custody beside other formats: what is exported, what is taken in, and from whom."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from custody_calls import (
    AUTHORITY,
    BUNDLES,
    HEADERS,
    OPERATIONS,
    TASK,
    Node,
    begin,
    call,
    fresh_id,
    go_on,
    root,
    signer,
)
from hopseal.custody.answering import Answer, build_receipt
from hopseal.custody.delegation import OnBehalfOf, Task
from hopseal.custody.errors import Code, CustodyError
from hopseal.custody.exchange import CallerState, Response, verify_receipt
from hopseal.custody.headers import format_custody_fields
from hopseal.custody.mappings.act import actor_claim, delegation_claims
from hopseal.custody.mappings.forwarded_peer import Form, ForwardedPeer, read_forwarded_peer
from hopseal.custody.mappings.jcs import canonicalise, parse_message
from hopseal.custody.mappings.mcp_stdio import (
    META_KEY,
    attach,
    bind_request_message,
    bind_result,
    detach,
    open_request,
    open_result,
)
from hopseal.custody.mappings.span_attributes import receipt_attributes, record_attributes
from hopseal.custody.mappings.trace_context import parse_traceparent, trace_id_of
from hopseal.custody.mappings.transaction_token import transaction_request
from hopseal.custody.receipt import parse_sealed_receipt
from hopseal.custody.receiver import Accepted, Receiver, ReceiverState, Request, verify_request
from hopseal.custody.record import SealedRecord, parse_sealed_record
from hopseal.custody.sealing import seal_each
from hopseal.custody.sender import build_root
from hopseal.custody.trailing_fields import format_receipt_fields
from hopseal.custody.verification import Verified
from hopseal.errors import BugError
from hopseal.ids import SpiffeId
from vectors import pki
from vectors.pki import NOW, spiffe
from vectors.scene import BODY, TARGET, b64, b64u, some_hash

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


def code_of(refused: pytest.ExceptionInfo[CustodyError]) -> str:
    return refused.value.code


# --- W3C Trace Context


@pytest.mark.parametrize("value", [PARENT, PARENT[:-2] + "00", "01" + PARENT[2:], "cc" + PARENT[2:] + "-more-parts"])
def test_a_valid_traceparent_gives_its_trace_id(value: str) -> None:
    assert trace_id_of([("TraceParent", f" {value}\t")]) == TRACE_ID


@pytest.mark.parametrize(
    "value",
    [
        "",
        PARENT.upper(),
        PARENT[:-1],
        PARENT + "-more",
        PARENT + "0",
        PARENT + "\n",
        "ff" + PARENT[2:],
        "0" + PARENT,
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        TRACE_ID,
    ],
)
def test_whatever_is_no_traceparent_gives_none(value: str) -> None:
    assert parse_traceparent(value) is None


def test_no_traceparent_and_two_of_them_give_none() -> None:
    assert trace_id_of([]) is None
    assert trace_id_of([("traceparent", PARENT), ("traceparent", PARENT)]) is None


def test_a_trace_id_goes_into_a_record() -> None:
    record = build_root(
        call("orchestrator", "reasoner", tid=trace_id_of([("traceparent", PARENT)])),
        cid=fresh_id(),
        task=TASK,
        auth=AUTHORITY,
    )
    assert record.tid == TRACE_ID


# --- span attributes


def test_a_span_names_chain_hop_record_and_receipt_and_nobody() -> None:
    accepted = begin("orchestrator", Node("reasoner"))
    attributes = record_attributes(accepted.newest)
    newest = accepted.newest
    assert attributes == {"custody.cid": newest.record.cid, "custody.hop": 0, "custody.record": newest.hash}
    receipt = parse_sealed_receipt(
        seal_each(
            [build_receipt(newest, Answer(200, [], bind_result({"result": {}}).body), iat=NOW, jti=fresh_id())],
            signer(pki.REASONER),
            NOW,
        )[0]
    )
    added = receipt_attributes(receipt)
    assert added == {"custody.receipt": receipt.hash, "custody.receipt.fin": "eof"}
    assert "spiffe" not in json.dumps(attributes | added)


# --- act


def chain_of_two() -> Accepted:
    reasoner, connector = Node("reasoner"), Node("crm-connector")
    return go_on(begin("orchestrator", reasoner), reasoner, connector)


def test_the_newest_issuer_is_the_outermost_actor() -> None:
    assert delegation_claims(chain_of_two()) == {
        "act": {
            "iss": "spiffe://prod.example.org",
            "sub": spiffe("reasoner"),
            "act": {"iss": "spiffe://prod.example.org", "sub": spiffe("orchestrator")},
        }
    }


def test_the_subject_is_the_user_that_the_root_acts_for() -> None:
    accepted = chain_of_two()
    first = accepted.chain[0].sealed
    user = OnBehalfOf("https://tts.example.org", "user-17", "txn", some_hash("token"), NOW + 60)
    asked = SealedRecord(first.statement, replace(first.record, obo=user))
    claims = delegation_claims(replace(accepted, chain=(Verified(asked), *accepted.chain[1:])))
    assert list(claims) == ["sub", "act"]
    assert claims["sub"] == "user-17"


def test_an_actor_of_each_trust_domain_is_named_by_it() -> None:
    path = [SpiffeId.parse(spiffe("gateway", pki.PARTNER)), SpiffeId.parse(spiffe("reasoner"))]
    claim: Any = actor_claim(path)
    assert (claim["iss"], claim["act"]["iss"]) == ("spiffe://prod.example.org", "spiffe://partner.example.net")


def test_a_chain_without_issuers_is_a_bug() -> None:
    with pytest.raises(BugError):
        actor_claim([])


# --- Txn-Token


def test_a_transaction_token_is_asked_for_with_the_task_and_the_chain() -> None:
    task = Task("task-1", intent_hash=some_hash("intent"), authority_hash=some_hash("authority"), purpose="crm")
    asked = transaction_request(task, "cid-1")
    assert asked.details == {"task": "task-1", "ih": some_hash("intent"), "ah": some_hash("authority")}
    assert asked.context == {"cid": "cid-1"}
    assert transaction_request(Task("task-2"), "cid-2").details == {"task": "task-2"}


# --- certificates from proxies


PROXY = spiffe("ingress")
HEX = hashlib.sha256(pki.REASONER.der).hexdigest()
X5T = b64u(pki.REASONER.x5t_raw)
XFCC = {PROXY: Form.XFCC}
CLIENT_CERT = {PROXY: Form.CLIENT_CERT}


def element(der: bytes) -> str:
    return f":{b64(der)}:"


@pytest.mark.parametrize(
    "value",
    [
        f"Hash={HEX}",
        f'By=spiffe://a/b;Hash={HEX};Subject="CN=a,b;c=\\"d\\"";URI={spiffe("reasoner")}',
        f'hash="{HEX}";Subject=""',
        f"  URI={spiffe('reasoner')};HASH={HEX} ".strip(),
    ],
)
def test_the_hash_that_a_proxy_forwards_is_the_thumbprint(value: str) -> None:
    peer = read_forwarded_peer([("X-Forwarded-Client-Cert", value)], PROXY, XFCC)
    assert peer == ForwardedPeer(X5T)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (f"Hash={HEX},Hash={HEX}", Code.IDENTITY),
        (f"By=a;Hash={HEX},By=b;Hash={HEX}", Code.IDENTITY),
        ("", Code.MALFORMED),
        ("Hash", Code.MALFORMED),
        ("Hash=", Code.MALFORMED),
        (f"Hash={HEX.upper()}", Code.MALFORMED),
        (f"Hash={HEX[:-1]}", Code.MALFORMED),
        (f"Hash={HEX};Hash={HEX}", Code.MALFORMED),
        (f"Hash={HEX};", Code.MALFORMED),
        (f'Hash={HEX};Subject="a', Code.MALFORMED),
        (f"Hash={HEX};Subject=a=b", Code.MALFORMED),
        (f'Subject="Hash={HEX}"', Code.MALFORMED),
        (f"By={'a' * 16_384}", Code.TOO_LARGE),
    ],
)
def test_a_field_that_does_not_name_one_certificate_is_refused(value: str, code: Code) -> None:
    with pytest.raises(CustodyError) as refused:
        read_forwarded_peer([("x-forwarded-client-cert", value)], PROXY, XFCC)
    assert code_of(refused) == code


def test_a_client_cert_and_its_chain_are_read() -> None:
    headers = [("Client-Cert", f" {element(pki.REASONER.der)}"), ("client-cert-chain", element(pki.PROD_CA.der))]
    peer = read_forwarded_peer(headers, PROXY, CLIENT_CERT)
    assert peer == ForwardedPeer(X5T, (pki.REASONER.der, pki.PROD_CA.der))
    assert read_forwarded_peer(headers[:1], PROXY, CLIENT_CERT) == ForwardedPeer(X5T, (pki.REASONER.der,))


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([("client-cert", "x")], Code.MALFORMED),
        ([("client-cert", element(pki.REASONER.der)), ("client-cert-chain", "x")], Code.MALFORMED),
        ([("client-cert", element(pki.REASONER.der))] * 2, Code.DUPLICATE),
        ([("client-cert", element(bytes(2_049)))], Code.TOO_LARGE),
        ([("client-cert", element(b"x")), ("client-cert-chain", ",".join([element(b"x")] * 10))], Code.TOO_LARGE),
        ([("client-cert", "A" * 8_193)], Code.TOO_LARGE),
    ],
)
def test_a_client_cert_is_as_strict_as_custody_certs(headers: list[tuple[str, str]], code: Code) -> None:
    with pytest.raises(CustodyError) as refused:
        read_forwarded_peer(headers, PROXY, CLIENT_CERT)
    assert code_of(refused) == code


def test_only_configured_proxies_count_and_only_in_their_form() -> None:
    both = [("x-forwarded-client-cert", f"Hash={HEX}"), ("client-cert", element(pki.SHELL.der))]
    assert read_forwarded_peer(both, spiffe("shell"), XFCC) is None
    assert read_forwarded_peer(both, PROXY, XFCC) == ForwardedPeer(X5T)
    assert read_forwarded_peer(both[1:], PROXY, XFCC) is None
    assert read_forwarded_peer([], PROXY, XFCC) is None


def receive_behind_proxy(x5t: str | None) -> Accepted:
    text = seal_each([root("orchestrator", "reasoner")], signer(pki.ORCHESTRATOR), NOW)[0]
    headers = HEADERS + format_custody_fields(text, (), [pki.ORCHESTRATOR.der])
    request = Request(headers, BODY, "POST", TARGET, OPERATIONS, (), peer_x5t=x5t)
    receiver = Receiver(
        SpiffeId.parse(spiffe("reasoner")), frozenset(), BUNDLES, lambda _root: True, lambda _path: True
    )
    return verify_request(request, receiver, ReceiverState(), NOW)


def test_a_forwarded_thumbprint_stands_for_the_connections_leaf() -> None:
    assert receive_behind_proxy(b64u(pki.ORCHESTRATOR.x5t_raw)).path[0].path.endswith("/orchestrator")
    for other in (X5T, None):
        with pytest.raises(CustodyError) as refused:
            receive_behind_proxy(other)
        assert code_of(refused) == Code.IDENTITY


# --- JCS


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("{}", "{}"),
        (' { "b" : 1 , "a" : [ true, null, "x" ] } ', '{"a":[true,null,"x"],"b":1}'),
        ('{"a":{"z":1,"y":{"b":-9007199254740991,"a":0}}}', '{"a":{"y":{"a":0,"b":-9007199254740991},"z":1}}'),
        (
            r'{"\u20ac":"Euro","\r":"CR","1":"One","\u0080":"C","\u00f6":"o","\ud83d\ude02":"S","\ufb33":"H"}',
            '{"\\r":"CR","1":"One","\x80":"C","ö":"o","€":"Euro","😂":"S","\ufb33":"H"}',
        ),
        (r'{"a":"\u20ac$\u000F\u000aA\u0027\u0042\u0022\u005c\\\"\/"}', '{"a":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'),
        ('{"a":"\\u007f\\u2028\\b\\f\\t"}', '{"a":"\x7f\u2028\\b\\f\\t"}'),
    ],
)
def test_a_message_has_one_form(text: str, form: str) -> None:
    assert canonicalise(parse_message(text.encode())) == form.encode()
    assert canonicalise(parse_message(form.encode())) == form.encode()


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1.5}',
        '{"a":1e3}',
        '{"a":-0}',
        '{"a":9007199254740992}',
        '{"a":1,"a":2}',
        '{"a":"\\ud800"}',
        "[]",
        '{"a":' + "[" * 32 + "]" * 32 + "}",
        '{"a":NaN}',
        "",
    ],
)
def test_what_two_programs_could_disagree_about_has_no_form(text: str) -> None:
    with pytest.raises(CustodyError) as refused:
        parse_message(text.encode())
    assert code_of(refused) == Code.MALFORMED


def test_a_message_may_nest_as_deep_as_the_limit() -> None:
    text = '{"a":' + "[" * 31 + "]" * 31 + "}"
    assert canonicalise(parse_message(text.encode())) == text.encode()


# --- MCP over stdio


CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "crm.lookup", "_meta": {"x/y": 1}}}
RESULT = {"jsonrpc": "2.0", "id": 1, "result": {"content": []}}
ORCHESTRATOR_X5T = b64u(pki.ORCHESTRATOR.x5t_raw)


def send(message: dict[str, object]) -> tuple[dict[str, object], SealedRecord]:
    """What the orchestrator writes to the reasoner's stdin, and its record."""
    opened = open_request(message)
    record = build_root(
        call("orchestrator", "reasoner", rqb=bind_request_message(opened), rr=True),
        cid=fresh_id(),
        task=TASK,
        auth=AUTHORITY,
    )
    text = seal_each([record], signer(pki.ORCHESTRATOR), NOW)[0]
    return attach(opened, format_custody_fields(text, (), [pki.ORCHESTRATOR.der])), parse_sealed_record(text)


def receive(line: dict[str, object]) -> tuple[Accepted, dict[str, object]]:
    carried = detach(parse_message(json.dumps(line).encode()))
    request = Request(
        carried.fields,
        b"",
        "",
        "",
        OPERATIONS,
        (),
        peer_x5t=ORCHESTRATOR_X5T,
        rqb=bind_request_message(carried.message),
    )
    receiver = Receiver(
        SpiffeId.parse(spiffe("reasoner")), frozenset(), BUNDLES, lambda _root: True, lambda _path: True
    )
    return verify_request(request, receiver, ReceiverState(), NOW), carried.message


def answer(message: dict[str, object], accepted: Accepted) -> dict[str, object]:
    opened = open_result(message)
    bound = bind_result(opened)
    receipt = build_receipt(accepted.newest, Answer(bound.status, bound.headers, bound.body), iat=NOW, jti=fresh_id())
    return attach(opened, format_receipt_fields(seal_each([receipt], signer(pki.REASONER), NOW)[0]))


def accept(line: dict[str, object], sent: SealedRecord) -> str:
    carried = detach(parse_message(json.dumps(line).encode()))
    bound = bind_result(carried.message)
    response = Response(bound.status, bound.headers, bound.body, (pki.REASONER.der,), trailers=carried.fields)
    verified = verify_receipt(sent, response, BUNDLES, CallerState(), NOW)
    assert verified is not None
    return verified.sealed.claims.outcome.rec


@pytest.mark.parametrize("message", [CALL, {"method": "ping", "id": 1}, {"method": "ping", "params": {}}])
def test_a_message_over_stdio_is_accepted_and_answered_with_a_receipt(message: dict[str, object]) -> None:
    line, sent = send(message)
    accepted, seen = receive(line)
    assert seen == open_request(message)
    assert accept(answer(RESULT, accepted), sent) == sent.hash


def test_custody_stands_in_the_meta_of_the_message() -> None:
    line, sent = send(CALL)
    params: Any = line["params"]
    assert params["_meta"][META_KEY]["record"] == sent.text
    assert params["_meta"]["x/y"] == 1
    accepted, _ = receive(line)
    result: Any = answer(RESULT, accepted)["result"]
    assert list(result["_meta"]) == [META_KEY]


@pytest.mark.parametrize("change", [{"method": "tools/list"}, {"id": 2}, {"params": {"name": "crm.delete"}}])
def test_a_changed_message_is_refused(change: dict[str, Any]) -> None:
    line, _ = send(CALL)
    meta: Any = line["params"]
    changed = {**line, **change}
    if "params" in change:
        changed["params"] = {**change["params"], "_meta": meta["_meta"]}
    with pytest.raises(CustodyError) as refused:
        receive(changed)
    assert code_of(refused) == Code.BINDING


def test_a_changed_result_is_refused() -> None:
    line, sent = send(CALL)
    accepted, _ = receive(line)
    answered = answer(RESULT, accepted)
    result: Any = answered["result"]
    with pytest.raises(CustodyError) as refused:
        accept({**answered, "result": {**result, "isError": True}}, sent)
    assert code_of(refused) == Code.BINDING


def test_a_streamed_record_is_none_over_stdio() -> None:
    record = build_root(
        call("orchestrator", "reasoner", rqb=bind_request_message(open_request(CALL)), bm="stream"),
        cid=fresh_id(),
        task=TASK,
        auth=AUTHORITY,
    )
    text = seal_each([record], signer(pki.ORCHESTRATOR), NOW)[0]
    with pytest.raises(CustodyError) as refused:
        receive(attach(open_request(CALL), format_custody_fields(text, (), [pki.ORCHESTRATOR.der])))
    assert code_of(refused) == Code.FORBIDDEN


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (CALL, Code.MISSING),
        ({"result": {}}, Code.MISSING),
        ({"error": {}}, Code.MALFORMED),
        ({"method": "x", "params": []}, Code.MALFORMED),
        ({"method": "x", "params": {"_meta": 1}}, Code.MALFORMED),
        ({"method": "x", "params": {"_meta": {META_KEY: "x"}}}, Code.MALFORMED),
        ({"method": "x", "params": {"_meta": {META_KEY: {"receipt": "x"}}}}, Code.MALFORMED),
        ({"method": "x", "params": {"_meta": {META_KEY: {"record": 1}}}}, Code.MALFORMED),
        ({"result": {"_meta": {META_KEY: {"record": "x"}}}}, Code.MALFORMED),
    ],
)
def test_a_message_without_right_custody_is_refused(message: dict[str, object], code: Code) -> None:
    with pytest.raises(CustodyError) as refused:
        detach(message)
    assert code_of(refused) == code


@pytest.mark.parametrize("method", ["", "a b", "a\n", "é", "x" * 129, 5, None])
def test_only_a_methods_name_is_bound(method: object) -> None:
    with pytest.raises(CustodyError) as refused:
        bind_request_message({"method": method})
    assert code_of(refused) == Code.MALFORMED
