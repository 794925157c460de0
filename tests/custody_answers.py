"""The Python codec behind the JSON requests of tests/vectors: one request in, one answer out."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key

from hopseal.bundle import Bundle
from hopseal.custody.authority import Authority, fold, parse_authority, parse_narrowing
from hopseal.custody.behalf import Behalf
from hopseal.custody.binding import BodySum, RollingSum, bind_request, bind_response, binding_base, response_base
from hopseal.custody.cache import ReplayStore, RootIssuers
from hopseal.custody.certs import CertificateCache
from hopseal.custody.encoding import decode_b64url, encode_b64url
from hopseal.custody.errors import RULES, Code, CustodyError, refusal
from hopseal.custody.event_stream import split_event_stream
from hopseal.custody.evidence_statement import EvidenceStatement, is_accepted
from hopseal.custody.exchange import CallerState, Response, StreamEnd, verify_closing, verify_receipt
from hopseal.custody.frames import FrameSum
from hopseal.custody.jcs import canonical_hash, canonicalize
from hopseal.custody.jwks import parse_key_set
from hopseal.custody.kids import kids_of, kids_to_json
from hopseal.custody.merkle import build_tree
from hopseal.custody.messages import MessageCounter, is_grpc
from hopseal.custody.patterns import id_matches
from hopseal.custody.receiver import Receiver, ReceiverState, Request, verify_request
from hopseal.custody.record import parse_record, parse_sealed_record
from hopseal.custody.seal import (
    Signer,
    format_path,
    hash_statement,
    parse_sealed,
    seal_statements,
    thumbprint,
    verify_inclusion,
    verify_signature,
)
from hopseal.custody.statement import encode_statement, parse_statement, type_of
from hopseal.custody.usertoken import Issuer, Issuers, TokenType
from hopseal.custody.verification import Verified
from hopseal.ids import SpiffeId, TrustDomain
from hopseal.verify import parse_certificate

Json = dict[str, Any]
PEER = "an earlier peer"


def answer(request: Json) -> Json:
    """What ``custody_verify`` says to ``request``."""
    try:
        return {"result": "ok", **KINDS[request["kind"]](request["input"])}
    except CustodyError as error:
        return {"result": "error", "code": error.code, "missing": list(error.missing)}


def sign(request: Json) -> Json:
    """What ``custody_sign`` says to ``request``."""
    try:
        statements = [parse_statement(json.dumps(claims).encode()) for claims in request["claims"]]
    except CustodyError as error:
        return {"result": "error", "code": error.code, "missing": list(error.missing)}
    key = load_der_private_key(unbase64(request["key_pkcs8"]), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signer = Signer(unbase64(request["leaf"]), key)
    return {"sealed": list(seal_statements([encode_statement(each) for each in statements], signer))}


def unbase64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def authority_json(authority: Authority) -> Json:
    return {
        "scope": None if authority.scope is None else sorted(authority.scope),
        "exp": authority.exp,
        "hops": authority.hops,
        "aud": None if authority.aud is None else list(authority.aud),
        "ops": None if authority.ops is None else list(authority.ops),
    }


def _base64url(given: Json) -> Json:
    return {"bytes": base64.b64encode(decode_b64url(given["text"])).decode()}


def _jcs(given: Json) -> Json:
    data = unbase64(given["json"])
    return {"canonical": base64.b64encode(canonicalize(data)).decode(), "hash": canonical_hash(data)}


def _claims(given: Json) -> Json:
    parse_record(unbase64(given["payload"]))
    return {}


def _seal(given: Json) -> Json:
    statement = parse_sealed(given["sealed"])
    leaf = unbase64(given["leaf"])
    if statement.seal.x5t != thumbprint(leaf):
        raise refusal(Code.UNRESOLVED, missing=(f"cert:{statement.seal.x5t}",))
    verify_inclusion(statement)
    verify_signature(statement.seal, parse_certificate(leaf).public_key())
    return {"hash": statement.hash, "n": statement.seal.n, "index": statement.index}


def _seal_batch(given: Json) -> Json:
    texts = [
        f"{payload}.{path}.{given['jws']}" for payload, path in zip(given["payloads"], given["paths"], strict=True)
    ]
    answers = [_seal({"sealed": text, "leaf": given["leaf"]}) for text in texts]
    assert [each["index"] for each in answers] == list(range(len(texts)))
    x5t = thumbprint(unbase64(given["leaf"]))
    root, paths = build_tree([hash_statement(x5t, payload) for payload in given["payloads"]])
    assert [format_path(index, path) for index, path in enumerate(paths)] == given["paths"]
    return {"hashes": [each["hash"] for each in answers], "root": encode_b64url(root)}


def _binding(given: Json) -> Json:
    headers = [(name, value) for name, value in given["headers"]]
    rqb = bind_request(given["method"], given["target_uri"], headers, unbase64(given["body"]))
    return {"base": binding_base(given["method"], given["target_uri"], headers), "rqb": rqb}


def _folding(given: Json) -> Json:
    narrowings = [None if att is None else parse_narrowing(att, "att") for att in given["atts"]]
    authority = fold(parse_authority(given["auth"], "auth"), narrowings)
    authority.check_call(hop=given["hop"], now=given["now"], callee=given["own_id"], operations=given["operations"])
    return {"authority": authority_json(authority)}


def _receive(given: Json) -> Json:
    accepted = verify_request(read_request(given), read_receiver(given), read_state(given["state"]), given["now"])
    assert accepted.task is not None
    user = {} if accepted.behalf is None else {"user": user_json(accepted.behalf)}
    return user | {
        "cid": accepted.newest.record.cid,
        "hop": accepted.newest.record.hop,
        "path": [str(each) for each in accepted.path],
        "authority": authority_json(accepted.authority),
        "record": accepted.newest.hash,
        "task": accepted.task.to_json(),
    }


def user_json(behalf: Behalf) -> Json:
    obo = behalf.obo
    return {
        "iss": obo.iss,
        "sub": obo.sub,
        "typ": obo.typ,
        "txn": obo.txn,
        "exp": obo.exp,
        "verified": behalf.verified,
    }


def read_issuers(given: list[Json]) -> Issuers:
    found = [
        Issuer(
            each["issuer"],
            TokenType(each["type"]),
            frozenset(each["audience"]),
            None if each["jwks"] is None else parse_key_set(each["jwks"]),
            each.get("clients", {}),
        )
        for each in given
    ]
    return {(issuer.name, issuer.typ.value): issuer for issuer in found}


def _statement(given: Json) -> Json:
    statement = parse_statement(unbase64(given["payload"]), given["types"])
    return {"t": type_of(statement), "encoded": base64.b64encode(encode_statement(statement)).decode()}


def _kids(given: Json) -> Json:
    return {"kids": kids_to_json(kids_of(given["hashes"]))}


def _response_binding(given: Json) -> Json:
    headers = [(name, value) for name, value in given["headers"]]
    return {"base": response_base(given["status"], headers), "rsb": bind_response(given["status"], headers)}


def _sse(given: Json) -> Json:
    body, comment = split_event_stream(unbase64(given["body"]))
    return {"body": base64.b64encode(body).decode(), "comment": comment}


def sum_up(headers: list[list[str]], body: bytes) -> BodySum:
    """What a body behind this head came to."""
    is_messages = is_grpc([value for name, value in headers if name.lower() == "content-type"])
    rolling = RollingSum(MessageCounter() if is_messages else None)
    with contextlib.suppress(CustodyError):  # what is no message counts for nothing
        rolling.update(body)
    return rolling.sum()


def _streams(given: Json) -> Json:
    body = unbase64(given["body"])
    sums = set()
    for step in (1, 3, max(1, len(body))):
        rolling: RollingSum | FrameSum
        rolling = RollingSum(MessageCounter()) if given["kind"] == "grpc" else FrameSum(given["kind"] == "client")
        end = None
        for at in range(0, len(body), step):
            rolling.update(body[at : at + step])
            if step == 1 and end is None and isinstance(rolling, FrameSum) and rolling.is_closed:
                end = at + 1
        sums.add(rolling.sum())
        if step == 1:
            ends_at = end
    (total,) = sums
    return {"len": total.length, "cd": total.cd, "n": total.messages, "end": ends_at}


def _receipt_verify(given: Json) -> Json:
    response = Response(
        status=given["status"],
        headers=[(name, value) for name, value in given["headers"]],
        body=sum_up(given["headers"], unbase64(given["body"])),
        request=None if given["request"] is None else sum_up(given["request_headers"], unbase64(given["request"])),
        server_chain=tuple(map(unbase64, given["tls_server"])),
        trailers=[(name, value) for name, value in given["trailers"]],
        comment=given["comment"],
    )
    request, state = parse_sealed_record(given["record"]), read_caller_state(given["state"])
    receipt = verify_receipt(request, response, read_bundles(given["bundles"]), state, given["now"])
    if receipt is None:
        return dict.fromkeys(("receipt", "st", "fin", "kids", "dec"))
    outcome = receipt.sealed.claims.outcome
    return {
        "receipt": receipt.sealed.hash,
        "st": outcome.st,
        "fin": outcome.fin.value,
        "kids": kids_to_json(outcome.kids),
        "dec": outcome.dec,
    }


def _closing_verify(given: Json) -> Json:
    end = StreamEnd(
        body=sum_up(given["headers"], unbase64(given["body"])),
        trailers=[(name, value) for name, value in given["trailers"]],
        peer_chain=tuple(map(unbase64, given["tls_peer"])),
    )
    opening, state = parse_sealed_record(given["record"]), read_caller_state(given["state"])
    closing = verify_closing(opening, end, read_bundles(given["bundles"]), state, given["now"])
    return {"closing": closing.sealed.hash, "fin": closing.sealed.claims.fin.value}


def _evidence(given: Json) -> Json:
    evidence = parse_statement(unbase64(given["payload"]), ["att"])
    assert isinstance(evidence, EvidenceStatement)
    attestors = {
        TrustDomain.parse(name): [SpiffeId.parse(each) for each in ids] for name, ids in given["attestors"].items()
    }
    sub, x5t = SpiffeId.parse(given["sub"]), thumbprint(unbase64(given["leaf"]))
    return {"accepted": is_accepted(evidence, attestors, sub=sub, x5t=x5t, now=given["now"])}


def _errors(given: Json) -> Json:
    rule = RULES[Code(given["code"])]
    return {"http": rule.http, "grpc": rule.grpc, "retry": rule.retry.value}


def read_request(given: Json) -> Request:
    return Request(
        headers=[(name, value) for name, value in given["headers"]],
        body=unbase64(given["body"]),
        method=given["method"],
        target_uri=given["target_uri"],
        operations=tuple(given["operations"]),
        peer_chain=tuple(map(unbase64, given["tls_peer"] or ())),
    )


def read_receiver(given: Json) -> Receiver:
    policy = given["policy"]
    forbidden = set(policy["forbidden_on_path"])

    def among(patterns: list[str]) -> Callable[[SpiffeId], bool]:
        return lambda component: any(id_matches(pattern, str(component)) for pattern in patterns)

    return Receiver(
        own_id=SpiffeId.parse(given["own_id"]),
        own_leaves=frozenset(thumbprint(unbase64(der)) for der in given["own_leaves"]),
        bundles=read_bundles(given["bundles"]),
        accept_autonomous=among(policy["autonomous_roots"]),
        accept_path=lambda path: not any(str(each) in forbidden for each in path),
        issuers=read_issuers(given.get("issuers", [])),
        accept_unverified=among(policy.get("unverified_users", [])),
        accept_sealing=among(policy.get("sealing_gateways", [])),
        accept_streams=policy.get("streams", False),
        unsafe_allow_no_peer=given["allow_no_peer"],
    )


def read_bundles(given: Json) -> dict[TrustDomain, Bundle]:
    domains = {name: TrustDomain.parse(name) for name in given}
    return {domains[name]: Bundle(domains[name], tuple(map(unbase64, ders))) for name, ders in given.items()}


def read_caller_state(given: Json) -> CallerState:
    certificates = CertificateCache()
    for der in given["certs"]:
        certificates.add(unbase64(der), PEER)
    return CallerState(certificates)


def read_state(given: Json) -> ReceiverState:
    state = ReceiverState(replay=ReplayStore(given["replay_capacity"]), roots=RootIssuers())
    for der in given["certs"]:
        state.certificates.add(unbase64(der), PEER)
    for text in given["prefix"]:
        sealed = parse_sealed_record(text)
        state.prefixes.put(sealed.hash, Verified(sealed), PEER)
    for iss, jti, expires_at in given["replay"]:
        state.replay.use(SpiffeId.parse(iss), jti, expires_at, now=0)
    for cid, iss in given["roots"].items():
        state.roots.remember(cid, SpiffeId.parse(iss), now=2**40)
    return state


KINDS: dict[str, Callable[[Json], Json]] = {
    "base64url": _base64url,
    "claims": _claims,
    "seal": _seal,
    "seal_batch": _seal_batch,
    "binding": _binding,
    "folding": _folding,
    "jcs": _jcs,
    "receive": _receive,
    "statement": _statement,
    "kids": _kids,
    "response_binding": _response_binding,
    "sse": _sse,
    "streams": _streams,
    "receipt_verify": _receipt_verify,
    "closing_verify": _closing_verify,
    "evidence": _evidence,
    "errors": _errors,
}
